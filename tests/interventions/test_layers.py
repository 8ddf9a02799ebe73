"""Branches, repeated, merged and chosen layers agree with deep copies that are written to."""

from __future__ import annotations

import pytest
import torch
from support import families, plain
from support.workshop import (
    BATCHES,
    agree,
    bench_of,
    carried_out,
    planned,
    runner_of,
    swept,
    unchanged,
)

from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement.generation import generate, greedy
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import InterventionError, Plan
from pytest_layerguard.models.runner import Runner

REPRESENTATIVES = pytest.mark.parametrize("family", families.REPRESENTATIVES)
PROMPT = families.text(5, 2)
PARTS = ("attention", "feed_forward")


@REPRESENTATIVES
def test_one_branch_left_out_agrees_with_deep_copies(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    plans = [planned(runner, "skip_layers", {"layers": [1, 2], "part": part})[0] for part in PARTS]
    with unchanged(model):
        result = swept(runner, *plans)
        continued = generate(runner, plans, [PROMPT], 8, greedy)
    for index, part in enumerate(PARTS):
        changed = plain.without_branch(model, [1, 2], part)
        agree(result, index, model, changed)
        assert continued[index] == [plain.continued(changed, PROMPT, 8, [])]


@REPRESENTATIVES
def test_both_branches_left_out_are_the_layer_left_out(family: str) -> None:
    runner = runner_of(family)
    both = carried_out(
        bench_of(runner), *(("skip_layers", {"layers": 2, "part": part}) for part in PARTS)
    )
    result = swept(runner, *both, *planned(runner, "skip_layers", {"layers": 2}))
    assert torch.equal(result.variants[0].losses, result.variants[1].losses)


@REPRESENTATIVES
@pytest.mark.parametrize("part", PARTS)
def test_a_branch_of_zeros_is_left_out(family: str, part: str) -> None:
    runner = runner_of(family)
    zeros = [
        planned(runner, "zero_layers", {"layers": 1, "part": part, "keep": keep})[0]
        for keep in ("none", "post_norms")
    ]
    result = swept(runner, *zeros, *planned(runner, "skip_layers", {"layers": 1, "part": part}))
    for scores in result.variants[:2]:
        assert torch.equal(scores.losses, result.variants[2].losses)
    kept = {
        name
        for name, tensor in runner.materialise(zeros[1].steps[1].weights).items()
        if name in runner.anatomy.parts[1].post_norms and tensor.any()
    }
    assert len(kept) == len(runner.anatomy.parts[1].post_norms)


@pytest.mark.parametrize("family", ["gpt_neox", "gptj", "falcon", "cohere"])
def test_parallel_blocks_are_refused(family: str) -> None:
    for part in PARTS:
        with pytest.raises(InterventionError, match=r"layer 2 is a parallel block: its feed-forw"):
            planned(runner_of(family), "skip_layers", {"layers": 2, "part": part})


def test_a_block_that_is_more_than_two_branches_is_refused() -> None:
    runner = runner_of("llama")
    block = runner.anatomy.layers[1]
    handle = block.register_forward_hook(lambda _, args, output: output * 2)
    try:
        with pytest.raises(InterventionError, match="zero_layers: part attention: layer 1 is more"):
            planned(runner, "zero_layers", {"layers": 1, "part": "attention"})
    finally:
        handle.remove()


def test_a_block_without_attention_is_refused() -> None:
    config = families.CONFIG_MAPPING["mamba"](
        vocab_size=families.VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4
    )
    model = families.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    with pytest.raises(InterventionError, match="layer 0 has no attention"):
        planned(Runner(Anatomy.of(model)), "skip_layers", {"layers": 0, "part": "attention"})


def test_sweeps_of_branches_share_their_prefixes() -> None:
    runner = runner_of("llama")
    plans = [
        planned(runner, "skip_layers", {"layers": layer, "part": part})[0]
        for layer in range(4)
        for part in PARTS
    ]
    batches = len(BATCHES)
    before = runner.evaluations
    swept(runner, *plans)
    # Each variant runs its own layer and those after it: 4 + 3 + 2 + 1, twice, and the base's four.
    assert runner.evaluations - before == batches * (2 * 10 + 4)


def test_training_does_not_bring_a_skipped_branch_back() -> None:
    runner = runner_of("llama")
    train = ("train", {"steps": 2, "text": {"reference": "training"}, "batch": 1, "lr": 0.01})
    (plan,) = carried_out(
        bench_of(runner), ("skip_layers", {"layers": 1, "part": "feed_forward"}), train
    )
    tensors = runner.materialise(plan.steps[1].weights)
    assert not any(tensor.any() for name, tensor in tensors.items() if name.startswith("mlp."))
    assert tensors["self_attn.q_proj.weight"].any()


@REPRESENTATIVES
def test_repeated_layers_agree_with_deep_copies(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    plans = [
        planned(runner, "repeat_layers", {"layers": layers, "times": times})[0]
        for layers, times in (([1], 2), ([0, 2], 3))
    ]
    copies = [plain.repeated(model, [1], 2), plain.repeated(model, [0, 2], 3)]
    base = Plan.untouched(4)
    with unchanged(model):
        result = swept(runner, *plans)
        continued = generate(runner, [base, *plans], [PROMPT], 8, greedy)
    for index, changed in enumerate(copies):
        agree(result, index, model, changed)
        assert continued[1 + index] == [plain.continued(changed, PROMPT, 8, [])]
    assert continued[0] == [plain.continued(model, PROMPT, 8, [])]


def test_repeating_shares_what_runs_before_it() -> None:
    runner = runner_of("llama")
    plans = [planned(runner, "repeat_layers", {"layers": layer})[0] for layer in range(4)]
    before = runner.evaluations
    swept(runner, *plans)
    # After its layer has run once, with the base, each runs it again and then those after it.
    assert runner.evaluations - before == len(BATCHES) * (4 + 4 + 3 + 2 + 1)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2", "mixtral", "gpt_oss"])
def test_merged_layers_agree_with_deep_copies(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    plans = [
        planned(runner, "merge_layers", {"layers": layer, "count": count})[0]
        for layer, count in ((2, 1), (1, 2))
    ]
    with unchanged(model):
        result = swept(runner, *plans)
        continued = generate(runner, plans, [PROMPT], 8, greedy)
    for index, (layer, count) in enumerate(((2, 1), (1, 2))):
        changed = plain.merged(model, layer, count)
        agree(result, index, model, changed)
        assert continued[index] == [plain.continued(changed, PROMPT, 8, [])]


def test_merging_shares_what_runs_before_it() -> None:
    runner = runner_of("llama")
    plans = [planned(runner, "merge_layers", {"layers": layer})[0] for layer in range(3)]
    before = runner.evaluations
    swept(runner, *plans)
    assert runner.evaluations - before == len(BATCHES) * (4 + 3 + 2 + 1)


def test_layers_merge_with_what_interventions_before_made_of_the_others() -> None:
    runner = runner_of("llama")
    prune, merge = ("prune_weights", {"sparsity": 0.5}), ("merge_layers", {"layers": 1})
    (plan,) = carried_out(bench_of(runner), prune, merge)
    assert [step.slot for step in plan.steps] == [0, 1, 3]
    made = runner.materialise(plan.steps[1].weights)["mlp.up_proj.weight"]
    # One layer taken up by the one before it leaves the sum of both less the first: the second.
    (pruned,) = carried_out(bench_of(runner), prune)
    wanted = runner.materialise(pruned.steps[2].weights)["mlp.up_proj.weight"]
    assert torch.allclose(made, wanted, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"layers": 3}, "layer 3 has no 1 layer of its own after it"),
        ({"layers": 1, "count": 3}, "layer 1 has no 3 layers of its own after it"),
        ({"layers": [0, 1]}, "layer 1 has no 1 layer of its own after it"),
    ],
)
def test_a_merge_without_layers_to_take_up_is_refused(
    arguments: dict[str, object], why: str
) -> None:
    with pytest.raises(InterventionError, match=why):
        planned(runner_of("llama"), "merge_layers", arguments)


def test_layers_that_are_built_differently_are_not_merged() -> None:
    runner = runner_of("deepseek_v3")
    with pytest.raises(MeasurementError, match="layers 0 and 1 are built differently"):
        swept(runner, *planned(runner, "merge_layers", {"layers": 0}))


@pytest.mark.parametrize("kind", ["repeat_layers", "merge_layers"])
def test_a_layer_that_was_left_out_is_neither_repeated_nor_merged(kind: str) -> None:
    steps = ("skip_layers", {"layers": 2}), (kind, {"layers": 2 if "repeat" in kind else 1})
    with pytest.raises(InterventionError, match="layer 2 was left out by an intervention before"):
        carried_out(bench_of(runner_of("llama")), *steps)
