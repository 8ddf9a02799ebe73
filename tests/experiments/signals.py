"""Sends signals to whole runs of pytest at any moment of them, and looks at what is left.

    python tests/experiments/signals.py --each 60      # so many of each signal, a third with two workers

A run records, caches and writes every report. It begins with nothing, or with what an earlier run
left; the moment is drawn from the whole of its time, or, every fourth time, is one at which a file is
being written. With two workers the signal goes to all processes, as Ctrl-C does, or to the controller
alone. After it every file must be whole, nothing of the earlier run may be lost, no process may be
left, and a plain run must say the same numbers as one that was never disturbed. Only processes that
this script started get a signal.

In every third run small models are loaded and measured. Most of that time is the import of torch, so
the others have a laboratory that measures nothing and says what it was told, a tenth of a second per
bet: more of their moments are of collecting, judging and writing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

from hub import tiny

from pytest_layerguard.catalogue.records import load_records
from pytest_layerguard.measurement.result_cache import ResultCache

BET: Final = """\
id: {id}
title: Skip each layer
claim: At least one layer can be skipped.
status: proposed
model: {model}
intervention: {{{does}}}
measure: {{text: {{file: ../text.txt}}, tokens: 1920, window: 48, max_base_perplexity: none}}
criteria: {{lenient: any(perplexity_ratio <= 1e6)}}
"""
STAND_IN: Final = """
import sys, time
sys.path.insert(0, {here!r})
from kill_records import result

from pytest_layerguard.pytest_plugin import bet_items


class Laboratory:
    def expect(self, documents):
        pass

    def measure(self, document, *, bets):
        time.sleep(0.1)
        return result(len(document.bet.id) / 100)


def pytest_layerguard_laboratory(config):
    remembering = bet_items.own_laboratory(config)
    remembering._opened = Laboratory()
    return remembering
