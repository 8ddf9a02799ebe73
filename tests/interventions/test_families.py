"""Every family, every intervention: the measurer agrees with a plain loop over deep copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import families, plain
from support.workshop import (
    BATCHES,
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

from pytest_layerguard.bet.arguments import BUILTIN_KINDS
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.generation import generate, greedy
from pytest_layerguard.measurement.planning import Workbench
from pytest_layerguard.measurement.sweep import sweep
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Edit, InterventionError, Plan
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.texts.windows import Batch, batched

PROMPT = families.text(5, 2)


@pytest.mark.parametrize("family", families.OTHERS)
def test_all_at_once_agrees_with_deep_copies(family: str) -> None:
    """One sweep does here what the tests below do one by one; by default those run the representatives."""
    model, runner = families.model(family), runner_of(family)
    bench = bench_of(runner)

    def plan(kind: str, **reported: object) -> Plan:
        (made,) = carried_out(bench, (kind, reported))
        return made

    drawn = plan("reinitialize_layers", layers=2, seed=3)
    forward, backward = planned(runner, "replace_layers", {"pairs": [[1, 3]]})
    cases = [
        (Plan.untouched(4), model),
        (plan("skip_layers", layers=[0, 2]), plain.skipped(model, [0, 2])),
        (plan("zero_layers", layers=2, keep="none"), plain.zeroed(model, 2)),
        (drawn, plain.written(model, {2: runner.materialise(drawn.steps[2].weights)})),
        (plan("interchange_layers", pairs=[[1, 3]]), plain.exchanged(model, 1, 3)),
        (forward, plain.replaced(model, 1, 3)),
        (backward, plain.replaced(model, 3, 1)),
        (plan("prune_weights", sparsity=0.5), plain.pruned(model, 0.5)),
        (plan("ternary_weights", scale="row"), plain.rounded(model, "row", None, plain.absmean)),
        (
            plan("quantize_weights", bits=4, scale="group", group_size=8),
            plain.rounded(model, "group", 8, plain.nearest(4)),
        ),
    ]
    removed = plan("remove_layers", count=1, guided_by="block_influence")
    notes = bench.notes()
    assert list(notes["scores"].values()) == pytest.approx(
        plain.influence(model, WINDOWS), rel=1e-4, abs=1e-6
    )
    cases.append((removed, plain.skipped(model, notes["removed"])))
    if family in families.MIXTURES:
        mixtures = [index for index, parts in enumerate(runner.anatomy.parts) if parts.banks]
        cases.append((plan("average_experts"), plain.averaged(model, mixtures)))
        fewer = plan("drop_experts", count=1)
        dropped = {int(n): gone for n, gone in bench.notes()["dropped_experts"].items()}
        cases.append((fewer, plain.with_fewer_experts(model, dropped)))
    plans = [made for made, _ in cases]
    with unchanged(model):
        result = swept(runner, *plans)
        said = generate(runner, plans[:2], [PROMPT], 8, greedy, [2])
    for index, (_, changed) in enumerate(cases):
        agree(result, index, model, changed)
    assert all(float(scores.kl.mean()) > 1e-4 for scores in result.variants[1:])
    exactly_the_base(replace(result, variants=result.variants[:1]))
    assert said == [[plain.continued(changed, PROMPT, 8, [2])] for _, changed in cases[:2]]


@pytest.mark.parametrize("family", families.each())
def test_skipping_agrees_with_deep_copies(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    plans = [planned(runner, "skip_layers", {"layers": layer})[0] for layer in range(4)]
    both = planned(runner, "skip_layers", {"layers": [0, 2]})[0]
    result = swept(runner, *plans, both)
    for layer in range(4):
        agree(result, layer, model, plain.skipped(model, [layer]))
    agree(result, 4, model, plain.skipped(model, [0, 2]))


@pytest.mark.parametrize("family", families.each(families.MIXTURES))
def test_averaging_experts_agrees_with_deep_copies(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    (plan,) = planned(runner, "average_experts", {})
    mixtures = [index for index, parts in enumerate(runner.anatomy.parts) if parts.banks]
    assert mixtures
    with unchanged(model):
        result = swept(runner, plan)
    agree(result, 0, model, plain.averaged(model, mixtures))
    assert float(result.variants[0].kl.mean()) > 1e-4


@pytest.mark.parametrize("family", families.each())
def test_pruning_agrees_with_deep_copies(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    (plan,) = planned(runner, "prune_weights", {"sparsity": 0.5})
    with unchanged(model):
        result = swept(runner, plan)
    agree(result, 0, model, plain.pruned(model, 0.5))


@pytest.mark.parametrize("family", families.each(families.ALIKE))
def test_both_protocols_agree_with_deep_copies(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    (interchange,) = planned(runner, "interchange_layers", {"pairs": [[1, 2]]})
    forward, backward = planned(runner, "replace_layers", {"pairs": [[0, 3]]})
    with unchanged(model):
        result = swept(runner, interchange, forward, backward)
    agree(result, 0, model, plain.exchanged(model, 1, 2))
    agree(result, 1, model, plain.replaced(model, 0, 3))
    agree(result, 2, model, plain.replaced(model, 3, 0))


@pytest.mark.parametrize("family", families.UNLIKE_LAYERS)
def test_layers_of_different_structure_are_distinguished(family: str) -> None:
    runner = runner_of(family)
    plans = planned(runner, "interchange_layers", {"pairs": [[0, 1]]})
    with (
        unchanged(families.model(family)),
        pytest.raises(MeasurementError, match="does not fit slot"),
    ):
        swept(runner, *plans)


@pytest.mark.parametrize("family", families.each())
def test_doing_nothing_is_exactly_nothing(family: str) -> None:
    runner = runner_of(family)
    nothing = Plan.untouched(4)
    same = nothing.edited(
        {
            2: Edit(
                ("a copy of every tensor",),
                lambda tensors, _: {n: t.clone() for n, t in tensors.items()},
            )
        }
    )
    exactly_the_base(swept(runner, nothing, same))


@pytest.mark.parametrize("family", families.each())
def test_greedy_text_is_the_same_with_and_without_cache_and_by_hand(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    plans = [
        Plan.untouched(4),
        *(planned(runner, "skip_layers", {"layers": layer})[0] for layer in (0, 3)),
        *planned(runner, "prune_weights", {"sparsity": 0.3}),
    ]
    copies = [model, plain.skipped(model, [0]), plain.skipped(model, [3]), plain.pruned(model, 0.3)]
    prompts = [families.text(3, 1), families.text(5, 2), families.text(3, 3)]
    cached = generate(runner, plans, prompts, 12, greedy, [2])
    assert cached == generate(runner, plans, prompts, 12, greedy, [2], cached=False)
    for said, changed in zip(cached, copies, strict=True):
        assert said[0] == plain.continued(changed, prompts[0], 12, [2])
    assert all(2 not in text for said in cached for text in said)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3_moe"])
def test_the_text_model_is_found_inside_a_wrapper(family: str) -> None:
    assert Anatomy.of(families.model(family)).path == "model.layers"


def test_the_text_model_is_found_inside_a_multimodal_wrapper() -> None:
    model = families.multimodal()
    runner = Runner(Anatomy.of(model))
    assert runner.anatomy.path == "model.language_model.layers"
    (plan,) = planned(runner, "skip_layers", {"layers": 1})
    agree(swept(runner, plan), 0, model, plain.skipped(model, [1]))


def test_skipping_each_layer_makes_the_fewest_layer_evaluations() -> None:
    runner = runner_of("llama")
    batch = batched(WINDOWS[:2], 2)
    plans = [planned(runner, "skip_layers", {"layers": layer})[0] for layer in range(4)]
    before = runner.evaluations
    sweep(runner, batch, Plan.untouched(4), plans, families.VOCABULARY)
    assert runner.evaluations - before == 4 * (4 + 1) // 2


def test_all_pairs_of_both_protocols_make_the_fewest_layer_evaluations() -> None:
    layers = 4
    runner = runner_of("llama")
    batch = batched(WINDOWS[:2], 2)
    plans = [
        plan
        for i in range(layers)
        for j in range(i + 1, layers)
        for kind in ("replace_layers", "interchange_layers")
        for plan in planned(runner, kind, {"pairs": [[i, j]]})
    ]
    before = runner.evaluations
    sweep(runner, batch, Plan.untouched(layers), plans, families.VOCABULARY)
    assert runner.evaluations - before - layers == 2 * layers * (layers**2 - 1) // 3


def broken(_tensors: object, _parts: object) -> dict[str, Tensor]:
    raise InterventionError("broken on purpose")


KINDS: dict[str, Callable[[], dict[str, object]]] = {
    "skip_layers": lambda: {"layers": [1, 2]},
    "zero_layers": lambda: {"layers": 2},
    "reinitialize_layers": lambda: {"layers": 1, "seed": 3},
    "repeat_layers": lambda: {"layers": [0, 1]},
    "merge_layers": lambda: {"layers": 0},
    "replace_layers": lambda: {"pairs": [[1, 3]]},
    "interchange_layers": lambda: {"pairs": [[1, 3]]},
    "average_experts": dict,
    "drop_experts": lambda: {"count": 1},
    "merge_experts": lambda: {"count": 2},
    "ternary_weights": lambda: {"scale": "row"},
    "prune_weights": lambda: {"sparsity": 0.4, "by": "random"},
    "quantize_weights": lambda: {"bits": 4},
    "quantize_activations": lambda: {"bits": 8},
    "quantize_kv_cache": lambda: {"bits": 4, "residual": 2},
    "low_rank": lambda: {"rank": 4, "by": "activations"},
    "train": lambda: {"steps": 1, "text": {"reference": "training"}, "batch": 1},
}


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    family=st.sampled_from(sorted(families.FAMILIES)),
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=3),
    fails=st.booleans(),
)
def test_the_base_is_never_written_to(family: str, kinds: list[str], fails: bool) -> None:
    model = families.model(family)
    runner = runner_of(family)
    bench = Workbench(runner, BATCHES, families.VOCABULARY, lambda _: WINDOWS, lambda _: BATCHES)
    with unchanged(model):
        try:
            plans: tuple[Plan, ...] = (Plan.untouched(4),)
            for kind in kinds:
                reported = BUILTIN_KINDS[kind].model_validate(KINDS[kind]())
                carry_out = Registry.of()[kind].load()
                plans = tuple(made for plan in plans for made in carry_out(plan, reported, bench))
            if fails:
                plans = tuple(plan.edited({3: Edit(("broken",), broken)}) for plan in plans)
            swept(runner, *plans)
            generate(runner, plans, [families.text(3)], 3, greedy)
        except (InterventionError, MeasurementError):
            pass


def test_one_batch_reads_like_the_plain_loop() -> None:
    batch: Batch = BATCHES[0]
    assert batch.input_ids.shape == (2, 16)
    assert BATCHES[-1].input_ids.shape == (1, 8)
