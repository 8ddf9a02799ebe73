"""A rounded cache agrees with a plain loop that reads token after token with a cache."""

from __future__ import annotations

import pytest
import torch
from support import causal_families, families, plain
from support.workshop import (
    WINDOWS,
    agree,
    bench_of,
    carried_out,
    doubled,
    planned,
    runner_of,
    swept,
    unchanged,
)
from transformers import DynamicCache
from transformers.cache_utils import QuantizedLayer

from pytest_layerguard.interventions import rounding
from pytest_layerguard.measurement.generation import generate, greedy
from pytest_layerguard.measurement.sweep import evaluations
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import InterventionError, Plan
from pytest_layerguard.models.runner import Runner

ARGUMENTS: list[dict[str, object]] = [
    {"bits": 4, "group_size": 3},
    {"bits": 3, "residual": 5},
    {"bits": 2, "group_size": 4, "keys": "channel", "residual": 3, "layers": [1, 3]},
]
SCORED_BY_DISTANCE = ("bloom", "mpt")
"""Families whose attention adds to each score by how far apart its positions are, beside the mask."""
PLAIN = [
    {"to": plain.in_steps(4, 3)},
    {"to": plain.in_steps(3), "exact": 5},
    {"to": plain.in_steps(2, 4), "exact": 3, "group": 4, "layers": [1, 3]},
]
"""The same, for the plain loop."""


@pytest.mark.parametrize(
    "family", families.each(name for name in families.FAMILIES if name not in SCORED_BY_DISTANCE)
)
def test_a_rounded_cache_agrees_with_a_loop_over_tokens(family: str) -> None:
    model = doubled(family)
    runner = Runner(Anatomy.of(model))
    copies = [plain.with_rounded_cache(model, **each) for each in PLAIN]
    prompt = families.text(5, 2)
    with unchanged(model):
        plans = [planned(runner, "quantize_kv_cache", each)[0] for each in ARGUMENTS]
        result = swept(runner, *plans)
        texts = generate(runner, plans, [prompt], 4, greedy)
    for index, changed in enumerate(copies):
        agree(result, index, model, changed)
    assert texts == [[plain.continued(changed, prompt, 4, [])] for changed in copies]
    assert texts == generate(runner, plans, [prompt], 4, greedy, cached=False)


def test_layers_that_are_not_named_share_the_prefix_of_the_base() -> None:
    (plan,) = planned(runner_of("llama"), "quantize_kv_cache", {"bits": 8, "layers": 2})
    assert evaluations([Plan.untouched(4), plan]) == 4 + 2


def test_it_equals_the_cache_of_transformers_by_the_same_rounding() -> None:
    class Levels(QuantizedLayer):
        def _quantize(self, tensor: torch.Tensor, axis: int) -> torch.Tensor:
            del axis
            return rounding.to_levels(tensor, 4)

        def _dequantize(self, tensor: torch.Tensor) -> torch.Tensor:
            return tensor

    model, ids = families.model("llama"), torch.tensor([families.text(16)])
    cache = DynamicCache()
    # With a residual of one it rounds at each token all that came before.
    cache.layers = [Levels(residual_length=1) for _ in range(4)]
    rows = [model(input_ids=token, cache=cache, use_cache=True).logits for token in ids.split(1, 1)]
    runner = runner_of("llama")
    (plan,) = planned(runner, "quantize_kv_cache", {"bits": 4, "residual": 1})
    frame = runner.begin(ids)
    state = frame.start
    for step in plan.steps:
        with runner.bound(step.slot, step.weights):
            state = runner.step(frame, step.slot, state)
    torch.testing.assert_close(
        runner.logits(runner.finish(frame, state)[0]), torch.cat(rows, 1)[0], rtol=1e-4, atol=1e-4
    )


def test_training_reads_a_rounded_cache_and_keeps_it() -> None:
    runner = runner_of("llama")
    train = ("train", {"steps": 2, "text": {"reference": "training"}, "batch": 1, "lr": 1e-3})
    (plan,) = carried_out(bench_of(runner), ("quantize_kv_cache", {"bits": 3}), train)
    assert all(step.weights.edits[0].running is not None for step in plan.steps)
    own, made = runner.layer_tensors(0), runner.materialise(plan.steps[0].weights)
    assert not torch.equal(own["self_attn.k_proj.weight"], made["self_attn.k_proj.weight"])


def planned_on(family: str, /, **arguments: object) -> tuple[Runner, Plan]:
    sizes = {"attn_layer_period": 2, "attn_layer_offset": 1} if family == "jamba" else {}
    runner = Runner(Anatomy.of(causal_families.model(family, **sizes)))
    (plan,) = planned(runner, "quantize_kv_cache", {"bits": 4, **arguments})
    return runner, plan


def test_layers_that_read_what_others_keep_read_it_rounded() -> None:
    runner, plan = planned_on("gemma3n_text")
    assert [len(step.weights.edits) for step in plan.steps] == [1, 1, 0, 0]
    model = runner.anatomy.model
    wanted = plain.losses(plain.with_rounded_cache(model, plain.in_steps(4)), WINDOWS).mean()
    (scores,) = swept(runner, plan).variants
    assert float(scores.losses.double().mean()) == pytest.approx(float(wanted), abs=1e-5)


def test_layers_without_attention_are_left_as_they_are() -> None:
    _, plan = planned_on("jamba")
    assert [len(step.weights.edits) for step in plan.steps] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("family", "arguments", "why"),
    [
        ("mamba", {}, "layer 0, 1, 2, 3 keeps no keys and values of its own"),
        ("jamba", {"layers": [0, 1]}, "layer 0 keeps no keys and values of its own"),
        ("gemma3n_text", {"layers": 3}, "layer 3 keeps no keys and values of its own"),
        ("gemma3n_text", {"residual": 4}, "other layers keep.*allowed: keys: token, without resid"),
        ("bloom", {"residual": 4}, "layer 0 cannot be given other.*allowed: keys: token, without"),
        pytest.param(
            "deepseek_v4",
            {},
            "layer 0 has a cache of the model's own, DeepseekV4HCACache, from which it reads more",
            marks=pytest.mark.skipif(
                "deepseek_v4" not in causal_families.ALL, reason="transformers is too old"
            ),
        ),
    ],
)
def test_what_cannot_be_done_is_refused(
    family: str, arguments: dict[str, object], why: str
) -> None:
    with pytest.raises(InterventionError, match=f"quantize_kv_cache: .*{why}"):
        planned_on(family, **arguments)
