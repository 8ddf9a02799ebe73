"""Write a variant of a bet as a checkpoint that transformers loads."""

from __future__ import annotations

import copy
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from pytest_layerguard.checkpoints.facts import STATED_EXPERTS
from pytest_layerguard.environment.captured_output import first_line, quiet
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement.sanity_checks import check_written, predictions
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from pytest_layerguard.measurement.planning import PlannedVariant
    from pytest_layerguard.measurement.session import ModelSession
    from pytest_layerguard.models.layer_parts import LayerParts
    from pytest_layerguard.models.plan import Plan


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        variant: The variant's name, after its arm where there are several.
        base: The base's provenance: its name and the digests of its files.
    """

    variant: str
    base: dict[str, Any]


def chosen(variants: Sequence[PlannedVariant], name: str | None) -> PlannedVariant:
    """Return the variant of a name, or the only one.

    Args:
        variants: The bet's variants.
        name: ``skip-3``, or ``ARM.skip-3``; None for the only one.

    Raises:
        MeasurementError: If there is none of that name, or several.
    """
    found = [each for each in variants if name in (None, each.name, full_name(each))]
    listed = ", ".join(full_name(each) for each in (found or variants)[:20])
    if not found:
        raise MeasurementError(f"the bet has no variant {name!r}; its variants: {listed}")
    if len(found) > 1:
        raise MeasurementError(f"the bet has {len(found)} variants; say which one: {listed}")
    return found[0]


def full_name(variant: PlannedVariant) -> str:
    """Return ``ARM.skip-3``, or ``skip-3`` without arms."""
    return variant.name if variant.arm is None else f"{variant.arm}.{variant.name}"


def write_variant(
    session: ModelSession, variant: PlannedVariant, folder: Path, ids: Tensor, readme: str
) -> None:
    """Write a variant into a new folder, whole or not at all.

    The layers of the session are released, so that what was written can be loaded in their place and run.

    Args:
        session: The base.
        variant: The variant.
        folder: The folder, which must not exist.
        ids: Tokens ``[1, T]`` on which what was written must predict what the variant does.
        readme: The text of its README.md.

    Raises:
        MeasurementError: If the variant is no one model with weights of its own, or cannot be written.
    """
    if folder.exists():
        raise MeasurementError(f"{folder} exists and is not overwritten; give another folder")
    plan = _one_model(variant, session.runner.anatomy.parts)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            with quiet():
                wanted = predictions(session.runner, plan, ids)
                _save(session, plan, made)
                session.release_layers()
                check_written(_loaded(session, made), ids, wanted)
                session.loaded.tokenizer.save_pretrained(made)
            (made / "README.md").write_text(readme, encoding="utf-8")
            made.chmod(0o755)
            made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise MeasurementError(f"{folder} cannot be written: {error.strerror or error}") from None


def _one_model(variant: PlannedVariant, parts: Sequence[LayerParts]) -> Plan:
    name = full_name(variant)
    if len(variant.plans) != 1:
        raise MeasurementError(f"{name} is {len(variant.plans)} directed changes and no one model")
    (plan,) = variant.plans
    if plan.candidate is not None:
        raise MeasurementError(f"{name} is a checkpoint already")
    for step in plan.steps:
        for edit in step.weights.edits:
            laid = edit.settings(parts[step.weights.layer]) if edit.settings is not None else {}
            # How many experts there are stands in the configuration.
            others = {place.rpartition(":")[2] for place in laid} - {*STATED_EXPERTS}
            if edit.running is not None or others:
                raise MeasurementError(
                    f"{name} changes what its layers do while they run, which no weights can say; it cannot be written"
                )
    return plan


def _save(session: ModelSession, plan: Plan, folder: Path) -> None:
    runner, model = session.runner, session.loaded.model
    anatomy = runner.anatomy
    config = copy.deepcopy(model.config)
    decoder = config.get_text_config(decoder=True)
    decoder.num_hidden_layers = len(plan.steps)
    vars(decoder).update(_for_layers(decoder, [step.slot for step in plan.steps], len(anatomy)))
    weights: dict[str, Tensor] = {**runner.outer_tensors(), **plan.shell.tensors}
    experts: set[tuple[int, int]] = set()
    for place, step in enumerate(plan.steps):
        tensors = runner.materialise(step.weights)
        if any(step.weights.layer == other.weights.layer for other in plan.steps[:place]):
            # A layer that runs twice is stored twice.
            tensors = {name: tensor.clone() for name, tensor in tensors.items()}
        weights |= {f"{anatomy.path}.{place}.{name}": tensor for name, tensor in tensors.items()}
        banks = anatomy.parts[step.weights.layer].banks
        experts |= {(bank.count, len(tensors[bank.fused[0]])) for bank in banks if bank.fused}
    _state_experts(decoder, experts)
    with _errors_of_transformers():
        made = _laid(type(model), config, weights)
        made.generation_config = model.generation_config
        made.save_pretrained(folder)


def _for_layers(decoder: Any, slots: Sequence[int], layers: int) -> dict[str, list[Any]]:
    """Return the lists of a configuration of ``layers`` layers that speak of each of them, for those of ``slots``.

    Such a list has an entry for each layer, as ``layer_types`` has, or is of indices, as ``attn_layer_indices`` is.
    What is taken for one and is none makes another model, which is found when it is run.
    """
    found: dict[str, list[Any]] = {}
    for name, value in vars(decoder).items():
        if not isinstance(value, list) or name.endswith("token_id"):
            continue
        if "layer" in name and value == [layer for layer in range(layers) if layer in value]:
            found[name] = [place for place, slot in enumerate(slots) if slot in value]
        elif len(value) == layers:
            found[name] = [value[slot] for slot in slots]
    return found


def _laid(kind: type[PreTrainedModel], config: Any, weights: dict[str, Tensor]) -> PreTrainedModel:
    """Return a model of a configuration with these weights."""
    import torch

    with torch.device("meta"):
        made = kind(config)
    empty = made.state_dict()
    misfits = [
        name
        for name, tensor in weights.items()
        if name not in empty or empty[name].shape != tensor.shape
    ]
    if misfits:
        raise MeasurementError(
            f"its architecture cannot be written: {misfits[0]} has no place in a model of its configuration"
        )
    made.load_state_dict(
        {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()},
        strict=False,
        assign=True,
    )
    made.tie_weights()
    left = [name for name, tensor in made.named_parameters() if tensor.is_meta]
    if left:
        raise MeasurementError(f"its architecture cannot be written: nothing gives {left[0]}")
    return made


def _loaded(session: ModelSession, folder: Path) -> Runner:
    model = session.loaded.model
    with _errors_of_transformers():
        made: Any = type(model).from_pretrained(
            folder, dtype=model.dtype, attn_implementation=model.config._attn_implementation
        )
        return Runner(Anatomy.of(made.to(session.runner.device).eval()))


@contextmanager
def _errors_of_transformers() -> Iterator[None]:
    """Raise what a configuration with rules of its own raises as an error in one line.

    Raises:
        MeasurementError: If there is one.
    """
    try:
        yield
    except (MeasurementError, OSError):
        raise
    except Exception as error:
        raise MeasurementError(
            f"its architecture cannot be written with these layers: {first_line(error)}"
        ) from None


def _state_experts(decoder: Any, experts: set[tuple[int, int]]) -> None:
    """Write into a configuration how many experts the layers have left.

    Args:
        decoder: The configuration of the decoder.
        experts: How many experts mixtures had, each with how many they have.

    Raises:
        MeasurementError: If layers have different numbers of experts left.
    """
    if all(before == after for before, after in experts):
        return
    if len(experts) > 1:
        numbers = " and ".join(str(after) for after in sorted({after for _, after in experts}))
        raise MeasurementError(
            f"its layers have {numbers} experts left, and a configuration states one number for all layers; it "
            "cannot be written. Drop as many from each layer"
        )
    ((before, after),) = experts
    for name in STATED_EXPERTS:
        if getattr(decoder, name, None) == before:
            setattr(decoder, name, after)
