"""Branches, repeated, merged and chosen layers agree with deep copies that are written to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from support import families, plain
from support.workshop import (
    BATCHES,
    OTHER_WINDOWS,
    WINDOWS,
    agree,
    bench_of,
    carried_out,
    planned,
    runner_of,
    swept,
    unchanged,
)

from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.generation import generate, greedy
from pytest_layerguard.measurement.measurer import LocalMeasurer
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import InterventionError, Plan
from pytest_layerguard.models.runner import Runner

PARALLEL = ("gpt_neox", "gptj", "falcon", "cohere")
"""Families whose feed-forward does not read what attention left."""
BRANCHED = pytest.mark.parametrize(
    "family", families.each(name for name in families.FAMILIES if name not in PARALLEL)
)
PROMPT = families.text(5, 2)
PARTS = ("attention", "feed_forward")


@BRANCHED
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


@BRANCHED
def test_both_branches_left_out_are_the_layer_left_out(family: str) -> None:
    runner = runner_of(family)
    both = carried_out(
        bench_of(runner), *(("skip_layers", {"layers": 2, "part": part}) for part in PARTS)
    )
    result = swept(runner, *both, *planned(runner, "skip_layers", {"layers": 2}))
    assert torch.equal(result.variants[0].losses, result.variants[1].losses)


@BRANCHED
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


@pytest.mark.parametrize("family", PARALLEL)
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


@pytest.mark.parametrize("family", families.each())
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


@pytest.mark.parametrize("family", families.each(families.ALIKE))
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
        ({"layers": [1, 0]}, "layer 1 has no 1 layer of its own after it"),
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


REMOVALS = """
id: removals
title: Removals
claim: Layers can be chosen in many ways.
status: proposed
model: reference
arms:
  swap: {remove_layers: {count: 2, guided_by: interchange}}
  copy: {remove_layers: {count: 2, guided_by: replacement}}
  influence: {remove_layers: {count: 3, guided_by: block_influence}}
  angle: {remove_layers: {count: 3, guided_by: angular_distance}}
  alone: {remove_layers: {count: 3, guided_by: perplexity}}
  diverged: {remove_layers: {count: 3, guided_by: kl}}
  sleb: {remove_layers: {count: 2, guided_by: perplexity, rescored: true, protect: [0, -1]}}
  block: {remove_layers: {count: 2, guided_by: angular_distance, contiguous: true}}
