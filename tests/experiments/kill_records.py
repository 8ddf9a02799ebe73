"""Kills what writes records, at random moments, and looks at what is left.

    python tests/experiments/kill_records.py --kills 200              # a writer, and two at once
    python tests/experiments/kill_records.py --kills 200 --pytest     # pytest -n 2 --layerguard-record

Before each kill every record is there. After it every record must still be there, and be whole: what
was there before, or what was being written. Only processes that this script started are killed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.bet.verdict import Verdict
from pytest_layerguard.catalogue.records import FOLDER, Record, load_records, write_record
from pytest_layerguard.measurement.results import BaseResult, BetResult, Continuation, VariantResult

BET = """\
id: bet-{number}
title: Skip each layer
claim: At least one layer can be skipped at no more than 3x the perplexity.
status: falsified
model: reference
intervention: {{skip_layers: {{layers: {{each: all}}}}}}
measure: {{text: {{reference: heldout}}, tokens: 1024, window: 128}}
criteria: {{lenient: any(perplexity_ratio <= 3)}}
"""

MEASURER = """
import random, sys
sys.path.insert(0, {here!r})
from kill_records import result


class LocalMeasurer:
    def expect(self, documents):
        pass

    def measure(self, document, *, bets):
        return result(random.random())


def pytest_layerguard_measurer():
    return LocalMeasurer()
"""


def result(mark: float) -> BetResult:
    """Return a result of some hundred kilobytes that says `mark` at its beginning and its end."""
    spoken = tuple(Continuation("Once", f"{mark}", 1, tuple(range(4_000))) for _ in range(6))
    metrics = {"perplexity_ratio": Interval.point(5 + mark)}
    return BetResult(
        bases=(BaseResult(None, None, {"perplexity": Interval.point(9 + mark)}),),
        variants=(VariantResult("skip-0", "0", None, None, None, metrics, spoken),),
        tokens=1024,
        windows=8,
        descriptive=False,
        provenance={"mark": mark},
    )


def record(number: int, mark: float) -> Record:
    """Return a record of a bet."""
    (document,) = parse_bets(BET.format(number=number), Path("bet.yaml"))
    return Record.of(document.bet, Verdict.FALSIFIED, result(mark), bars={}, facts={}, before=None)


def write_for_ever(bets: Path, count: int) -> None:
    """Write record after record, each time with another mark, until killed."""
    known = [record(number, 0) for number in range(count)]
    while True:
        chosen = random.choice(known)
        write_record(bets, replace(chosen, result=result(random.random())))


def is_whole(found: Record) -> bool:
    """Whether a record says one mark throughout."""
    mark = found.result.provenance["mark"]
    variant = found.result.variants[0]
    same = variant.metrics["perplexity_ratio"].value == 5 + mark
    return same and {each.text for each in variant.samples} == {f"{mark}"}


def problems(bets: Path, count: int) -> list[str]:
    """Return what is wrong with the records."""
    records = load_records(bets)
    wanted = {f"bet-{number}" for number in range(count)}
    torn = [id_ for id_, found in records.found.items() if not is_whole(found)]
    return [
        *(f"broken: {text}" for text in records.broken.values()),
        *(f"lost: {id_}" for id_ in sorted(wanted - set(records.found) - set(records.broken))),
        *(f"of two writers: {id_}" for id_ in torn),
    ]


def left_behind(bets: Path) -> int:
    """Return how many temporary files there are: killed writers leave theirs."""
    return sum(path.suffix == ".tmp" for path in (bets / FOLDER).iterdir())


def kill_writers(bets: Path, count: int, writers: int, chance: random.Random) -> None:
    """Let so many processes write at once, and kill them at a random moment."""
    command = [sys.executable, __file__, "--write-to", str(bets), "--records", str(count)]
    started = [subprocess.Popen(command) for _ in range(writers)]
    before = newest(bets)
    while newest(bets) == before and all(each.poll() is None for each in started):
        time.sleep(0.002)
    wait(bets, chance, 0.1)
    ended = [each for each in started if each.poll() is not None]
    for each in started:
        if each not in ended:
            os.kill(each.pid, signal.SIGKILL)
        each.wait()
    if ended:
        raise SystemExit("a writer ended before it was killed")


def kill_pytest(project: Path, chance: random.Random) -> bool:
    """Run the bets with two workers, and kill them all at a random moment of their writing."""
    bets = project / "bets"
    command = [sys.executable, "-m", "pytest", "bets", "-n", "2", "-q", "--layerguard-record"]
    before = newest(bets)
    # A session of their own, so that workers die at the same moment and nobody else does.
    started = subprocess.Popen(
        command, cwd=project, start_new_session=True, stdout=subprocess.DEVNULL
    )
    while newest(bets) == before and started.poll() is None:
        time.sleep(0.002)
    wait(bets, chance, 0.4)
    in_time = started.poll() is None
    if in_time:
        os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    return in_time


def wait(bets: Path, chance: random.Random, longest: float) -> None:
    """Wait for a random time, and then, half of the time, until a record is just being written.

    Most of a writer's time goes by between two records, where nothing could be torn.
    """
    until = time.monotonic() + chance.uniform(0, longest)
    while time.monotonic() < until:
        time.sleep(0.001)
    if chance.random() < 0.5:
        until += 1
        while not left_behind(bets) and time.monotonic() < until:
            pass


def newest(bets: Path) -> int:
    """Return when a record was last put in place."""
    return (bets / FOLDER).stat().st_mtime_ns


def main() -> int:
    """Kill as often as was asked; the exit status says whether a record was torn or lost."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--records", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pytest", action="store_true")
    parser.add_argument("--write-to", type=Path)
    asked = parser.parse_args()
    if asked.write_to is not None:
        write_for_ever(asked.write_to, asked.records)
    chance = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        bets = project / "bets"
        bets.mkdir()
        for number in range(asked.records):
            (bets / f"{number}.yaml").write_text(BET.format(number=number))
            write_record(bets, record(number, 0))
        (project / "pytest.ini").write_text("[pytest]\n")
        here = str(Path(__file__).parent.resolve())
        (project / "conftest.py").write_text(MEASURER.format(here=here))
        killed, found, torn = 0, [], 0
        while killed < asked.kills:
            if asked.pytest:
                killed += kill_pytest(project, chance)
            else:
                kill_writers(bets, asked.records, 1 + killed % 2, chance)
                killed += 1
            found += problems(bets, asked.records)
            torn += left_behind(bets) > 0
            for path in (bets / FOLDER).glob(".*.tmp"):
                path.unlink()
    print(f"{killed} kills, {asked.records} records; {torn} kills were in the middle of a write")
    print(*(found or ["no record torn, lost or mixed"]), sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
