"""Knocks at every closed door with every intervention, as somebody with a clean clone would.

    python tests/experiments/doors.py [--keep FOLDER] [MODEL...]

Clones this checkout as it is committed, writes each proposal there with `python -m pytest_layerguard new`, asks
`explain` and `--layerguard-ask`, and runs pytest on it. Each model is a column: the two embedded ones, a copy of
the narrow one with more than 1e8 parameters and the same function, and the folders given. Prints a Markdown table
of words and exit codes, and keeps whatever was printed in FOLDER. Exits with 1 if two of the three disagree on a
door, if a door of the catalogue was closed to nothing that was tried, or if the copy is not the same function.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from pytest_layerguard import reference
from pytest_layerguard.bet.arguments import BUILTIN_KINDS
from pytest_layerguard.cli.main import main as new

ROOT = Path(__file__).parents[2]
PADDED = "models/padded"
UNITS = 32_768
"""Feed-forward units of each expert of the copy: enough for more than 1e8 parameters."""
TOKENS = "1024"
ARMS = """\
arms:
  fewer: {drop_experts: {count: 1}}
  shorter: {skip_layers: {layers: 2}}
"""
ARMS_CRITERIA = """\
criteria:
  lenient: fewer.perplexity_ratio <= 3 and shorter.perplexity_ratio <= 3