measure: {text: {reference: heldout}, tokens: 1024, window: 128}
criteria: {lenient: any(perplexity_ratio <= 3)}
"""
# By tests/experiments/removal_orders.py: the layers in the order in which they go, and the scores.
REMOVED = {
    "swap": ([1, 3], [8.680954088, 1.333914837, 1.333914837, 1.971093177]),
    "copy": ([1, 3], [9.871067243, 2.74457347, 2.74457347, 2.843757802]),
    "influence": ([2, 1, 0], [0.211106709, 0.104033472, 0.102807991, 0.250091406]),
    "angle": ([1, 2, 3], [0.235141701, 0.089430367, 0.109338173, 0.204824399]),
    "alone": ([2, 1, 3], [38516.536137198, 12.54553399, 8.139163282, 15.944555909]),
    "diverged": ([2, 1, 3], [9.842176428, 1.835928575, 1.443913933, 2.065974938]),
    "sleb": ([2, 1], [12.54553399, 8.139163282]),
    "block": ([1, 2], [0.265396033, 0.137175536, 0.219930613]),
}


def test_scores_and_orders_on_the_reference_model_are_those_of_plain_loops() -> None:
    (document,) = parse_bets(REMOVALS, Path("bets/removals.yaml"))
    result = LocalMeasurer(Conditions(), Registry.of()).measure(document, bets=Path("bets"))
    for variant in result.variants:
        order, wanted = REMOVED[str(variant.arm)]
        notes = variant.diagnostics
        scores = notes["scores"][0] if variant.arm == "sleb" else notes["scores"]
        assert notes.get("removed_in_order", notes["removed"]) == order
        assert list(scores.values()) == pytest.approx(wanted, rel=2e-5), variant.arm


def scored(family: str, **arguments: object) -> tuple[list[int], list[dict[str, float]]]:
    """The layers that go, in order, and the scores of each round."""
    bench = bench_of(runner_of(family))
    carried_out(bench, ("remove_layers", arguments))
    notes = bench.notes()
    rounds = notes["scores"] if arguments.get("rescored") else [notes["scores"]]
    return notes.get("removed_in_order", notes["removed"]), rounds


@BRANCHED
def test_layers_are_scored_again_without_those_that_are_gone(family: str) -> None:
    model = families.model(family)
    order, rounds = scored(family, count=2, guided_by="perplexity", rescored=True, protect=[0])
    gone: list[int] = []
    for layer, found in zip(order, rounds, strict=True):
        wanted = {
            str(each): float(
                plain.losses(plain.skipped(model, [*gone, each]), WINDOWS).mean().exp()
            )
            for each in (1, 2, 3)
            if each not in gone
        }
        assert found == pytest.approx(wanted, rel=1e-5)
        assert layer == min(map(int, wanted), key=lambda each: wanted[str(each)])
        gone.append(layer)
    _, again = scored(family, count=2, guided_by="block_influence", rescored=True)
    first = min(range(4), key=lambda each: again[0][str(each)])
    assert [*again[1].values()] == pytest.approx(
        plain.influence(plain.skipped(model, [first]), WINDOWS)[:first]
        + plain.influence(plain.skipped(model, [first]), WINDOWS)[first + 1 :],
        rel=1e-4,
        abs=1e-6,
    )


@BRANCHED
@pytest.mark.parametrize("score", ["block_influence", "angular_distance", "kl"])
def test_blocks_of_neighbours_agree_with_deep_copies(family: str, score: str) -> None:
    model = families.model(family)
    order, (found,) = scored(family, count=2, guided_by=score, contiguous=True, protect=[-1])
    if score == "kl":
        base, _ = plain.log_probabilities(model, WINDOWS)
        wanted = [
            plain.divergence(
                base, plain.log_probabilities(plain.skipped(model, [i, i + 1]), WINDOWS)[0]
            )
            for i in range(2)
        ]
    else:
        plainly = plain.influence if score == "block_influence" else plain.angular_distance
        wanted = plainly(model, WINDOWS, 2)[:2]
    assert list(found.values()) == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    assert order == ([0, 1] if wanted[0] <= wanted[1] else [1, 2])


def test_layers_are_scored_on_another_text_where_one_is_named() -> None:
    for score in ("interchange", "block_influence", "perplexity"):
        elsewhere = {"guided_by": score, "text": {"reference": "training"}}
        _, here = scored("llama", count=1, guided_by=score)
        _, there = scored("llama", count=1, **elsewhere)
        assert here != there
    _, (there,) = scored("llama", count=1, guided_by="perplexity", text={"reference": "training"})
    skipped = plain.skipped(families.model("llama"), [0])
    assert there["0"] == pytest.approx(
        float(plain.losses(skipped, OTHER_WINDOWS).mean().exp()), rel=1e-5
    )


def test_a_result_says_on_which_text_the_choice_was_made() -> None:
    guided = "{remove_layers: {count: 1, guided_by: kl, text: {reference: training}}}"
    bet = re.sub(
        r"arms:.*?measure", f"arms: {{a: {guided}, b: {guided}}}\nmeasure", REMOVALS, flags=re.S
    )
    (document,) = parse_bets(bet, Path("bets/removals.yaml"))
    result = LocalMeasurer(Conditions(), Registry.of()).measure(document, bets=Path("bets"))
    for variant in result.variants:
        chosen_on = variant.diagnostics["chosen_on"]
        (scored_on,) = result.provenance["checkpoints"][0]["texts"]
        assert chosen_on.keys() == scored_on.keys() - {"name"}
        assert chosen_on["text"] != scored_on["text"]


def test_scores_of_layers_left_out_share_their_prefixes() -> None:
    runner = runner_of("llama")
    for plans, arguments in (
        (4 + 3 + 2 + 1, {"count": 1, "guided_by": "kl"}),
        # After layer 0 there is layer 3 alone, or layer 1 alone, which the base runs.
        (4 + 1, {"count": 2, "guided_by": "perplexity", "contiguous": True, "protect": [0]}),
    ):
        before = runner.evaluations
        planned(runner, "remove_layers", arguments)
        assert runner.evaluations - before == len(BATCHES) * plans


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"count": 3, "guided_by": "replacement"}, "3 layers with spacing above 1 cannot be taken"),
        ({"count": 3, "guided_by": "kl", "spacing": 2}, "3 layers with spacing above 1 cannot be"),
        ({"count": 3, "guided_by": "kl", "protect": [0, -1]}, "cannot be taken from 2"),
        (
            {"count": 3, "guided_by": "kl", "protect": 1, "contiguous": True},
            "3 layers in one block cannot be taken from 3",
        ),
    ],
)
def test_more_layers_than_the_rule_allows_are_refused(
    arguments: dict[str, object], why: str
) -> None:
    with pytest.raises(InterventionError, match=why):
        planned(runner_of("llama"), "remove_layers", arguments)


@pytest.mark.parametrize("before", ["skip_layers", "repeat_layers"])
def test_guided_removal_stands_first(before: str) -> None:
    steps = (before, {"layers": 1}), ("remove_layers", {"count": 1, "guided_by": "kl"})
    with pytest.raises(InterventionError, match="guided removal stands first in a list"):
        carried_out(bench_of(runner_of("llama")), *steps)
