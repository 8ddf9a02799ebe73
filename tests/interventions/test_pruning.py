"""Pruning by rows agrees with a plain loop over deep copies: N:M patterns, and Wanda with its calibration."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from support import families, plain
from support.workshop import (
    BATCHES,
    WINDOWS,
    agree,
    bench_of,
    calibration,
    carried_out,
    planned,
    runner_of,
    swept,
    unchanged,
)
from torch import Tensor

from pytest_layerguard.bet.text_sources import TextSource
from pytest_layerguard.measurement.planning import Workbench
from pytest_layerguard.models.plan import InterventionError
from pytest_layerguard.texts.windows import Batch


def least_of_all(scores: Tensor) -> Sequence[int]:
    """The places of the two fifths that a row loses."""
    order: list[int] = scores.argsort(stable=True).tolist()
    return order[: int(0.4 * len(order))]


def least_of_each_five(scores: Tensor) -> Sequence[int]:
    """The places that 3:5 loses: two of five, and what is left beyond three of a shorter group."""
    found = []
    for start in range(0, len(scores), 5):
        group = scores[start : start + 5]
        order = group.argsort(stable=True).tolist()
        found += [start + place for place in order[: max(len(group) - 3, 0)]]
    return found


@pytest.mark.parametrize("family", families.each())
def test_pruning_in_rows_agrees_with_deep_copies(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    reported: list[dict[str, object]] = [
        {"pattern": "3:5"},
        {"pattern": "3:5", "by": "wanda"},
        {"sparsity": 0.4, "by": "wanda"},
    ]
    with unchanged(model):
        plans = [planned(runner, "prune_weights", each)[0] for each in reported]
        result = swept(runner, *plans)
    agree(result, 0, model, plain.pruned_in_rows(model, None, least_of_each_five))
    agree(result, 1, model, plain.pruned_in_rows(model, WINDOWS, least_of_each_five))
    agree(result, 2, model, plain.pruned_in_rows(model, WINDOWS, least_of_all))


def test_a_random_pattern_leaves_so_many_of_each_row() -> None:
    runner = runner_of("llama")
    (plan,) = planned(runner, "prune_weights", {"pattern": "2:4", "by": "random"})
    for name, weight in runner.materialise(plan.steps[0].weights).items():
        if weight.dim() == 2:
            assert bool(((weight.unflatten(-1, (-1, 4)) != 0).sum(-1) == 2).all()), name


def test_wanda_prunes_what_stands_before_it_in_a_list() -> None:
    model, runner = families.model("llama"), runner_of("llama")
    skip = ("skip_layers", {"layers": 1})
    (plan,) = carried_out(
        bench_of(runner), skip, ("prune_weights", {"sparsity": 0.4, "by": "wanda"})
    )
    wanted = plain.pruned_in_rows(plain.skipped(model, [1]), WINDOWS, least_of_all)
    agree(swept(runner, plan), 0, model, wanted)


@torch.no_grad()
def test_wanda_weighs_by_the_inputs_of_every_run_of_a_layer() -> None:
    model, runner = families.model("llama"), runner_of("llama")
    (plan,) = carried_out(
        bench_of(runner),
        ("repeat_layers", {"layers": 1}),
        ("prune_weights", {"sparsity": 0.4, "by": "wanda", "layers": 1}),
    )
    wanted = plain.repeated(model, [1], 2)
    block = plain.layers_of(wanted)[1]
    given = plain.input_rows(block, wanted, WINDOWS)
    for name, matrix in plain.matrices(block):
        norm = torch.cat(given[name]).norm(dim=0)
        for row in matrix:
            row[list(least_of_all(row.abs() * norm))] = 0
    agree(swept(runner, plan), 0, model, wanted)


def test_wanda_of_some_layers_leaves_the_others() -> None:
    runner = runner_of("mixtral")
    reported = {"sparsity": 0.4, "by": "wanda", "parts": "experts", "layers": [1, 2]}
    (plan,) = planned(runner, "prune_weights", reported)
    assert [len(step.weights.edits) for step in plan.steps] == [0, 1, 1, 0]
    made = runner.materialise(plan.steps[1].weights)
    own = runner.layer_tensors(1)
    changed = {name for name in own if not torch.equal(own[name], made[name])}
    assert changed == set(runner.anatomy.parts[1].expert_weights)


def test_wanda_is_calibrated_once() -> None:
    def noting(text: TextSource) -> list[Batch]:
        bench.note("chosen_on", "another text")
        return calibration(text)

    bench = Workbench(runner_of("llama"), BATCHES, families.VOCABULARY, lambda _: WINDOWS, noting)
    text = {"reference": "training"}
    reported = ("prune_weights", {"sparsity": 0.4, "by": "wanda", "text": text})
    first = carried_out(bench, reported)
    assert bench.notes()["chosen_on"] == "another text"
    assert carried_out(bench, reported) == first
    assert bench.notes()["chosen_on"] == "another text"


def test_inputs_that_cannot_be_watched_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_of("llama")
    mlp = runner.anatomy.layers[0].mlp

    def forward(hidden: Tensor) -> Tensor:
        gate = torch.einsum("bth,ih->bti", hidden, mlp.gate_proj.weight)
        return mlp.down_proj(mlp.act_fn(gate) * mlp.up_proj(hidden))  # type: ignore[no-any-return]

    monkeypatch.setattr(mlp, "forward", forward)
    with pytest.raises(InterventionError, match=r"cannot see what mlp.gate_proj.weight is"):
        planned(runner, "prune_weights", {"sparsity": 0.4, "by": "wanda"})
