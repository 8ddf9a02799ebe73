"""Interventions on layers and weights agree with deep copies that are written to, on every family."""

from __future__ import annotations

import copy
from itertools import combinations

import pytest
import torch
from support import families, plain
from support.workshop import (
    WINDOWS,
    agree,
    bench_of,
    carried_out,
    log_probabilities,
    planned,
    runner_of,
    swept,
    unchanged,
)
from transformers import AutoModelForCausalLM, PreTrainedModel

from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.interventions.layers import in_order
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.runner import Runner

EVERY = pytest.mark.parametrize("family", families.each())
POST_NORMED = ("gemma2", "gemma3_text", "olmo2", "olmo3", "flex_olmo")
POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")


@EVERY
def test_zeroing_agrees_with_deep_copies_and_equals_skipping(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    (kept,) = planned(runner, "zero_layers", {"layers": 2})
    (bare,) = planned(runner, "zero_layers", {"layers": 2, "keep": "none"})
    (skipped,) = planned(runner, "skip_layers", {"layers": 2})
    with unchanged(model):
        result = swept(runner, kept, bare, skipped)
    keep = POST_NORMS if family in POST_NORMED else ()
    agree(result, 0, model, plain.zeroed(model, 2, keep))
    agree(result, 1, model, plain.zeroed(model, 2))
    agree(result, 2, model, plain.skipped(model, [2]))
    for scores in result.variants[:2]:
        # A residual branch whose last map is zero adds nothing: x + 0 is x, bit for bit.
        assert torch.equal(scores.losses, result.variants[2].losses)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_zeroing_keeps_the_norms_inside_the_residual_branch_alone(family: str) -> None:
    runner = runner_of(family)
    (plan,) = planned(runner, "zero_layers", {"layers": 1})
    made = runner.materialise(plan.steps[1].weights)
    left = {name for name, tensor in made.items() if tensor.is_floating_point() and tensor.any()}
    wanted = {f"{name}.weight" for name in POST_NORMS} if family in POST_NORMED else set()
    assert left == wanted


@EVERY
def test_reinitialising_draws_every_parameter_as_a_fresh_model_is_drawn(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    (plan,) = planned(runner, "reinitialize_layers", {"layers": 2, "seed": 5})
    (again,) = planned(runner, "reinitialize_layers", {"layers": 2, "seed": 5})
    (other,) = planned(runner, "reinitialize_layers", {"layers": 2, "seed": 6})
    made, same, differs = (
        runner.materialise(each.steps[2].weights) for each in (plan, again, other)
    )
    torch.manual_seed(1)
    # The whole model's construction, not a part of it, is what the draw must look like.
    fresh = AutoModelForCausalLM.from_config(copy.deepcopy(model.config)).float()
    fresh.requires_grad_(False)
    wanted = dict(plain.layers_of(fresh)[2].named_parameters())
    for name, old in plain.layers_of(model)[2].named_parameters():
        assert torch.equal(made[name], same[name]), name
        assert not torch.equal(made[name], old), name
        if float(wanted[name].std()) == 0:
            assert torch.equal(made[name], wanted[name]), name
            continue
        assert not torch.equal(made[name], differs[name]), name
        # A standard deviation of n draws is known to one part in sqrt(2n); five of those are allowed.
        n = wanted[name].numel()
        assert float(made[name].std() / wanted[name].std()) == pytest.approx(
            1, abs=5 * (2 / (2 * n)) ** 0.5
        ), name
        assert abs(float(made[name].mean())) < 5 * float(wanted[name].std()) / n**0.5, name
    with unchanged(model):
        result = swept(runner, plan)
    agree(result, 0, model, plain.written(model, {2: made}))


def test_a_multimodal_wrapper_is_drawn_by_its_text_decoders_initialiser() -> None:
    model = families.multimodal()
    runner = Runner(Anatomy.of(model))
    model.config.text_config.initializer_range, before = 0.5, 0.02
    try:
        (plan,) = planned(runner, "reinitialize_layers", {"layers": 0})
        made = runner.materialise(plan.steps[0].weights)
    finally:
        model.config.text_config.initializer_range = before
    assert float(made["self_attn.q_proj.weight"].std()) == pytest.approx(0.5, rel=0.1)
    assert not made["input_layernorm.weight"].any()


def test_drawing_leaves_the_random_state_alone() -> None:
    runner = runner_of("llama")
    (plan,) = planned(runner, "reinitialize_layers", {"layers": 0})
    torch.manual_seed(3)
    before = torch.get_rng_state()
    runner.materialise(plan.steps[0].weights)
    assert torch.equal(before, torch.get_rng_state())


ROUNDINGS = [
    ("ternary_weights", {"scale": "tensor"}, ("tensor", None, plain.absmean)),
    ("ternary_weights", {"scale": "row"}, ("row", None, plain.absmean)),
    ("ternary_weights", {"scale": "group", "group_size": 8}, ("group", 8, plain.absmean)),
    ("quantize_weights", {"bits": 8, "scale": "tensor"}, ("tensor", None, plain.nearest(8))),
    ("quantize_weights", {"bits": 4, "scale": "row"}, ("row", None, plain.nearest(4))),
    (
        "quantize_weights",
        {"bits": 4, "scale": "group", "group_size": 8},
        ("group", 8, plain.nearest(4)),
    ),
    # Neither 32 nor 48 inputs are groups of 7: the last group of a row is shorter.
    ("ternary_weights", {"scale": "group", "group_size": 7}, ("group", 7, plain.absmean)),
    (
        "quantize_weights",
        {"bits": 3, "scale": "group", "group_size": 7, "symmetric": False},
        ("group", 7, plain.nearest_with_zero_point(3)),
    ),
    ("quantize_weights", {"format": "mxfp4"}, ("group", 32, plain.nearest_mxfp4)),
]


@EVERY
def test_rounding_agrees_with_deep_copies(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    plans = [planned(runner, kind, reported)[0] for kind, reported, _ in ROUNDINGS]
    with unchanged(model):
        result = swept(runner, *plans)
    for index, (_, _, how) in enumerate(ROUNDINGS):
        agree(result, index, model, plain.rounded(model, *how))


@EVERY
def test_random_pruning_zeroes_so_many_weights_and_no_other(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    reported = {"sparsity": 0.3, "by": "random", "seed": 4}
    (plan,) = planned(runner, "prune_weights", reported)
    (other,) = planned(runner, "prune_weights", {**reported, "seed": 5})
    made = {step.slot: runner.materialise(step.weights) for step in plan.steps}
    changed = plain.written(model, made)
    blocks = zip(plain.layers_of(model), plain.layers_of(changed), strict=True)
    for block, pruned in blocks:
        for (name, old), (_, new) in zip(
            plain.matrices(block), plain.matrices(pruned), strict=True
        ):
            gone = (new == 0) & (old != 0)
            assert int(gone.sum()) == int(0.3 * old.numel()), name
            assert torch.equal(new[~gone], old[~gone]), name
    with unchanged(model):
        result = swept(runner, plan, other)
    agree(result, 0, model, changed)
    assert not torch.equal(result.variants[0].losses, result.variants[1].losses)


@pytest.mark.parametrize("family", families.each(families.MIXTURES))
@pytest.mark.parametrize("count", [1, 2])
def test_dropping_experts_agrees_with_a_model_built_with_fewer(family: str, count: int) -> None:
    model, runner = families.model(family), runner_of(family)
    bench = bench_of(runner)
    (plan,) = carried_out(bench, ("drop_experts", {"count": count}))
    dropped = {int(layer): mixtures for layer, mixtures in bench.notes()["dropped_experts"].items()}
    with unchanged(model):
        result = swept(runner, plan)
    agree(result, 0, model, plain.with_fewer_experts(model, dropped))
    assert float(result.variants[0].kl.mean()) > 1e-4


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe", "olmoe", "qwen3_moe"])
def test_the_least_used_experts_are_those_that_the_model_says_it_chose_least(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    bench = bench_of(runner)
    carried_out(bench, ("drop_experts", {"count": 1}))
    dropped = bench.notes()["dropped_experts"]
    use = [torch.zeros(4) for _ in range(families.LAYERS)]
    for inputs, _ in WINDOWS:
        reported = model(input_ids=inputs.unsqueeze(0), output_router_logits=True, use_cache=False)
        for layer, scores in enumerate(reported.router_logits):
            chosen = scores.topk(model.config.num_experts_per_tok).indices
            use[layer] += torch.bincount(chosen.flatten(), minlength=4)
    for layer, counts in enumerate(use):
        # Of experts used equally often the last one goes.
        least = max(expert for expert in range(4) if counts[expert] == counts.min())
        assert dropped[str(layer)] == {"mlp": [least]}


def test_a_dropped_expert_has_no_share_of_the_routers_softmax() -> None:
    model, runner = families.model("qwen3_moe"), runner_of("qwen3_moe")
    bench = bench_of(runner)
    (plan,) = carried_out(bench, ("drop_experts", {"count": 1}))
    dropped = bench.notes()["dropped_experts"]
    masked = copy.deepcopy(model)
    for layer, block in enumerate(plain.layers_of(masked)):
        router = block.mlp.gate
        out = dropped[str(layer)]["mlp"]

        def forward(hidden: torch.Tensor, router: object = router, out: list[int] = out) -> object:
            logits = hidden.reshape(-1, hidden.shape[-1]) @ router.weight.T  # type: ignore[attr-defined]
            logits[:, out] = -torch.inf
            share, chosen = logits.softmax(-1).topk(1)
            return logits, share, chosen

        router.forward = forward
    agree(swept(runner, plan), 0, model, masked)


@pytest.mark.parametrize("family", families.each(families.ALIKE))
def test_guided_removal_agrees_with_scores_from_deep_copies(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    pairs = list(combinations(range(4), 2))
    base, _ = log_probabilities(model)

    def divergence(changed: PreTrainedModel) -> float:
        return plain.divergence(base, plain.log_probabilities(changed, WINDOWS)[0])

    replacement = {
        (i, j): max(
            divergence(plain.replaced(model, i, j)), divergence(plain.replaced(model, j, i))
        )
        for i, j in pairs
    }
    interchange = {(i, j): divergence(plain.exchanged(model, i, j)) for i, j in pairs}
    scores = {
        "replacement": [min(d for pair, d in replacement.items() if i in pair) for i in range(4)],
        "interchange": [min(d for pair, d in interchange.items() if i in pair) for i in range(4)],
        "block_influence": plain.influence(model, WINDOWS),
    }
    for guided_by, wanted in scores.items():
        bench = bench_of(runner)
        with unchanged(model):
            (plan,) = carried_out(bench, ("remove_layers", {"count": 2, "guided_by": guided_by}))
        notes = bench.notes()
        assert list(notes["scores"].values()) == pytest.approx(wanted, rel=1e-4, abs=1e-6)
        first = min(range(4), key=lambda layer: wanted[layer])
        apart = 0 if guided_by == "block_influence" else 1
        second = min(
            (layer for layer in range(4) if abs(layer - first) > apart), key=lambda i: wanted[i]
        )
        assert notes["removed"] == sorted([first, second])
        agree(swept(runner, plan), 0, model, plain.skipped(model, notes["removed"]))


@pytest.mark.parametrize("family", families.each(families.UNLIKE_LAYERS))
def test_a_model_of_unlike_layers_can_be_judged_by_block_influence(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    bench = bench_of(runner)
    (plan,) = carried_out(bench, ("remove_layers", {"count": 1, "guided_by": "block_influence"}))
    notes = bench.notes()
    assert list(notes["scores"].values()) == pytest.approx(
        plain.influence(model, WINDOWS), rel=1e-4, abs=1e-6
    )
    agree(swept(runner, plan), 0, model, plain.skipped(model, notes["removed"]))


@EVERY
def test_named_removal_is_skipping(family: str) -> None:
    runner = runner_of(family)
    (removed,) = planned(runner, "remove_layers", {"layers": [0, 3]})
    assert (removed,) == planned(runner, "skip_layers", {"layers": [0, 3]})


def test_removal_takes_the_lowest_scores_that_are_no_neighbours() -> None:
    scores = {0: 5.0, 1: 1.0, 2: 1.5, 3: 2.0, 4: 3.0, 5: 0.5}

    def picked(count: int, spacing: int = 2) -> list[int]:
        return in_order(lambda _: scores, count, spacing)

    assert sorted(picked(1)) == [5]
    assert sorted(picked(2)) == [1, 5]
    assert sorted(picked(3)) == [1, 3, 5]
    # No fourth is left that has no neighbour among these.
    assert sorted(picked(4)) == [1, 3, 5]
    assert picked(6, 1) == [5, 1, 2, 3, 4, 0]
    assert picked(3, 3) == [5, 1]
    assert in_order(lambda gone: {i: -i * len(gone) for i in range(6)}, 3, 1) == [0, 5, 4]


def test_a_layer_that_lost_experts_cannot_be_drawn_anew() -> None:
    runner = runner_of("mixtral")
    steps = ("drop_experts", {"count": 1}), ("reinitialize_layers", {"layers": 1})
    with pytest.raises(MeasurementError, match="layer 1 has lost experts"):
        swept(runner, *carried_out(bench_of(runner), *steps))
    swept(runner, *carried_out(bench_of(runner), *reversed(steps)))


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe", "gemma3_text", "qwen2_moe-mixed"])
def test_interventions_in_a_list_are_applied_in_order(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    prune, skip = ("prune_weights", {"sparsity": 0.5}), ("skip_layers", {"layers": 1})
    exchange = ("interchange_layers", {"pairs": [[1, 3]]})
    both = carried_out(bench_of(runner), prune, skip)
    assert both == carried_out(bench_of(runner), prune, skip)
    plans = [
        *both,
        *carried_out(bench_of(runner), skip, prune),
        *carried_out(bench_of(runner), exchange, ("zero_layers", {"layers": 1})),
    ]
    result = swept(runner, *plans)
    changed = plain.skipped(plain.pruned(model, 0.5), [1])
    agree(result, 0, model, changed)
    agree(result, 1, model, changed)
    # What layer 3's slot holds after the exchange is layer 1; zeroing slot 1 zeroes what stands there now.
    agree(result, 2, model, plain.zeroed(plain.exchanged(model, 1, 3), 1))


def test_pairs_are_scored_once_however_many_are_removed_by_them() -> None:
    runner = runner_of("llama")
    bench = bench_of(runner)
    carried_out(bench, ("remove_layers", {"count": 1, "guided_by": "replacement"}))
    before = runner.evaluations
    carried_out(bench, ("remove_layers", {"count": 2, "guided_by": "replacement"}))
    assert runner.evaluations == before
    carried_out(bench, ("remove_layers", {"count": 2, "guided_by": "interchange"}))
    assert runner.evaluations > before
