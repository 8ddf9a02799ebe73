"""Experts and their routers, in every shape in which models keep them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from support import causal_families, family_matrix, plain
from support.workshop import carried_out
from transformers import PreTrainedModel

from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement.planning import Workbench
from pytest_layerguard.measurement.sweep import sweep
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.layer_parts import RouterChoice
from pytest_layerguard.models.plan import InterventionError, Plan
from pytest_layerguard.models.runner import Runner

EXPERTS = {"parts": "experts", "bits": 4, "scale": "row"}


def bench_of(model: PreTrainedModel) -> tuple[Runner, Workbench]:
    runner = Runner(Anatomy.of(model))
    batches = family_matrix.BATCHES
    return runner, Workbench(
        runner, batches, causal_families.VOCABULARY, lambda _: [], lambda _: batches
    )


def loss(runner: Runner, plan: Plan) -> float:
    base = Plan.untouched(len(runner.anatomy))
    found = sweep(runner, family_matrix.BATCHES, base, [plan], causal_families.VOCABULARY)
    return float(found.variants[0].losses.double().mean())


def with_fewer(model: PreTrainedModel, dropped: Mapping[str, Mapping[str, Sequence[int]]]) -> float:
    """The loss of the model that its configuration builds with fewer experts, given the rows that stay."""
    config = copy.deepcopy(model.config)
    (name,) = {"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"} & set(
        config.to_dict()
    )
    experts = getattr(config, name)
    gone = len(next(iter(next(iter(dropped.values())).values())))
    setattr(config, name, experts - gone)
    smaller = type(model)(config).eval().requires_grad_(False)
    state = model.state_dict()
    for key, tensor in smaller.state_dict().items():
        if tensor.shape != state[key].shape:
            layer = key.split("layers.")[1].split(".")[0]
            (out,) = dropped[layer].values()
            along = next(d for d, n in enumerate(tensor.shape) if n != state[key].shape[d])
            stay = [index for index in range(experts) if index not in out]
            state[key] = state[key].index_select(along, torch.tensor(stay))
    smaller.load_state_dict(state)
    return float(plain.losses(smaller, family_matrix.WINDOWS).mean())


def test_experts_that_are_kept_in_columns_without_saying_so() -> None:
    """Llama 4's: ``[experts, in, out]``, and one input far larger than the rest."""
    model = causal_families.model("llama4_text")
    for block in model.model.layers:
        block.feed_forward.experts.gate_up_proj[:, 3] *= 20
    runner, bench = bench_of(model)
    assert all(bank.transposed for parts in runner.anatomy.parts for bank in parts.banks)
    (plan,) = carried_out(bench, ("quantize_weights", EXPERTS))
    changed = copy.deepcopy(model)
    for block in changed.model.layers:
        experts = block.feed_forward.experts
        for matrix in (*experts.gate_up_proj, *experts.down_proj):
            matrix.T.copy_(plain.nearest(4)(matrix.T))
    wanted = plain.losses(changed, family_matrix.WINDOWS)
    assert loss(runner, plan) == pytest.approx(float(wanted.mean()), abs=1e-5)


@pytest.mark.parametrize(
    ("family", "transposed"),
    [("jetmoe", False), ("mixtral", False), ("gpt_oss", True), ("aria_text", True)],
)
def test_inputs_and_outputs_are_distinguished(family: str, transposed: bool) -> None:
    anatomy = Anatomy.of(causal_families.model(family))
    banks = [bank for parts in anatomy.parts for bank in parts.banks]
    assert {bank.transposed for bank in banks} == {transposed}


def test_experts_that_may_be_either_way_round_are_not_rounded_by_rows() -> None:
    model = causal_families.model("llama4_text", hidden_size=32, intermediate_size=32)
    for block in model.model.layers:
        experts = block.feed_forward.experts
        experts.gate_up_proj = torch.nn.Parameter(experts.gate_up_proj[..., :32].clone())
    layer = Anatomy.of(model).parts[0]
    (bank,) = layer.banks
    assert bank.transposed is None
    bench = bench_of_parts(model)
    (plan,) = carried_out(bench, ("quantize_weights", EXPERTS))
    with pytest.raises(InterventionError, match="cannot tell the inputs of"):
        plan.steps[0].weights.edits[0].apply(layer.tensors, layer)


def bench_of_parts(model: PreTrainedModel) -> Any:
    """What planning needs of a model that is not run."""
    anatomy = Anatomy.of(model)

    class Parts:
        layers = len(anatomy)

        def parts(self, layer: int) -> Any:
            return anatomy.parts[layer]

        def note(self, name: str, value: Any) -> None:
            pass

    return Parts()


