"""Interventions on layers: skipping, zeroing, drawing anew, repeating, merging, exchanging, removing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_layerguard.bet.errors import many
from pytest_layerguard.models.plan import Edit, InterventionError, Plan, Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from pytest_layerguard.bet import arguments as args
    from pytest_layerguard.interventions.bench import Bench
    from pytest_layerguard.models.layer_parts import Forms, LayerParts, Tensors


def skip_layers(plan: Plan, arguments: args.SkipLayers, bench: Bench) -> tuple[Plan, ...]:
    """Make each layer named, or one residual branch of it, the identity.

    A branch is left out by zeros for its tensors and for the norm after it: what it adds is 0.
    """
    (layers,) = arguments.layers.resolve(bench.layers)
    if arguments.part is None:
        return (plan.without(frozenset(layers)),)
    return _without_branch(plan, ("skip_layers", arguments.part), layers, bench)


def zero_layers(plan: Plan, arguments: args.ZeroLayers, bench: Bench) -> tuple[Plan, ...]:
    """Set every parameter of each layer named, or of one residual branch, to zero, but for kept post-norms."""
    (layers,) = arguments.layers.resolve(bench.layers)
    keep = arguments.keep == "post_norms"
    if arguments.part is not None:
        key = ("zero_layers", arguments.part, arguments.keep)
        return _without_branch(plan, key, layers, bench, keep=keep)

    def apply(tensors: Tensors, parts: LayerParts) -> Tensors:
        kept = parts.post_norms if keep else ()
        return {
            name: _zeros_like(tensor)
            for name, tensor in tensors.items()
            if name in parts.parameters and name not in kept and tensor.is_floating_point()
        }

    edit = Edit(("zero_layers", arguments.keep), apply)
    return (plan.edited(dict.fromkeys(layers, edit)),)


def _without_branch(
    plan: Plan, key: tuple[str, ...], layers: Sequence[int], bench: Bench, *, keep: bool = False
) -> tuple[Plan, ...]:
    """Zero one residual branch of each layer, with the norm after it unless that is kept."""
    kind, part = key[:2]
    for layer in layers:
        try:
            bench.branch(layer, part)
        except InterventionError as error:
            raise InterventionError(f"{kind}: part {part}: {error}") from None

    def apply(tensors: Tensors, parts: LayerParts) -> Tensors:
        branch = bench.branch(parts.index, part)
        names = branch.tensors if keep else (*branch.tensors, *branch.post_norms)
        return {name: _zeros_like(tensors[name]) for name in names}

    # Training leaves out what skipping left out; zeros it may change, as it may those of a whole layer.
    def held(tensors: Tensors, parts: LayerParts) -> Callable[[Tensors], Tensors]:
        return lambda current: apply(current, parts)

    edit = Edit(key, apply, held=held if kind == "skip_layers" else None)
    return (plan.edited(dict.fromkeys(layers, edit)),)


def reinitialize_layers(
    plan: Plan, arguments: args.ReinitializeLayers, bench: Bench
) -> tuple[Plan, ...]:
    """Draw the parameters of each layer named anew, by the model's own initialiser."""
    (layers,) = arguments.layers.resolve(bench.layers)

    def apply(tensors: Tensors, parts: LayerParts) -> Tensors:
        drawn = bench.reinitialised(parts.index, arguments.seed)
        if any(tensors[name].shape != tensor.shape for name, tensor in drawn.items()):
            raise InterventionError(
                f"reinitialize_layers: layer {parts.index} has lost experts to an intervention before; draw it anew "
                "first and drop experts afterwards"
            )
        return drawn

    def stored(forms: Forms, parts: LayerParts) -> Forms:
        return {name: replace(form, encoded=None) for name, form in forms.items()}

    edit = Edit(("reinitialize_layers", arguments.seed), apply, stored=stored)
    return (plan.edited(dict.fromkeys(layers, edit)),)


def repeat_layers(plan: Plan, arguments: args.RepeatLayers, bench: Bench) -> tuple[Plan, ...]:
    """Run each slot named several times in a row, with the same weights, position and mask."""
    (layers,) = arguments.layers.resolve(bench.layers)
    for layer in layers:
        _weights(plan, layer, "repeat")
    return (plan.repeated(frozenset(layers), arguments.times),)


