"""A variant that is written is what transformers loads, or it is not written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import causal_families, plain
from transformers import AutoModelForCausalLM, PreTrainedModel

from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement.planning import PlannedVariant
from pytest_layerguard.measurement.sanity_checks import check_written, predictions
from pytest_layerguard.measurement.variant_export import write_variant
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Edit, Plan, Step, Weights
from pytest_layerguard.models.runner import Runner

IDS = torch.tensor([causal_families.text(24)])


def write(model: PreTrainedModel, plan: Plan, folder: Path) -> None:
    tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
    session: Any = SimpleNamespace(
        runner=Runner(Anatomy.of(model)),
        loaded=SimpleNamespace(model=model, tokenizer=tokenizer),
        release_layers=lambda: None,
    )
    variant = PlannedVariant(None, "drawn", "1", ("skip_layers",), (plan,), {})
    write_variant(session, variant, folder, IDS, "")


def without(layer: int) -> Plan:
    layers = range(causal_families.LAYERS)
    return Plan(tuple(Step(each, Weights(each)) for each in layers if each != layer))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


# Lists of a configuration that speak of every layer (rotary positions or none), and lists of indices of layers.
@pytest.mark.parametrize(
    ("family", "changed"), [("smollm3", {}), ("qwen3_moe", {"mlp_only_layers": [2]})]
)
def test_a_list_of_a_configuration_keeps_what_speaks_of_the_layers_left(
    family: str, changed: dict[str, Any], tmp_path: Path
) -> None:
    model = causal_families.model(family, **changed)
    write(model, without(1), tmp_path / "made")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "made").eval()
    assert torch.equal(logits(found), logits(plain.skipped(model, [1])))


def test_what_depends_on_how_many_layers_there_are_is_not_written(tmp_path: Path) -> None:
    model = causal_families.model("minicpm3")
    with pytest.raises(
        MeasurementError, match=r"gives other numbers, since what its layers compute"
    ):
        write(model, without(1), tmp_path / "made")
    assert not [*tmp_path.iterdir()]


def test_what_gives_no_numbers_once_it_is_loaded_is_not_the_variant() -> None:
    runner = Runner(Anatomy.of(causal_families.model("llama")))
    wanted = predictions(runner, Plan.untouched(causal_families.LAYERS), IDS)
    check_written(runner, IDS, wanted)
    runner.anatomy.layers[2].mlp.up_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(MeasurementError, match="gives other numbers"):
        check_written(runner, IDS, wanted)


def test_what_a_configuration_refuses_is_one_line(tmp_path: Path) -> None:
    model = causal_families.model("gemma3n_text")
    with pytest.raises(MeasurementError, match=r"cannot be written with these layers: [^\n]+$"):
        write(model, without(2), tmp_path / "made")
    assert not [*tmp_path.iterdir()]


def test_attributes_that_another_package_sets_are_not_left_out(tmp_path: Path) -> None:
    edit = Edit(("alone",), lambda tensors, parts: {}, settings=lambda parts: {"mlp:top_k": 2})
    plan = Plan((Step(0, Weights(0, (edit,))),))
    with pytest.raises(MeasurementError, match="drawn changes what its layers do while they run"):
        write(causal_families.model("llama"), plan, tmp_path / "made")
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("family", causal_families.ALL)
def test_a_layer_less_is_what_transformers_loads_or_is_not_written(
    family: str, layer: int, tmp_path: Path
) -> None:
    try:
        model = causal_families.model(family)
        runner = Runner(Anatomy.of(model))
        frame = runner.begin(IDS)
        state = frame.start
        with torch.no_grad():
            for step in without(layer).steps:
                with runner.bound(step.slot, step.weights):
                    state = runner.step(frame, step.slot, state)
            wanted = runner.logits(runner.finish(frame, state))
    except Exception as error:
        pytest.skip(f"cannot be run: {error}")
    try:
        write(model, without(layer), tmp_path / "made")
    except MeasurementError:
        assert not [*tmp_path.iterdir()]
        return
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "made", dtype=model.dtype).eval()
    torch.testing.assert_close(logits(found), wanted, rtol=1e-5, atol=1e-6)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MeasurementError, match=r"cannot be written: (File exists|Not a directory)"):
        write(causal_families.model("smollm3"), without(1), tmp_path / "file" / "made")
