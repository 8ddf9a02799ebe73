"""Whole runs with this package's own measurer: measured, cached, recorded, and on two workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BET = """\
id: {id}
title: A bet
claim: It can go.
status: falsified
model: {model}
intervention: {intervention}
measure:
  text: {{reference: heldout}}
  tokens: 192
  window: 16
  sample: {{prompts: ["Once upon a time"], tokens: 4}}
criteria: {{lenient: all(perplexity_ratio <= 1)}}
closes: {{interventions: [remove_layers], models: parameters <= 1}}
"""

PROBE = """
import json, sys

def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        heavy = {"torch", "transformers", "numpy", "scipy"} & set(sys.modules)
        with open("heavy.json", "w") as file:
            json.dump(sorted(heavy), file)
"""


OPTIONS = ("--layerguard-device=cpu", "--layerguard-json=out.json")


class Catalogue:
    """Three bets on two models, and runs of them in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bets").mkdir()
        (folder / "conftest.py").write_text(PROBE, encoding="utf-8")
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        for id_, model, intervention in (
            ("skip", "reference", "{skip_layers: {layers: {each: all}}}"),
            ("swap", "reference", "{interchange_layers: {pairs: [[1, 2]]}}"),
            ("wide", "reference-wide", "{skip_layers: {layers: {each: [0]}}}"),
        ):
            text = BET.format(id=id_, model=model, intervention=intervention)
            (folder / "bets" / f"{id_}.yaml").write_text(text, encoding="utf-8")

    def run(self, *args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "bets", "-v", *OPTIONS, *args],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    @property
    def reported(self) -> list[dict[str, Any]]:
        report = json.loads((self.folder / "out.json").read_text(encoding="utf-8"))
        bets: list[dict[str, Any]] = report["bets"]
        return bets

    @property
    def heavy(self) -> list[str]:
        found: list[str] = json.loads((self.folder / "heavy.json").read_text(encoding="utf-8"))
        return found


def numbers(bets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**bet, "seconds": 0, "cached": False} for bet in bets]


@pytest.mark.usefixtures("measured")
def test_an_unchanged_catalogue_needs_no_model(pytester: pytest.Pytester) -> None:
    catalogue = Catalogue(pytester.path)
    assert pytester.runpytest("bets", *OPTIONS).ret == 0
    first = catalogue.reported
    assert [bet["cached"] for bet in first] == [False] * 3
    said = catalogue.run("--layerguard-record")
    assert catalogue.heavy == []
    assert numbers(catalogue.reported) == numbers(first)
    assert [(bet["cached"], bet["seconds"]) for bet in catalogue.reported] == [(True, 0.0)] * 3
    assert said.count(": CATASTROPHIC, kept") + said.count(": FALSIFIED, kept") == 3
    record = catalogue.folder / "bets" / "records" / "skip.json"
    result = json.loads(record.read_text(encoding="utf-8"))["result"]
    assert not result["cached"]
    # How long it took when it was measured: looking it up again is no measurement.
    assert result["seconds"] == pytest.approx(first[0]["seconds"], abs=1e-3)
    assert result["provenance"]["checkpoints"][0]["versions"]["torch"]
    assert pytester.runpytest("bets", *OPTIONS).ret == 0
    assert [bet["cached"] for bet in catalogue.reported] == [True] * 3


@pytest.mark.slow
def test_two_workers_and_another_choice_find_the_same_numbers(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path)
    catalogue.run()
    assert "torch" in catalogue.heavy
    first = catalogue.reported
    catalogue.run("--layerguard-fresh", "-n", "2")
    assert [bet["cached"] for bet in catalogue.reported] == [False] * 3
    assert numbers(catalogue.reported) == numbers(first)
    catalogue.run("--layerguard-fresh", "-k", "swap")
    assert numbers(catalogue.reported) == numbers(first[1:2])
