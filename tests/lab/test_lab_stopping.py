"""Stopping early: what is told stays true, and what is saved is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pytest_layerguard.bet.reading import BetDocument, parse_bets
from pytest_layerguard.bet.verdict import judge
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.lab.conditions import Conditions
from pytest_layerguard.lab.errors import LabError
from pytest_layerguard.lab.laboratory import Laboratory
from pytest_layerguard.lab.results import BetResult
from pytest_layerguard.lab.stopping import anytime

BET = """\
id: stopping
title: Skip each layer
claim: One layer can be skipped.
status: proposed
model: reference
intervention:
  skip_layers: {{layers: {{each: all}}}}
measure:
  text: {{reference: heldout}}
  tokens: 8192
  window: 64
  stop: {stop}
criteria:
  lenient: {lenient}
"""
ANY = "any(perplexity_ratio <= 1.5)"


def measured(tmp_path: Path, stop: str, lenient: str = ANY) -> tuple[BetDocument, BetResult, int]:
    text = BET.format(stop=stop, lenient=lenient)
    (document,) = parse_bets(text, tmp_path / "bets" / "bet.yaml")
    laboratory = Laboratory(Conditions(device="cpu"), Registry.of())
    result = laboratory.measure(document, bets=tmp_path / "bets")
    assert laboratory.subject is not None
    return document, result, laboratory.subject.runner.evaluations


@pytest.mark.parametrize("stop", ["exact", "sequential"])
def test_a_stopped_bet_comes_to_the_same_verdict_for_less(tmp_path: Path, stop: str) -> None:
    document, whole, all_evaluations = measured(tmp_path, "none")
    _, early, evaluations = measured(tmp_path, stop)
    criteria = document.bet.criteria
    assert judge(criteria, early.rows()).verdict == judge(criteria, whole.rows()).verdict
    assert evaluations < all_evaluations
    notes = [variant.note for variant in early.variants]
    assert any(note and "stopped after" in note for note in notes)
    assert all(variant.note is None for variant in whole.variants)


def test_what_a_variant_lost_so_far_is_a_bound_on_what_it_loses(tmp_path: Path) -> None:
    _, whole, _ = measured(tmp_path, "none")
    _, early, _ = measured(tmp_path, "exact")
    for bound, value in zip(early.variants, whole.variants, strict=True):
        for metric in ("perplexity", "perplexity_ratio", "kl", "top1_agreement"):
            told, truth = bound.metrics[metric], value.metrics[metric].value
            assert told.low <= truth * (1 + 1e-9)
            assert told.high >= truth * (1 - 1e-9)


def test_a_variant_that_was_never_stopped_has_its_usual_interval(tmp_path: Path) -> None:
    never = "any(perplexity_ratio <= 1e9)"
    _, whole, _ = measured(tmp_path, "none", never)
    _, early, _ = measured(tmp_path, "exact", never)
    for ours, theirs in zip(early.variants, whole.variants, strict=True):
        assert ours.note is None
        assert ours.metrics["perplexity_ratio"].low == pytest.approx(
            theirs.metrics["perplexity_ratio"].low, rel=1e-6
        )


def test_a_criterion_over_all_variants_cannot_be_stopped(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="one variant at a time"):
        measured(tmp_path, "exact", "min(perplexity_ratio) <= 3")


def test_no_look_of_a_confidence_sequence_misses_the_mean_too_often() -> None:
    generator = torch.Generator().manual_seed(1)
    missed = 0
    for _ in range(400):
        drawn = torch.randn(64, generator=generator, dtype=torch.float64)
        drawn = drawn + 0.3 * torch.randn(64, generator=generator, dtype=torch.float64) ** 2 - 0.3
        looks = [anytime(drawn[:count], 64) for count in range(8, 65)]
        missed += any(not look.low <= 0 <= look.high for look in looks)
    # 5 % are allowed; 400 draws of a fair sequence give more than 8 % less than once in two hundred times.
    assert missed / 400 <= 0.08


def test_a_confidence_sequence_says_nothing_of_a_few_windows() -> None:
    look = anytime(torch.zeros(7), 64)
    assert (look.low, look.high) == (-torch.inf, torch.inf)
