"""Rounded activations agree with a plain loop over deep copies."""

from __future__ import annotations

import pytest
import torch
from support import families, plain
from support.workshop import (
    agree,
    bench_of,
    carried_out,
    doubled,
    planned,
    runner_of,
    swept,
    unchanged,
)
from torch import Tensor

from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement.generation import generate, greedy
from pytest_layerguard.measurement.sweep import evaluations
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.models.runner import Runner


def fp8(values: Tensor) -> Tensor:
    """Round each token to E4M3, its largest magnitude to 448."""
    scale = values.abs().amax(-1, keepdim=True) / 448
    return (values / scale).to(torch.float8_e4m3fn).float() * scale


@pytest.mark.parametrize("family", families.each())
def test_rounding_activations_agrees_with_deep_copies(family: str) -> None:
    model = doubled(family)
    runner = Runner(Anatomy.of(model))
    reported: list[dict[str, object]] = [{"bits": 8}, {"format": "fp8"}]
    with unchanged(model):
        plans = [planned(runner, "quantize_activations", each)[0] for each in reported]
        result = swept(runner, *plans)
        (said,) = generate(runner, plans[:1], [families.text(5, 2)], 4, greedy)
    eight = plain.with_rounded_inputs(model, plain.nearest(8))
    agree(result, 0, model, eight)
    agree(result, 1, model, plain.with_rounded_inputs(model, fp8))
    assert said == [plain.continued(eight, families.text(5, 2), 4, [])]


def test_experts_alone_leave_what_else_a_layer_multiplies() -> None:
    model = doubled("mixtral")
    runner = Runner(Anatomy.of(model))
    (plan,) = planned(runner, "quantize_activations", {"bits": 4, "parts": "experts"})
    changed = plain.with_rounded_inputs(model, plain.nearest(4), linear=False)
    agree(swept(runner, plan), 0, model, changed)


def test_layers_that_are_not_named_share_the_prefix_of_the_base() -> None:
    (plan,) = planned(runner_of("llama"), "quantize_activations", {"bits": 8, "layers": 2})
    assert evaluations([Plan.untouched(4), plan]) == 4 + 2


def test_averaged_experts_are_given_rounded_inputs_too() -> None:
    runner = runner_of("mixtral")
    average = ("average_experts", {})
    (before,) = carried_out(bench_of(runner), average)
    reported = ("quantize_activations", {"bits": 3, "parts": "experts"})
    (after,) = carried_out(bench_of(runner), average, reported)
    one, other = swept(runner, before, after).variants
    assert not torch.equal(one.losses, other.losses)


def test_training_runs_with_rounded_inputs_and_keeps_them() -> None:
    runner = runner_of("llama")
    rounded = ("quantize_activations", {"bits": 4})
    train = ("train", {"steps": 2, "text": {"reference": "training"}, "batch": 1, "lr": 1e-3})
    (plan,) = carried_out(bench_of(runner), rounded, train)
    assert all(step.weights.edits[0].running is not None for step in plan.steps)
    own, made = runner.layer_tensors(0), runner.materialise(plan.steps[0].weights)
    assert not torch.equal(own["self_attn.q_proj.weight"], made["self_attn.q_proj.weight"])


def test_inputs_that_cannot_be_watched_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = runner_of("llama")
    mlp = runner.anatomy.layers[0].mlp

    def forward(hidden: Tensor) -> Tensor:
        gate = torch.einsum("bth,ih->bti", hidden, mlp.gate_proj.weight)
        return mlp.down_proj(mlp.act_fn(gate) * mlp.up_proj(hidden))  # type: ignore[no-any-return]

    monkeypatch.setattr(mlp, "forward", forward)
    with pytest.raises(
        MeasurementError, match=r"cannot see what mlp.gate_proj.weight of layer 0 is"
    ):
        swept(runner, *planned(runner, "quantize_activations", {"bits": 8}))
