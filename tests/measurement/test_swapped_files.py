"""What a real measurement says it was measured on, and what of it shows when a file is swapped."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from pytest_layerguard import reference
from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.catalogue.staleness import measured_on, stale_files, trained_on
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.measurer import LocalMeasurer

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_layerguard.measurement.results import BetResult

BET = """\
id: swapped
title: Skip, then train
claim: It holds.
status: proposed
model: {path: ../model}
intervention:
  - skip_layers: {layers: 2}
  - train: {steps: 1, batch: 1, text: {file: ../train.txt}}
measure: {text: {file: ../text.txt}, tokens: 256, window: 32}
criteria: {lenient: perplexity_ratio <= 3}
"""


def measured(bets: Path) -> BetResult:
    (document,) = parse_bets(BET, bets / "bet.yaml")
    return LocalMeasurer(Conditions(device="cpu"), Registry.of()).measure(document, bets=bets)


def test_every_file_that_is_swapped_shows(tmp_path: Path) -> None:
    bets = tmp_path / "bets"
    bets.mkdir()
    shutil.copytree(reference.folder("reference"), tmp_path / "model")
    text = reference.HELDOUT.read_text(encoding="utf-8")[:4_000]
    for name in ("text.txt", "train.txt"):
        (tmp_path / name).write_text(text, encoding="utf-8")
    before = measured(bets)
    assert measured_on(before)
    assert trained_on(before)
    assert stale_files(before, measured(bets)) == ()

    (tmp_path / "train.txt").write_text(text.upper(), encoding="utf-8")
    assert [each.split(":")[0] for each in stale_files(before, measured(bets))] == [
        "training text 0",
        "perplexity of the base",
    ]
    (tmp_path / "text.txt").write_text(text[1_000:], encoding="utf-8")
    weights = tmp_path / "model" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"] = torch.ones_like(tensors["model.norm.weight"])
    save_file(tensors, weights, {"format": "pt"})
    reported = stale_files(before, measured(bets))
    assert [each.split(":")[0] for each in reported] == [
        "weights",
        "text",
        "training text 0",
        "perplexity of the base",
    ]
    was, now = reported[-1].partition(": ")[2].split(" -> ")
    assert float(was) != float(now)