"""
FEW_STEPS = "train: {steps: 2, text: {reference: training}}"
INSTEAD = {"train": FEW_STEPS}
"""What is proposed where a name alone would take long."""


@dataclass(frozen=True)
class Idea:
    """One row of the table: what is proposed, and against whom."""

    name: str
    intervention: str
    challenges: tuple[str, ...] = ()
    arms: bool = False
    alone: bool = False
    """Whether it is one intervention by its name, which `--layerguard-ask` can be asked about."""


OF_FILES = ("load_checkpoint", "load_results")
"""What asks for files that a name alone does not bring."""

IDEAS = (
    *(
        Idea(kind, INSTEAD.get(kind, kind), alone=True)
        for kind in BUILTIN_KINDS
        if kind not in OF_FILES
    ),
    Idea("skip_layers, then train", f"[skip_layers: {{layers: 2}}, {FEW_STEPS}]"),
    Idea(
        "quantize_weights, then ternary_weights",
        "[{quantize_weights: {bits: 8}}, {ternary_weights: {parts: experts}}]",
    ),
    Idea("arms: drop_experts, skip_layers", "drop_experts", arms=True),
    Idea("skip_layers, challenging bet-40", "skip_layers", ("bet-40",)),
    Idea("ternary_weights, challenging bet-13", "ternary_weights", ("bet-13",)),
    Idea("average_experts, challenging bet-38", "average_experts", ("bet-38",)),
    Idea(
        "average_experts, challenging all four",
        "average_experts",
        ("bet-38", "bet-38-wide", "bet-39", "bet-39-wide"),
    ),
)


@dataclass
class Clone:
    """A clean clone, and what was printed in it."""

    path: Path
    kept: Path
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    @classmethod
    def of(cls, path: Path, kept: Path) -> Clone:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(path)], check=True)
        clone = cls(path, kept)
        clone.environment |= {"PYTHONPATH": str(path), "OMP_NUM_THREADS": "1"}
        return clone

    def run(self, name: str, *arguments: str) -> tuple[int, str]:
        """Run a module as its user would; returns the exit code and all that was printed."""
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        (self.kept / f"{name}.txt").write_text(done.stdout, encoding="utf-8")
        return done.returncode, done.stdout


def pad(source: Path, target: Path) -> None:
    """Copy a model with so many more feed-forward units, all of zeros: the same function of its input."""
    shutil.copytree(source, target)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    more = UNITS - config["moe_intermediate_size"]
    config["moe_intermediate_size"] = UNITS
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = load_file(source / "model.safetensors")
    for name, tensor in tensors.items():
        if "experts." in name:
            wider = (0, more) if "down_proj" in name else (0, 0, 0, more)
            tensors[name] = torch.nn.functional.pad(tensor, wider)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def propose(clone: Clone, idea: Idea, model: str, id_: str) -> Path:
    """Write a proposal as its author would: by the command, and by an editor where that has no word for it."""
    file = Path("bets", f"{id_}.yaml")
    arguments = [str(file), "--model", model, "--intervention", idea.intervention]
    arguments += [each for one in idea.challenges for each in ("--challenges", one)]
    # The command itself, but not in a process of its own: there are as many as cells.
    with contextlib.chdir(clone.path), contextlib.redirect_stdout(io.StringIO()):
        code = new(["new", *arguments, "--tokens", TOKENS, "--no-input"])
    if code:
        raise SystemExit(f"{idea.name} on {model} cannot be proposed")
    if idea.arms:
        path = clone.path / file
        text = path.read_text(encoding="utf-8")
        text = re.sub(r"intervention:\n.*\n", ARMS, text)
        path.write_text(re.sub(r"criteria:.*", ARMS_CRITERIA, text, flags=re.DOTALL), "utf-8")
    return file


@dataclass
class Knock:
    """What came of one proposal, and whether all who answered agree."""

    id: str
    idea: Idea
    file: str
    seen: dict[str, Any] = field(default_factory=dict)
    explained: str = ""
    asked: str = ""
    code: int | None = None

    @property
    def crossed(self) -> tuple[str, ...]:
        return tuple(self.seen["crossed"])

    def __str__(self) -> str:
        by = f" by {', '.join(self.crossed)}" if self.crossed else ""
        return f"{self.seen['word']}{by}, {self.code}"

    def disagreements(self) -> Iterator[str]:
        """Yield where pytest, `explain` and `--layerguard-ask` do not say the same."""
        word, crossed = self.seen["word"], set(self.crossed)
        doors = set(re.findall(r"stands in the door that (\S+) closed", self.explained))
        unmeasured = word == "CROSSED" and not self.seen["variants"]
        if ("So it will not be measured: CROSSED" in self.explained) != unmeasured:
            yield "explain and pytest do not agree whether it is measured"
        if unmeasured and not doors >= crossed:
            yield f"explain names {doors}, pytest {crossed}"
        if not doors and "It stands in no closed door" not in self.explained:
            yield "explain names no door, nor says that there is none"
        if self.idea.alone and set(re.findall(r"(?m)^CLOSED by (\S+)", self.asked)) != doors:
            yield f"explain names {doors}, --layerguard-ask others"


def proposals(clone: Clone, model: str, column: int) -> list[Knock]:
    """Propose every idea on a model."""
    knocks = []
    for row, idea in enumerate(IDEAS):
        id_ = f"tried-{row}-{column}"
        knocks.append(Knock(id_, idea, str(propose(clone, idea, model, id_))))
    return knocks


def explain(clone: Clone, knocks: list[Knock], model: str) -> None:
    _, printed = clone.run(
        f"{Path(model).name}-explain", "pytest_layerguard", "explain", *files(knocks)
    )
    for each, said in zip(knocks, re.split(r"\n\n(?=tried-)", printed), strict=True):
        each.explained = " ".join(said.split())


def ask(clone: Clone, knocks: list[Knock], model: str) -> None:
    where = model if model in reference.NAMES else f"./{model}"
    alone = [each for each in knocks if each.idea.alone]
    questions = [f"--layerguard-ask={each.idea.name} on {where}" for each in alone]
    _, printed = clone.run(f"{Path(model).name}-ask", "pytest", "bets", *questions)
    for each, said in zip(alone, re.split(r"\n\n(?=\w+ on )", printed), strict=True):
        each.asked = said


def judge(clone: Clone, knocks: list[Knock], model: str) -> None:
    seen = clone.kept / f"{Path(model).name}.json"
    name = f"{Path(model).name}-pytest"
    clone.run(name, "pytest", *files(knocks), "--layerguard-json", str(seen))
    printed = json.loads(seen.read_text(encoding="utf-8"))["bets"]
    for each in knocks:
        (each.seen,) = (bet for bet in printed if bet["id"] == each.id)


def exit_codes(clone: Clone, knocks: list[Knock], outcome: str) -> None:
    """Run again those that passed, or those that failed: the exit code is then theirs."""
    same = [each for each in knocks if each.seen["outcome"] == outcome]
    code, _ = clone.run(outcome, "pytest", *files(same))
    for each in same:
        each.code = code


def files(knocks: list[Knock]) -> list[str]:
    return [each.file for each in knocks]


def doors(clone: Clone) -> dict[str, str]:
    """Every door of the catalogue but those of models that need a machine, and what it is closed to."""
    from pytest_layerguard.catalogue.bet_folders import Catalogue

    found = {}
    for entry in Catalogue.load([clone.path / "bets"]).doors:
        assert entry.closes is not None
        if entry.document.bet.needs is not None:
            continue
        kinds = ", ".join(entry.closes.interventions)
        found[entry.id] = f"{kinds} on `{entry.closes.models}`"
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--keep", type=Path)
    chosen = parser.parse_args()
    wrong = []
    with tempfile.TemporaryDirectory() as scratch:
        kept = (chosen.keep or Path(scratch, "said")).resolve()
        kept.mkdir(parents=True, exist_ok=True)
        clone = Clone.of(Path(scratch, "clone"), kept)
        closed = doors(clone)
        pad(reference.folder("reference"), clone.path / PADDED)
        models = [*reference.NAMES, PADDED]
        for model in chosen.models:
            models.append(f"models/{model.name}")
            shutil.copytree(model, clone.path / models[-1])
        found = {model: proposals(clone, model, place) for place, model in enumerate(models)}
        knocks = [each for column in found.values() for each in column]
        with ThreadPoolExecutor() as pool:
            started = [
                pool.submit(answer, clone, column, model)
                for model, column in found.items()
                for answer in (judge, explain, ask)
            ]
            for each in started:
                each.result()
            again = [pool.submit(exit_codes, clone, knocks, word) for word in ("passed", "failed")]
            for each in again:
                each.result()
    print(f"| proposal | {' | '.join(f'`{model}`' for model in models)} |")
    print(f"|---{'|---' * len(models)}|")
    for row, idea in enumerate(IDEAS):
        print(f"| {idea.name} | {' | '.join(str(knocks[row]) for knocks in found.values())} |")
    print()
    for door, what in closed.items():
        stood = [model for model, each in found.items() if any(door in one.crossed for one in each)]
        print(f"- {door} closes {what}: CROSSED on {', '.join(stood) or 'nothing'}")
        wrong += [] if stood else [f"{door} was closed to nothing"]
    one, other = (
        next(each.seen["base"]["perplexity"] for each in found[model] if each.seen["base"])
        for model in ("reference", PADDED)
    )
    print(f"- base perplexity of reference {one:.7g}, of {PADDED} {other:.7g}")
    if abs(one - other) > 1e-4 * one:
        wrong.append("the copy is not the same function")
    wrong += [f"{each.id}: {said}" for each in knocks for said in each.disagreements()]
    print(*(f"WRONG: {each}" for each in wrong), sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
