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

from pytest_layerguard.measurement.generation import generate, greedy
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import InterventionError
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
