"""Experts that are dropped by REAP's score or merged agree with plain loops and deep copies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import families, plain
from support.workshop import (
    OTHER_WINDOWS,
    WINDOWS,
    agree,
    bench_of,
    carried_out,
    exactly_the_base,
    planned,
    runner_of,
    swept,
    unchanged,
)
from torch import Tensor

from pytest_layerguard.bet.arguments import BUILTIN_KINDS, Intervention
from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.catalogue.crossing.doors import kinds_in_effect, kinds_like
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.measurer import LocalMeasurer
from pytest_layerguard.models.plan import InterventionError, Plan

PLAIN_EXPERTS = pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "qwen2_moe-mixed"])
FUSED = pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "qwen2_moe-mixed"])
TRAINING = {"reference": "training"}


def mixtures(family: str) -> list[int]:
    return [index for index, parts in enumerate(runner_of(family).anatomy.parts) if parts.banks]


def saliency(family: str, layer: int, windows: plain.Windows) -> list[float]:
    sums, counts = [0.0] * 4, [0] * 4
    for hidden, chosen, weights, output in plain.routed(families.model(family), windows, layer):
        for state, experts, shares in zip(hidden, chosen, weights, strict=True):
            for expert, share in zip(experts.tolist(), shares.tolist(), strict=True):
                sums[expert] += share * float(output(expert, state).norm())
                counts[expert] += 1
    return [total / (count or 1) for total, count in zip(sums, counts, strict=True)]


@PLAIN_EXPERTS
def test_experts_of_the_lowest_saliency_are_dropped(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    bench = bench_of(runner)
    with unchanged(model):
        scores = bench.expert_saliency(bench_base(family))
        (plan,) = carried_out(bench, ("drop_experts", {"count": 1, "by": "reap"}))
        result = swept(runner, plan)
    dropped = {int(layer): each for layer, each in bench.notes()["dropped_experts"].items()}
    for layer in mixtures(family):
        wanted = saliency(family, layer, WINDOWS)
        assert scores[layer, "mlp"] == pytest.approx(wanted, rel=1e-4)
        assert dropped[layer] == {"mlp": [min(range(4), key=lambda expert: wanted[expert])]}
    agree(result, 0, model, plain.with_fewer_experts(model, dropped))


def bench_base(family: str) -> Plan:
    return Plan.untouched(len(runner_of(family).anatomy))


def linked(traits: list[Tensor], count: int) -> set[frozenset[int]]:
    """Groups by average linkage: the two groups join whose pairs are nearest on average."""
    groups = [[expert] for expert in range(len(traits))]

    def apart(one: list[int], other: list[int]) -> float:
        distances = [float((traits[i] - traits[j]).norm()) for i in one for j in other]
        return sum(distances) / len(distances)

    while len(groups) > count:
        pairs = [(i, j) for j in range(len(groups)) for i in range(j)]
        i, j = min(pairs, key=lambda pair: apart(groups[pair[0]], groups[pair[1]]))
        groups[i] += groups.pop(j)
    return {frozenset(group) for group in groups}


@FUSED
@pytest.mark.parametrize("by", ["output", "weights"])
@pytest.mark.parametrize("weighted", ["frequency", "uniform"])
def test_merged_experts_agree_with_deep_copies(family: str, by: str, weighted: str) -> None:
    model, runner = families.model(family), runner_of(family)
    bench = bench_of(runner)
    use = bench.expert_use(bench_base(family))
    arguments = {"count": 2, "by": by, "weighted": weighted}
    with unchanged(model):
        (plan,) = carried_out(bench, ("merge_experts", arguments))
        result = swept(runner, plan)
    noted = bench.notes()["merged_experts"]
    groups = {layer: noted[str(layer)]["mlp"] for layer in mixtures(family)}
    for layer, found in groups.items():
        parameters = dict(plain.layers_of(model)[layer].named_parameters())
        stacks = [tensor for name, tensor in parameters.items() if ".experts." in name]
        if by == "weights":
            traits = [
                torch.cat([stack[expert].flatten() for stack in stacks]).double()
                for expert in range(4)
            ]
            assert {frozenset(group) for group in found} == linked(traits, 2)
    counts = {
        layer: [1] * 4 if weighted == "uniform" else list(use[layer, "mlp"]) for layer in groups
    }
    agree(result, 0, model, plain.with_merged_experts(model, groups, counts))


@PLAIN_EXPERTS
def test_experts_are_alike_by_what_they_make_of_every_token(family: str) -> None:
    bench = bench_of(runner_of(family))
    outputs = bench.expert_outputs(bench_base(family))
    carried_out(bench, ("merge_experts", {"count": 2}))
    noted = bench.notes()["merged_experts"]
    for layer in mixtures(family):
        hidden = torch.cat(
            [each[0] for each in plain.routed(families.model(family), WINDOWS, layer)]
        )
        (*_, output) = next(plain.routed(families.model(family), WINDOWS, layer))
        means = [output(expert, hidden).mean(0) for expert in range(4)]
        torch.testing.assert_close(outputs[layer, "mlp"], torch.stack(means), rtol=1e-4, atol=1e-6)
        assert {frozenset(group) for group in noted[str(layer)]["mlp"]} == linked(means, 2)


@FUSED
def test_merging_into_one_is_averaging_and_into_all_is_nothing(family: str) -> None:
    runner = runner_of(family)
    plans = [
        planned(runner, kind, arguments)[0]
        for kind, arguments in (
            ("merge_experts", {"count": 1, "weighted": "uniform"}),
            ("average_experts", {}),
            ("merge_experts", {"count": 4}),
        )
    ]
    result = swept(runner, *plans)
    torch.testing.assert_close(result.variants[0].losses, result.variants[1].losses)
    exactly_the_base(replace(result, variants=result.variants[2:]))


def test_training_keeps_merged_experts_equal() -> None:
    runner = runner_of("mixtral")
    bench = bench_of(runner)
    train = ("train", {"steps": 2, "text": TRAINING, "batch": 1, "lr": 0.01})
    (plan,) = carried_out(bench, ("merge_experts", {"count": 2}), train)
    groups = bench.notes()["merged_experts"]["1"]["mlp"]
    experts = runner.materialise(plan.steps[1].weights)["mlp.experts.down_proj"]
    before = families.model("mixtral").model.layers[1].mlp.experts.down_proj
    for group in groups:
        assert all(torch.equal(experts[expert], experts[group[0]]) for expert in group)
    assert not torch.allclose(experts, before)


@pytest.mark.parametrize("by", ["frequency", "reap"])
def test_experts_are_scored_on_another_text_where_one_is_named(by: str) -> None:
    bench = bench_of(runner_of("mixtral"))
    source = BUILTIN_KINDS["drop_experts"].model_validate({"count": 1, "text": TRAINING}).texts[0]
    score = bench.expert_saliency if by == "reap" else bench.expert_use
    here, there = (score(bench_base("mixtral"), text) for text in (None, source))
    assert here != there
    if by == "reap":
        assert there[2, "mlp"] == pytest.approx(saliency("mixtral", 2, OTHER_WINDOWS), rel=1e-4)


def test_what_cannot_be_scored_or_merged_is_refused() -> None:
    for kind, arguments, why in (
        ("drop_experts", {"count": 1, "by": "reap"}, "drop_experts: cannot see which experts"),
        ("merge_experts", {"count": 1}, "merge_experts: cannot see which experts"),
        ("merge_experts", {"count": 9}, "has 4 experts, fewer than count 9"),
    ):
        with pytest.raises(InterventionError, match=why):
            planned(runner_of("jetmoe"), kind, arguments)


@pytest.mark.parametrize("by", ["output", "weights"])
def test_experts_merge_before_others_are_dropped_and_not_after(by: str) -> None:
    runner = runner_of("mixtral")
    steps = ("drop_experts", {"count": 1}), ("merge_experts", {"count": 2, "by": by})
    with pytest.raises(
        (InterventionError, MeasurementError), match="has lost experts to an intervention before"
    ):
        swept(runner, *carried_out(bench_of(runner), *steps))
    swept(runner, *carried_out(bench_of(runner), *reversed(steps)))


def test_experts_of_a_layer_that_is_left_out_are_not_scored() -> None:
    runner = runner_of("mixtral")
    skip = ("skip_layers", {"layers": 1})
    for kind in ("drop_experts", "merge_experts"):
        more = {"by": "reap"} if kind == "drop_experts" else {}
        (plan,) = carried_out(bench_of(runner), skip, (kind, {"count": 1, **more}))
        assert [step.slot for step in plan.steps if step.weights.edits] == [0, 2, 3]


def test_merging_all_into_one_stands_in_the_doors_of_averaging() -> None:
    def effects(**arguments: object) -> set[str]:
        reported = BUILTIN_KINDS["merge_experts"].model_validate(arguments)
        return {*kinds_in_effect(Intervention("merge_experts", reported))}

    assert effects(count=1, weighted="uniform") == {"merge_experts", "average_experts"}
    assert effects(count=1) == effects(count=2, weighted="uniform") == {"merge_experts"}
    assert {*kinds_like("average_experts")} == {"merge_experts", "average_experts"}


FIGURES = """
id: figures
title: Figures
claim: The figures are those that other tools have.
status: proposed
model: reference
arms:
  used_4: {drop_experts: {count: 4}}
  used_8: {drop_experts: {count: 8}}
  reap_4: {drop_experts: {count: 4, by: reap}}
  reap_8: {drop_experts: {count: 8, by: reap}}
  uniform: {merge_experts: {count: 1, weighted: uniform}}
  weighted: {merge_experts: {count: 1}}
measure: {text: {reference: heldout}, tokens: 8192, window: 128}
criteria: {lenient: any(perplexity_ratio <= 3)}
"""
WANTED = {
    "used_4": 1.945474,
    "used_8": 3.366803,
    "reap_4": 1.9482,
    "reap_8": 4.3933,
    "uniform": 11_493.41,
    "weighted": 9_615.24,
}


@pytest.mark.slow
def test_the_reference_model_loses_by_experts_what_it_loses_by_other_tools() -> None:
    (document,) = parse_bets(FIGURES, Path("bets/figures.yaml"))
    result = LocalMeasurer(Conditions(), Registry.of()).measure(document, bets=Path("bets"))
    for variant in result.variants:
        wanted = WANTED[str(variant.arm)]
        digits = len(f"{wanted}".partition(".")[2])
        assert round(variant.metrics["perplexity"].value, digits) == wanted, variant.arm
