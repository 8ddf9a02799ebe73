"""Interventions on what flows through a layer while it runs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.interventions import rounding
from pytest_layerguard.interventions.weights import chosen_weights, layers_with
from pytest_layerguard.models.linear_inputs import LinearInputs
from pytest_layerguard.models.plan import Edit, Plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from pytest_layerguard.bet import arguments as args
    from pytest_layerguard.interventions.bench import Bench
    from pytest_layerguard.models.layer_parts import LayerParts, Tensors


def quantize_activations(
    plan: Plan, arguments: args.QuantizeActivations, bench: Bench
) -> tuple[Plan, ...]:
    """Round the inputs of linear maps token by token, as compressed-tensors does where scales are dynamic.

    Training passes gradients straight through (Bengio et al., arXiv 1308.3432).
    """

    def rounded(name: str, given: Tensor, expert: int | None, ends: Tensor | None) -> Tensor:
        del name, expert, ends
        values = given.detach().float()
        bits = arguments.bits
        found = rounding.to_fp8(values) if bits is None else rounding.to_integers(values, bits)
        found = found.to(given.dtype)
        # Exactly the rounded value: what is added to it is zero, but for its gradient.
        return found + (given - given.detach()) if given.requires_grad else found

    @contextmanager
    def running(tensors: Tensors, parts: LayerParts) -> Iterator[None]:
        names = chosen_weights(parts, arguments.parts)
        inputs = LinearInputs({name: tensors[name] for name in names}, rounded)
        with inputs:
            yield
        missed = set(names) - inputs.visited
        experts = set(parts.expert_weights) & set(names)
        if experts - missed:
            # An expert that no token is sent to multiplies nothing.
            missed -= experts
        if missed:
            raise MeasurementError(
                f"quantize_activations: cannot see what {', '.join(sorted(missed)[:4])} of layer {parts.index} is "
                "multiplied by"
            )

    edit = Edit(
        ("quantize_activations", arguments.model_dump_json(exclude={"layers"})),
        lambda tensors, parts: {},
        held=lambda tensors, parts: lambda current: {},
        running=running,
    )
    layers = layers_with(bench, arguments, "quantize_activations")
    return (plan.edited(dict.fromkeys(layers, edit)),)