"""
INTERVENTIONS: Final = {
    "skip": "skip_layers: {layers: {each: all}}",
    "round": "quantize_weights: {bits: 4}",
}
MODELS: Final = {
    False: {"one": "{path: ../models/one}", "other": "{path: ../models/other}"},
    True: {"one": "reference", "other": "reference-wide"},
}
QUIET: Final = "[pytest]\naddopts = -p no:hypothesispytest -p no:anyio\n"
REPORTS: Final = ("report.json", "report.html", "report.md")
MARK: Final = "LAYERGUARD_SIGNALS"
PATIENCE: Final = 180.0
"""Seconds after which a process that is still there is one that was left."""
Numbers = dict[str, Any]


@dataclass
class Found:
    """What was seen of one run that got a signal."""

    moment: str = ""
    code: int = 0
    traces: str = ""
    printed: str = ""
    problems: list[str] = field(default_factory=list)
    drafts: int = 0
    folders: int = 0
    gone: float = 0.0
    repeated: bool = False


def project(root: Path, *, stand_in: bool) -> None:
    """Make a project of four bets on two models."""
    (root / "bets").mkdir(parents=True)
    (root / "pytest.ini").write_text(QUIET)
    if stand_in:
        here = str(Path(__file__).parent.resolve())
        (root / "conftest.py").write_text(STAND_IN.format(here=here))
    chance = random.Random(0)
    letters = (chance.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(4_000))
    (root / "text.txt").write_text(" ".join(letters))
    for seed, (name, model) in enumerate(MODELS[stand_in].items()):
        if not stand_in:
            tiny.save(root / "models" / name, seed, num_hidden_layers=3)
        for kind, does in INTERVENTIONS.items():
            id_ = f"{name}-{kind}"
            text = BET.format(id=id_, model=model, does=does)
            (root / "bets" / f"{id_}.yaml").write_text(text)


def started(root: Path, mark: str, *args: str) -> subprocess.Popen[bytes]:
    """Start pytest on the bets, in a session of its own, with all that it prints in a file."""
    (root / "temporary").mkdir(exist_ok=True)
    environment = {**os.environ, MARK: mark, "TMPDIR": str(root / "temporary")}
    environment |= {"PYTHONUNBUFFERED": "1", "COLUMNS": "200"}
    # Compiled once, as an installed package is, wherever it lies.
    environment.setdefault("PYTHONPYCACHEPREFIX", str(root.parent / "compiled"))
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "pytest", "bets", "-v", "--layerguard-cache=cache"]
    with (root / "printed").open("wb") as printed:
        return subprocess.Popen(
            [*command, "--layerguard-device=cpu", *args],
            cwd=root,
            env=environment,
            stdout=printed,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def whole_run(workers: int) -> list[str]:
    """Return the arguments of a run that writes whatever can be written."""
    reports = [f"--layerguard-{Path(name).suffix[1:]}=out/{name}" for name in REPORTS]
    reports = [each.replace("-md=", "-markdown=") for each in reports]
    return [*reports, "--layerguard-record", "--layerguard-fresh", f"-n{workers}"]


def numbers(report: Path) -> Numbers:
    """Return base and variants of every bet that a JSON report tells of."""
    bets = json.loads(report.read_text(encoding="utf-8"))["bets"]
    return {each["id"]: [each["base"], each["variants"]] for each in bets if each["variants"]}


class Undisturbed:
    """Runs that get no signal: how long they take, what they say and what they leave."""

    @classmethod
    def of(cls, root: Path, stand_in: bool) -> Undisturbed:
        """Make a project, and run it."""
        project(root, stand_in=stand_in)
        return cls(root)

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seconds = {}
        for workers in (0, 2):
            begun = time.monotonic()
            if started(root, "", *whole_run(workers)).wait() != 0:
                raise SystemExit((root / "printed").read_text())
            self.seconds[workers] = time.monotonic() - begun
        self.numbers = numbers(root / "out" / "report.json")
        self.records = {id_: each.result for id_, each in load_records(root / "bets").found.items()}
        cache = ResultCache(root / "cache")
        self.kept = {path.stem: cache.find(f"sha256:{path.stem}") for path in kept(root)}
        if len(self.numbers) != 4 or len(self.records) != 4 or len(self.kept) != 4:
            raise SystemExit("an undisturbed run does not leave what it should")


def kept(root: Path) -> list[Path]:
    """Return the results in the cache."""
    return list((root / "cache").glob("*.json"))


def writing(root: Path) -> bool:
    """Whether a file is being written."""
    folders = (root / "bets" / "records", root / "cache", root / "out")
    return any(True for each in folders for _ in each.glob(".*.tmp"))


def moment(root: Path) -> str:
    """Return how far a run is, by what it has printed."""
    printed = (root / "printed").read_text(errors="replace")
    if "layerguard:" not in printed:
        return "start-up"
    if "collected " not in printed and "scheduling tests" not in printed:
        return "collection"
    if printed.count("LENIENT") < 4:
        return "measuring"
    return "ending"


def alive(mark: str) -> list[int]:
    """Return the processes that were started with this mark in their environment."""
    wanted, found = f"{MARK}={mark}\0".encode(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if wanted in (entry / "environ").read_bytes() + b"\0":
                    found.append(int(entry.name))
            except OSError:
                # Somebody else's, or gone in this moment.
                continue
    return found


@dataclass
class Trial:
    """One run, and when it gets which signal."""

    number: int
    signal: signal.Signals
    workers: int
    share: float
    at_write: bool
    everybody: bool
    stand_in: bool
    with_old: bool
    later: bool

    def run(self, usual: Undisturbed, root: Path) -> Found | None:
        """Run it; None if it ended before the moment came."""
        mark = f"{os.getpid()}-{self.number}-{random.getrandbits(32):08x}"
        leave_out = () if self.with_old else ("records", "cache", "out")
        ignored = shutil.ignore_patterns(".pytest_cache", "printed", "temporary", *leave_out)
        shutil.copytree(usual.root, root, ignore=ignored)
        before = {path: path.read_bytes() for path in outcome(root)}
        process = started(root, mark, *whole_run(self.workers))
        self._wait(process, usual.seconds[self.workers], root)
        if process.poll() is not None:
            return None
        found = Found(moment="writing" if writing(root) else moment(root))
        told_all = " passed in " in (root / "printed").read_text(errors="replace")
        (os.killpg if self.everybody else os.kill)(process.pid, self.signal)
        told = time.monotonic()
        try:
            found.code = process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            found.problems.append(f"did not end within {PATIENCE:g} seconds")
        if found.code == 0 and told_all:
            # It was over before the signal reached it, though not yet when it was last asked.
            return None
        left = alive(mark)
        while left and time.monotonic() - told < PATIENCE:
            time.sleep(0.05)
            left = alive(mark)
        found.gone = time.monotonic() - told
        if left:
            found.problems.append(f"{len(left)} processes were left")
        for each in left:
            os.kill(each, signal.SIGKILL)
        self._look(found, usual, root, before)
        if self.later:
            self._again(found, usual, root)
        return found

    def _wait(self, process: subprocess.Popen[bytes], seconds: float, root: Path) -> None:
        until = time.monotonic() + self.share * seconds
        if self.at_write:
            # The first to be written is some way on, and which one it is must not always be the same.
            until = time.monotonic() + 3 * seconds
            skipped = int(self.share * 12)
            was = False
            while process.poll() is None and time.monotonic() < until:
                now = writing(root)
                skipped -= now and not was
                was = now
                if now and skipped <= 0:
                    return
            return
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)

    def _look(
        self, found: Found, usual: Undisturbed, root: Path, before: dict[Path, bytes]
    ) -> None:
        found.printed = printed = (root / "printed").read_text(errors="replace")
        if "Traceback (most recent call last)" in printed:
            found.traces = printed
        found.problems += [f"lost: {path.name}" for path in before if not path.exists()]
        found.problems += broken(root, usual)
        found.drafts = sum(path.suffix == ".tmp" for path in root.rglob("*"))
        found.folders = sum(1 for _ in (root / "temporary").iterdir())
        if not self._documented(found):
            found.problems.append(f"exit code {found.code} ({found.moment})")
        if self.signal is signal.SIGINT and found.drafts:
            found.problems.append("a temporary file was left")
        if found.moment in ("collection", "measuring") and "pytest_layerguard" in found.traces:
            found.problems.append(f"a traceback of ours ({found.moment})")

    def _documented(self, found: Found) -> bool:
        """Whether it ended as it should.

        Before pytest has its plugins and once it writes its reports, an interrupt is Python's to answer.
        """
        if self.signal is not signal.SIGINT:
            return found.code == -self.signal
        outside = found.moment in ("start-up", "writing", "ending")
        return found.code == 2 or (found.code in (-2, 130) and outside)

    def _again(self, found: Found, usual: Undisturbed, root: Path) -> None:
        found.repeated = True
        again = started(root, "", "--layerguard-json=out/after.json")
        if again.wait() != 0:
            found.problems.append("the next run fails")
        elif numbers(root / "out" / "after.json") != usual.numbers:
            found.problems.append("the next run says other numbers")


def outcome(root: Path) -> list[Path]:
    """Return all that a run has written for its user."""
    return [*kept(root), *(root / "bets" / "records").glob("*"), *(root / "out").glob("*")]


def broken(root: Path, usual: Undisturbed) -> list[str]:
    """Return which of the files that are there are not whole, or say something else than they should."""
    wrong = []
    records = load_records(root / "bets")
    wrong += [f"broken record: {text}" for text in records.broken.values()]
    for id_, record in records.found.items():
        if record.result.variants != usual.records[id_].variants:
            wrong.append(f"other numbers: record {id_}")
    cache = ResultCache(root / "cache")
    for path in kept(root):
        result = cache.find(f"sha256:{path.stem}")
        if result is None:
            wrong.append(f"broken: cache/{path.name}")
        elif result.variants != usual.kept[path.stem].variants:
            wrong.append(f"other numbers: cache/{path.name}")
    report, page, summary = (root / "out" / name for name in REPORTS)
    if report.exists():
        try:
            told = numbers(report)
        except (ValueError, KeyError):
            wrong.append("broken: report.json")
        else:
            wrong += [f"other numbers: {id_}" for id_ in told if told[id_] != usual.numbers[id_]]
    if page.exists():
        text = page.read_text(encoding="utf-8")
        if not text.lower().startswith("<!doctype") or not text.rstrip().endswith("</html>"):
            wrong.append("broken: report.html")
    if summary.exists():
        text = summary.read_text(encoding="utf-8")
        if not text.startswith("## ") or text.count("<details>") != text.count("</details>"):
            wrong.append("broken: report.md")
    return wrong


def trials(each: int, later: int, seed: int) -> list[Trial]:
    """Return so many trials of each signal, a third of them with two workers."""
    chance = random.Random(seed)
    made = []
    for which in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        for workers, count in ((0, each - each // 3), (2, each // 3)):
            for at in range(count):
                made.append(
                    Trial(
                        number=len(made),
                        signal=which,
                        workers=workers,
                        # One out of each equal part of the time: no phase is left out by chance.
                        share=(at + chance.random()) / count,
                        at_write=at % 4 == 3,
                        everybody=chance.random() < 0.5,
                        stand_in=at % 3 != 0,
                        with_old=chance.random() < 0.5,
                        later=chance.randrange(later) == 0,
                    )
                )
    chance.shuffle(made)
    # Those that load no model are ready first.
    return sorted(made, key=lambda trial: not trial.stand_in)


def tried(trial: Trial, usual: Undisturbed, folder: Path) -> Found:
    """Run a trial, earlier and earlier until it is not over before its signal comes."""
    root = folder / f"trial-{trial.number}"
    for _ in range(20):
        found = trial.run(usual, root)
        if found is not None:
            break
        trial.share *= 0.8
        shutil.rmtree(root)
    else:
        raise SystemExit("every run was over before its signal")
    if found.problems:
        print(f"{trial}\n  {found.moment}, {found.code}: {found.problems}", file=sys.stderr)
        print(found.printed[-3_000:], file=sys.stderr, flush=True)
    shutil.rmtree(root)
    return found


def table(found: list[tuple[Trial, Found]]) -> list[str]:
    """Return what there is to tell, a line for each signal and number of workers."""
    lines = [
        "| signal | workers | runs, with models | at start-up, collection, measuring, writing, the end | exit codes "
        "| Python's own tracebacks | hidden temporary files | temporary folders | all gone after "
        "| runs after it, all with the same numbers | problems |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    moments = ("start-up", "collection", "measuring", "writing", "ending")
    for which in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        for workers in (0, 2):
            mine = [f for trial, f in found if (trial.signal, trial.workers) == (which, workers)]
            real = sum(
                not trial.stand_in
                for trial, _ in found
                if (trial.signal, trial.workers) == (which, workers)
            )
            if not mine:
                continue
            when = Counter(each.moment for each in mine)
            codes = Counter(each.code for each in mine)
            cells = (
                which.name,
                workers or "none",
                f"{len(mine)}, {real}",
                ", ".join(str(when[each]) for each in moments),
                ", ".join(f"{code} ({count})" for code, count in sorted(codes.items())),
                sum(bool(each.traces) for each in mine),
                sum(each.drafts for each in mine),
                sum(each.folders for each in mine),
                f"{max(each.gone for each in mine):.1f} s",
                sum(each.repeated for each in mine),
                sum(len(each.problems) for each in mine),
            )
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def main() -> int:
    """Try as often as was asked; the exit status says whether anything was broken, lost or left."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--each", type=int, default=60)
    parser.add_argument("--later", type=int, default=1, help="a plain run after every Nth")
    parser.add_argument("--minutes", type=float, default=600, help="begin none after so long")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    # A shell lets what it starts in the background ignore interrupts, and so would all that we start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    found: list[tuple[Trial, Found]] = []
    until = time.monotonic() + 60 * asked.minutes
    with (
        tempfile.TemporaryDirectory(prefix="signals-") as folder,
        ThreadPoolExecutor(asked.jobs + 2) as pool,
    ):
        usual = {
            stand_in: pool.submit(Undisturbed.of, Path(folder) / f"usual-{stand_in}", stand_in)
            for stand_in in (True, False)
        }

        def one(trial: Trial) -> None:
            undisturbed = usual[trial.stand_in].result()
            if time.monotonic() > until:
                return
            found.append((trial, tried(trial, undisturbed, Path(folder))))
            print(f"\r{len(found)}", end="", file=sys.stderr, flush=True)

        with ThreadPoolExecutor(asked.jobs) as trying:
            list(trying.map(one, trials(asked.each, asked.later, asked.seed)))
    print(*table(found), sep="\n")
    return 1 if any(each.problems for _, each in found) else 0


if __name__ == "__main__":
    sys.exit(main())
