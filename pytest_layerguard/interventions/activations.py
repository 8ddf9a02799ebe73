"""Interventions on what flows through a layer while it runs."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.interventions.weights import chosen_weights, layers_with
from pytest_layerguard.models.plan import Edit, InterventionError, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

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
    bits = arguments.bits

    def rounded(name: str, given: Tensor, expert: int | None, ends: Tensor | None) -> Tensor:
        from pytest_layerguard.interventions import rounding

        del name, expert, ends
        return _straight_through(
            given,
            lambda values: (
                rounding.to_fp8(values) if bits is None else rounding.to_integers(values, bits)
            ),
        )

    @contextmanager
    def running(tensors: Tensors, parts: LayerParts) -> Iterator[None]:
        from pytest_layerguard.models.linear_inputs import LinearInputs

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


def quantize_kv_cache(
    plan: Plan, arguments: args.QuantizeKvCache, bench: Bench
) -> tuple[Plan, ...]:
    """Round the keys and values that attention reads, as in KIVI (Liu et al., arXiv 2402.02750).

    What is rounded is what transformers' cache of the model is given: keys after their rotation, and of multi-head
    latent attention the latents. Of the ``n`` positions that a query may look back on, its own included, it reads the
    first ``n - residual`` rounded, and with ``keys: channel`` those of whole groups among them.
    """
    kind = "quantize_kv_cache"
    residual, size, by_channel = (
        arguments.residual,
        arguments.group_size,
        arguments.keys == "channel",
    )

    def rounded(values: Tensor) -> Tensor:
        from pytest_layerguard.interventions import rounding

        def levels(groups: Tensor) -> Tensor:
            return rounding.to_levels(groups, arguments.bits)

        return _straight_through(
            values, lambda each: rounding.grouped(each, size or each.shape[-1], levels)
        )

    def change(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        if by_channel:
            return rounded(keys.transpose(-1, -2)).transpose(-1, -2), rounded(values)
        return rounded(keys), rounded(values)

    def first(there: Tensor) -> Tensor:
        left = (there - residual).clamp_min(0)
        return left - left % size if by_channel and size is not None else left

    changed = first if residual or by_channel else None

    def running(tensors: Tensors, parts: LayerParts) -> AbstractContextManager[None]:
        from pytest_layerguard.models import kv_cache

        del tensors
        return kv_cache.reading(parts.module, change, changed)

    key = (kind, arguments.model_dump_json(exclude={"layers"}))
    edit = Edit(
        key,
        lambda tensors, parts: {},
        held=lambda tensors, parts: lambda current: {},
        running=running,
    )
    (named,) = arguments.layers.resolve(bench.layers)
    try:
        layers = [layer for layer in named if bench.keeps_keys_and_values(layer, changed)]
    except InterventionError as error:
        raise InterventionError(f"{kind}: {error}") from None
    if not layers or (arguments.layers.indices is not None and len(layers) < len(named)):
        bare = ", ".join(str(layer) for layer in named if layer not in layers)
        raise InterventionError(f"{kind}: layer {bare} keeps no keys and values of its own")
    return (plan.edited(dict.fromkeys(layers, edit)),)


def _straight_through(given: Tensor, to: Callable[[Tensor], Tensor]) -> Tensor:
    """Round in float32, with the gradient of no rounding."""
    found = to(given.detach().float()).to(given.dtype)
    # Exactly the rounded value: what is added to it is zero, but for its gradient.
    return found + (given - given.detach()) if given.requires_grad else found
