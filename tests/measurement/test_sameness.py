"""The same bits every time: alone or with others, in any order, in this process or in another."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.measurer import LocalMeasurer

BET = """\
id: bet-{number}
title: One of several
claim: It can be done.
status: proposed
model: {model}
intervention: {{{intervention}}}
measure:
  text: {{reference: heldout}}
  tokens: 600
  window: 64
  sample: {{prompts: [Once upon a time], tokens: 12}}
criteria: {{lenient: any(perplexity_ratio <= 3)}}
"""

BETS = [
    ("reference", "skip_layers: {layers: {each: all}}"),
    ("reference", "interchange_layers: {pairs: {each: adjacent}}"),
    ("reference-wide", "skip_layers: {layers: 1}"),
    ("reference", "prune_weights: {parts: linear, sparsity: 0.5, by: random, seed: 3}"),
    ("reference", "average_experts: {layers: all}"),
    (
        "reference",
        "train: {steps: 2, lr: 1e-4, optimizer: adamw, text: {reference: training}, batch: 2}",
    ),
]


def results(folder: Path, order: Sequence[int], *, expected: bool) -> dict[str, Any]:
    """What is measured of bets in an order; announced beforehand, they share what they can."""
    bets = folder / "bets"
    bets.mkdir(parents=True, exist_ok=True)
    documents = []
    for number in order:
        model, intervention = BETS[number]
        text = BET.format(number=number, model=model, intervention=intervention)
        documents += parse_bets(text, bets / f"{number}.yaml")
    measurer = LocalMeasurer(Conditions(device="cpu"), Registry.of())
    if expected:
        measurer.expect([(document, bets) for document in documents])
    found = {}
    for document in documents:
        result = measurer.measure(document, bets=bets).to_json()
        del result["seconds"]
        found[document.bet.id] = result
    return found


def digest(found: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Each bet by itself, in a measurer of its own."""
    folder = tmp_path_factory.mktemp("alone")
    found: dict[str, Any] = {}
    for number in range(len(BETS)):
        found |= results(folder, [number], expected=False)
    return found


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ([0, 1, 2, 3, 4, 5], True),
        ([3, 5, 0, 2, 4, 1], False),
    ],
)
def test_no_number_depends_on_what_else_is_measured(
    alone: dict[str, Any], order: list[int], expected: bool, tmp_path: Path
) -> None:
    found = results(tmp_path, order, expected=expected)
    for id_, result in alone.items():
        assert found[id_] == result, id_


@pytest.mark.slow
def test_two_processes_measure_the_same_bits(tmp_path: Path) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path / seed), order],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed, order in (("1", "0,4,5"), ("2", "5,0,4"))
    ]
    said = [each.communicate()[0] for each in running]
    assert len(said[0].strip()) == 64
    assert said[0] == said[1]


if __name__ == "__main__":
    print(
        digest(results(Path(sys.argv[1]), [int(n) for n in sys.argv[2].split(",")], expected=True))
    )
