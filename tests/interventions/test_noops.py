"""What must change nothing changes nothing, bit for bit."""

from __future__ import annotations

import copy

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import families, plain
from support.workshop import (
    bench_of,
    carried_out,
    exactly_the_base,
    runner_of,
    swept,
)

from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.models.runner import Runner

UNHURRIED = settings(suppress_health_check=[HealthCheck.too_slow])
ANY = st.sampled_from(sorted(families.FAMILIES))
ALIKE = st.sampled_from(sorted(set(families.FAMILIES) - set(families.UNLIKE_LAYERS)))
PAIR = st.lists(st.integers(-4, 3), min_size=2, max_size=2, unique_by=lambda i: i % 4)
SCALES = st.one_of(
    st.just({"scale": "tensor"}),
    st.just({"scale": "row"}),
    st.sampled_from([2, 4, 8]).map(lambda size: {"scale": "group", "group_size": size}),
)


@UNHURRIED
@given(family=ANY, pair=PAIR)
def test_a_double_interchange(family: str, pair: list[int]) -> None:
    bench = bench_of(runner_of(family))
    exchange = ("interchange_layers", {"pairs": [pair]})
    assert carried_out(bench, exchange, exchange) == (Plan.untouched(4),)


@UNHURRIED
@given(family=ALIKE, pair=PAIR)
def test_a_replacement_by_oneself(family: str, pair: list[int]) -> None:
    runner = runner_of(family)
    bench = bench_of(runner)
    replace = ("replace_layers", {"pairs": [pair]})
    forward, backward = carried_out(bench, replace)
    # After a replacement both slots hold the same weights; replacing one by the other is by oneself.
    assert carried_out(bench, replace, onto=forward) == (forward, forward)
    assert carried_out(bench, replace, onto=backward) == (backward, backward)
    base = Plan.untouched(4)
    (i, _) = pair
    own = base.weights_at(i % 4)
    assert own is not None
    exactly_the_base(swept(runner, base.rebound({i % 4: own})))


@UNHURRIED
@given(family=ANY, scale=SCALES)
def test_a_ternary_model_made_ternary(family: str, scale: dict[str, object]) -> None:
    runner = runner_of(family)
    bench = bench_of(runner)
    ternary = ("ternary_weights", scale)
    once, twice = (*carried_out(bench, ternary), *carried_out(bench, ternary, ternary))
    made = {step.slot: runner.materialise(step.weights) for step in once.steps}
    model = plain.written(families.model(family), made)
    again = Runner(Anatomy.of(model))
    exactly_the_base(swept(again, *carried_out(bench_of(again), ternary)))
    result = swept(runner, once, twice)
    assert torch.equal(result.variants[0].losses, result.variants[1].losses)


@UNHURRIED
@given(scale=SCALES, seed=st.integers(0, 99), dtype=st.sampled_from([torch.bfloat16, torch.half]))
def test_a_ternary_model_of_few_bits(
    scale: dict[str, object], seed: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(seed)
    model = copy.deepcopy(families.model("llama")).to(dtype)
    runner = Runner(Anatomy.of(model))
    ternary = ("ternary_weights", scale)
    (once,) = carried_out(bench_of(runner), ternary)
    (twice,) = carried_out(bench_of(runner), ternary, ternary)
    for one, two in zip(once.steps, twice.steps, strict=True):
        first, second = runner.materialise(one.weights), runner.materialise(two.weights)
        assert all(torch.equal(first[name], second[name]) for name in first)


@UNHURRIED
@given(
    family=ANY,
    by=st.sampled_from(["magnitude", "random"]),
    seed=st.integers(0, 2**32 - 1),
    parts=st.sampled_from(["linear", "experts"]),
)
def test_pruning_nothing(family: str, by: str, seed: int, parts: str) -> None:
    if family not in families.MIXTURES:
        parts = "linear"
    runner = runner_of(family)
    reported: dict[str, object] = {"sparsity": 0, "by": by, "seed": seed, "parts": parts}
    exactly_the_base(swept(runner, *carried_out(bench_of(runner), ("prune_weights", reported))))


@UNHURRIED
@given(family=st.sampled_from(families.MIXTURES), seed=st.integers(0, 99))
def test_averaging_experts_that_are_copies(family: str, seed: int) -> None:
    torch.manual_seed(seed)
    model = copy.deepcopy(families.model(family))
    for part, block in zip(Anatomy.of(model).parts, plain.layers_of(model), strict=True):
        state = block.state_dict()
        for bank in part.banks:
            for name in bank.fused:
                state[name].copy_(torch.randn_like(state[name][:1]).expand_as(state[name]) * 0.1)
    runner = Runner(Anatomy.of(model))
    bench = bench_of(runner)
    (plan,) = carried_out(bench, ("average_experts", {}))
    assert {found["variance"] for found in bench.notes()["expert_variance"].values()} == {0.0}
    exactly_the_base(swept(runner, plan))


def test_expert_variance_is_that_of_the_weights() -> None:
    bench = bench_of(runner_of("mixtral"))
    carried_out(bench, ("average_experts", {}))
    noted = bench.notes()["expert_variance"]
    for layer, block in enumerate(plain.layers_of(families.model("mixtral"))):
        experts = block.mlp.experts
        flat = torch.cat(
            [experts.gate_up_proj.flatten(1), experts.down_proj.flatten(1)], dim=1
        ).double()
        variance = ((flat - flat.mean(0)) ** 2).mean()
        assert abs(noted[str(layer)]["variance"] - variance) < 1e-7
        assert abs(noted[str(layer)]["relative"] - variance / (flat**2).mean()) < 1e-6