def merge_layers(plan: Plan, arguments: args.MergeLayers, bench: Bench) -> tuple[Plan, ...]:
    """Add to each layer named what the ``count`` layers after it differ from it, and drop those.

    The rule of LaCo (Yang et al., arXiv 2402.11187), for weights W: W_l + (W_l+1 - W_l) + ... + (W_l+n - W_l).
    """
    (layers,) = arguments.layers.resolve(bench.layers)
    dropped: set[int] = set()
    edits: dict[int, Edit] = {}
    for layer in layers:
        after = range(layer + 1, layer + 1 + arguments.count)
        if after.stop > bench.layers or dropped & {layer, *after}:
            raise InterventionError(
                f"merge_layers: layer {layer} has no {many(arguments.count, 'layer')} of its own after it to take up; "
                "name another layer or lower count"
            )
        dropped.update(after)
        others = tuple(_weights(plan, slot, "merge") for slot in after)
        edits[layer] = Edit(("merge_layers", *others), _taking_up(others, bench))
    return (plan.edited(edits).without(frozenset(dropped)),)


def _taking_up(others: Sequence[Weights], bench: Bench) -> Callable[[Tensors, LayerParts], Tensors]:
    def apply(tensors: Tensors, parts: LayerParts) -> Tensors:
        own = {name: each for name, each in tensors.items() if each.is_floating_point()}
        merged = {name: tensor.float() for name, tensor in own.items()}
        for weights in others:
            other = bench.tensors(weights)
            if {n: t.shape for n, t in other.items()} != {n: t.shape for n, t in tensors.items()}:
                raise InterventionError(
                    f"merge_layers: layers {parts.index} and {weights.layer} are built differently, so their weights "
                    "cannot be added"
                )
            for name, tensor in own.items():
                merged[name] = merged[name] + (other[name].float() - tensor.float())
        return {name: tensor.to(own[name].dtype) for name, tensor in merged.items()}

    return apply


def replace_layers(plan: Plan, arguments: args.ReplaceLayers, bench: Bench) -> tuple[Plan, ...]:
    """Run slot i with layer j's weights, and, as a plan of its own, slot j with layer i's."""
    (pairs,) = arguments.pairs.resolve(bench.layers)
    forward = {i: _weights(plan, j) for i, j in pairs}
    backward = {j: _weights(plan, i) for i, j in pairs}
    return plan.rebound(forward), plan.rebound(backward)


def interchange_layers(
    plan: Plan, arguments: args.InterchangeLayers, bench: Bench
) -> tuple[Plan, ...]:
    """Exchange the weights of slots i and j."""
    (pairs,) = arguments.pairs.resolve(bench.layers)
    exchanged: dict[int, Weights] = {}
    for i, j in pairs:
        exchanged |= {i: _weights(plan, j), j: _weights(plan, i)}
    return (plan.rebound(exchanged),)


def remove_layers(plan: Plan, arguments: args.RemoveLayers, bench: Bench) -> tuple[Plan, ...]:
    """Drop layers, chosen by a score or named."""
    if arguments.layers is not None:
        (layers,) = arguments.layers.resolve(bench.layers)
        return (plan.without(frozenset(layers)),)
    assert arguments.count is not None
    scores = _scores(plan, arguments.guided_by, bench)
    chosen = spaced(scores, arguments.count)
    bench.note("removed", chosen)
    bench.note("scores", {str(slot): score for slot, score in scores.items()})
    return (plan.without(frozenset(chosen)),)


def spaced(scores: dict[int, float], count: int) -> list[int]:
    """Pick ``count`` layers in ascending order of their score, no two of them neighbours.

    The greedy rule of "No Free Swap" (arXiv 2605.16234): spacing above 1.

    Raises:
        InterventionError: If so many layers cannot be picked.
    """
    chosen: list[int] = []
    for layer in sorted(scores, key=lambda layer: (scores[layer], layer)):
        if len(chosen) < count and all(abs(layer - other) > 1 for other in chosen):
            chosen.append(layer)
    if len(chosen) < count:
        raise InterventionError(
            f"remove_layers: {count} layers with spacing above 1 cannot be taken from {len(scores)}; "
            f"the greedy rule finds {len(chosen)}. Lower count, or name the layers yourself (layers: [...])."
        )
    return sorted(chosen)


def _scores(plan: Plan, guided_by: Any, bench: Bench) -> dict[int, float]:
    if guided_by == "block_influence":
        return dict(enumerate(bench.block_influence(plan)))
    distances = bench.pair_distances(plan, guided_by)
    return {
        slot: min(distance for pair, distance in distances.items() if slot in pair)
        for slot in range(bench.layers)
    }


def _weights(plan: Plan, slot: int, what: str = "exchange") -> Weights:
    weights = plan.weights_at(slot)
    if weights is None:
        raise InterventionError(
            f"layer {slot} was left out by an intervention before; it has no weights to {what}"
        )
    return weights


def _zeros_like(tensor: Tensor) -> Tensor:
    """Return zeros of a tensor's shape that take hardly any memory.

    Fused experts are zeroed by one matrix for all of them: the grouped product wants the strides of a matrix.
    """
    stored = (1, *tensor.shape[1:]) if tensor.dim() == 3 else (1,) * tensor.dim()
    return tensor.new_zeros(stored).expand(tensor.shape)
