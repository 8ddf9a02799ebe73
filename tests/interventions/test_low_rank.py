"""Truncated matrices agree with a plain loop over deep copies."""

from __future__ import annotations

import pytest
import torch
from support import families, plain
from support.workshop import WINDOWS, agree, planned, runner_of, swept, unchanged

from pytest_layerguard.bet.arguments import LowRank


@pytest.mark.parametrize("family", families.each())
def test_truncation_agrees_with_deep_copies(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    reported: list[dict[str, object]] = [
        {"rank": 5},
        {"ratio": 0.5},
        {"rank": 5, "by": "activations"},
    ]
    with unchanged(model):
        plans = [planned(runner, "low_rank", each)[0] for each in reported]
        result = swept(runner, *plans)
    agree(result, 0, model, plain.truncated(model, None, lambda rows, columns: 5))
    half = plain.truncated(model, None, lambda r, c: max(int(0.5 * r * c / (r + c)), 1))
    agree(result, 1, model, half)
    agree(result, 2, model, plain.truncated(model, WINDOWS, lambda rows, columns: 5))


def test_a_matrix_of_no_higher_rank_stays_as_it_is() -> None:
    runner = runner_of("llama")
    (plan,) = planned(runner, "low_rank", {"rank": 32})
    own = runner.layer_tensors(0)
    assert all(
        torch.equal(made, own[name])
        for name, made in runner.materialise(plan.steps[0].weights).items()
    )


def test_a_ratio_is_of_the_numbers_of_the_factors() -> None:
    half = LowRank(ratio=0.5)
    assert half.rank_of(64, 64) == 16
    assert half.rank_of(172, 64) == int(0.5 * 172 * 64 / 236)
    assert LowRank(ratio=1e-6).rank_of(64, 64) == 1
    assert LowRank(rank=99).rank_of(64, 32) == 32