def test_experts_in_a_form_that_is_not_known() -> None:
    """DBRX keeps all experts of a layer in one matrix."""
    runner, bench = bench_of(causal_families.model("dbrx"))
    layer = runner.anatomy.parts[0]
    assert layer.unknown_experts == tuple(f"ffn.experts.mlp.{name}" for name in ("w1", "v1", "w2"))
    assert "ffn.router.layer.weight" not in layer.linear
    for kind, arguments in (
        ("quantize_weights", EXPERTS),
        ("average_experts", {}),
        ("drop_experts", {"count": 1}),
    ):
        with pytest.raises(InterventionError, match=r"layer 0 keeps experts in a form that is not"):
            carried_out(bench, (kind, arguments))
    carried_out(bench, ("quantize_weights", EXPERTS | {"parts": "linear"}))
    touched = sum(layer.tensors[name].numel() for name in layer.linear)
    share = 1 - touched / sum(t.numel() for t in layer.tensors.values() if t.dim() > 1)
    assert bench.notes() == {"untouched_share": pytest.approx(share, abs=1e-4)}


@pytest.mark.parametrize("family", ["zaya", "inkling_text", "hunyuan_v1_moe", "mixtral"])
def test_no_matrix_of_a_router_is_a_linear_map(family: str) -> None:
    anatomy = Anatomy.of(causal_families.model(family))
    for parts in anatomy.parts:
        routing = {name for bank in parts.banks for name in bank.routing}
        assert routing
        assert not routing & set(parts.linear)


@pytest.mark.parametrize("family", ["zaya", "inkling_text"])
def test_a_router_with_more_than_a_row_for_each_expert_keeps_its_experts(family: str) -> None:
    _, bench = bench_of(causal_families.model(family))
    with pytest.raises(InterventionError, match="cannot take experts out of mlp"):
        carried_out(bench, ("drop_experts", {"count": 1}))


def test_a_correction_bias_that_is_a_row_loses_its_columns() -> None:
    """ERNIE's bias ``[1, experts]`` decides which experts are chosen."""
    model = causal_families.model("ernie4_5_moe")
    for block in model.model.layers[1:]:
        block.mlp.gate.moe_statics.e_score_correction_bias.copy_(torch.tensor([[0.0, 3, 0, 3]]))
    runner, bench = bench_of(model)
    (plan,) = carried_out(bench, ("drop_experts", {"count": 2}))
    wanted = with_fewer(model, bench.notes()["dropped_experts"])
    assert loss(runner, plan) == pytest.approx(wanted, abs=1e-5)


GROUPED = {"n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2}


@pytest.mark.parametrize("family", ["deepseek_v3", "glm4_moe"])
def test_each_group_loses_as_many_experts(family: str) -> None:
    model = causal_families.model(family, **GROUPED)
    runner, bench = bench_of(model)
    for count in (2, 4):
        (plan,) = carried_out(bench, ("drop_experts", {"count": count}))
        dropped = bench.notes()["dropped_experts"]
        for mixtures in dropped.values():
            (out,) = mixtures.values()
            assert [sum(each // 4 == group for each in out) for group in (0, 1)] == [count // 2] * 2
        assert loss(runner, plan) == pytest.approx(with_fewer(model, dropped), abs=1e-5)
    for count in (1, 3, 6):
        with pytest.raises(InterventionError, match=r"allowed for count: multiples of 2 up to 4"):
            carried_out(bench, ("drop_experts", {"count": count}))


@pytest.mark.parametrize(
    ("choice", "count", "problem"),
    [
        (RouterChoice(chosen=2), 2, None),
        (RouterChoice(chosen=2), 3, "would leave 1 of 4 experts, and the router chooses 2"),
        (RouterChoice(chosen=4), 1, "the router chooses 4 for each token; allowed: up to 0"),
        (RouterChoice(), 3, None),
        (RouterChoice(), 4, "would leave none of the 4 experts"),
        (RouterChoice(chosen=2, groups=2), 1, "multiples of 2 up to 0"),
    ],
)
def test_what_a_router_can_do_without(
    choice: RouterChoice, count: int, problem: str | None
) -> None:
    found = choice.problem(4, count)
    assert found is None if problem is None else problem in str(found)


def test_experts_are_dropped_once() -> None:
    model = causal_families.model("mixtral")
    runner, bench = bench_of(model)
    (plan,) = carried_out(bench, ("drop_experts", {"count": 1}), ("drop_experts", {"count": 1}))
    with pytest.raises(MeasurementError, match="drop all of them at once"):
        loss(runner, plan)
