"""Arms and lists of interventions, from a bet's text to plans."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import families, plain
from support.workshop import agree, bench_of, carried_out, runner_of, swept

from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.environment.budget import Budget
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.planning import PlannedVariant, planned
from pytest_layerguard.models.runner import Runner

BET = """
id: arms
title: Arms
claim: One is better than the other.
status: proposed
model: reference
arms:
{arms}
measure:
  text: {{reference: heldout}}
  tokens: 1024
criteria:
  lenient: all(perplexity_ratio <= 3)
"""


def arms_of(family: str, arms: str) -> tuple[Runner, list[PlannedVariant]]:
    runner = runner_of(family)
    bet = parse_bets(BET.format(arms=arms), Path("bets/a.yaml"))[0].bet
    return runner, planned(bet, bench_of(runner), Registry.of(), Budget())


def test_each_arm_is_carried_out_by_itself() -> None:
    runner, arms = arms_of(
        "llama",
        "  one: {skip_layers: {layers: {each: [1, -1]}}}\n"
        "  two:\n    - prune_weights: {sparsity: 0.5}\n    - skip_layers: {layers: {each: [1, -1]}}\n"
        "  three: {replace_layers: {pairs: [[0, 2]]}}\n",
    )
    assert [(arm.arm, arm.name, arm.target) for arm in arms] == [
        ("one", "skip-1", "1"),
        ("one", "skip-3", "3"),
        ("two", "prune-magnitude-50-then-skip-1", "1"),
        ("two", "prune-magnitude-50-then-skip-3", "3"),
        ("three", "replace-0-2", "0-2"),
    ]
    assert [len(arm.plans) for arm in arms] == [1, 1, 1, 1, 2]
    alone = carried_out(bench_of(runner), ("skip_layers", {"layers": 1}))
    assert arms[0].plans == alone
    model = families.model("llama")
    result = swept(runner, *(plan for arm in arms for plan in arm.plans))
    for index, changed in enumerate(
        [
            plain.skipped(model, [1]),
            plain.skipped(model, [3]),
            plain.skipped(plain.pruned(model, 0.5), [1]),
            plain.skipped(plain.pruned(model, 0.5), [3]),
            plain.replaced(model, 0, 2),
            plain.replaced(model, 2, 0),
        ]
    ):
        agree(result, index, model, changed)


def test_an_arm_that_the_model_does_not_allow_is_named() -> None:
    with pytest.raises(MeasurementError, match="arm two: average_experts: layers 0, 1, 2, 3"):
        arms_of("llama", "  one: {skip_layers: {layers: 1}}\n  two: {average_experts: {}}\n")
    with pytest.raises(MeasurementError, match="arm one"):
        arms_of("llama", "  one: {skip_layers: {layers: 9}}\n")
