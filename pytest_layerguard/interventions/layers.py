"""Interventions on layers: skipping, zeroing, drawing anew, repeating, merging, exchanging, removing."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_layerguard.bet.arguments import SWAP_SCORES
from pytest_layerguard.bet.errors import many
from pytest_layerguard.models import stored_size
from pytest_layerguard.models.plan import Edit, InterventionError, Plan, Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

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
        return {
            name: replace(form, matrices=form.present, encoded=None) for name, form in forms.items()
        }

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
    for layer in sorted(layers):
        after = range(layer + 1, layer + 1 + arguments.count)
        if after.stop > bench.layers or dropped & {layer, *after}:
            raise InterventionError(
                f"merge_layers: layer {layer} has no {many(arguments.count, 'layer')} of its own after it to take up; "
                "name another layer or lower count"
            )
        dropped.update(after)
        others = tuple(_weights(plan, slot, "merge") for slot in after)
        edits[layer] = Edit(
            ("merge_layers", *others), _taking_up(others, bench), stored=_of_a_sum(others, bench)
        )
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


def _of_a_sum(others: Sequence[Weights], bench: Bench) -> Callable[[Forms, LayerParts], Forms]:
    """Store a layer that took others up as plain numbers, for as many experts as differ in any of them."""

    def stored(forms: Forms, parts: LayerParts) -> Forms:
        item = next(iter(forms.values())).item
        taken = [stored_size.forms(bench.parts(each.layer), each.edits, item) for each in others]
        matrices = {name: max(each[name].matrices for each in (forms, *taken)) for name in forms}
        return {
            name: replace(form, matrices=matrices[name], encoded=None)
            for name, form in forms.items()
        }

    return stored


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
    """Drop layers, chosen by a score or named.

    Layers go greedily, the lowest score first and of equal ones the earlier, none nearer to another than the
    spacing. With ``replacement`` and ``interchange`` that is the rule of "No Free Swap" (arXiv 2605.16234), with
    ``perplexity`` and ``rescored`` that of SLEB (arXiv 2402.09025).
    """
    if arguments.layers is not None:
        (layers,) = arguments.layers.resolve(bench.layers)
        return (plan.without(frozenset(layers)),)
    assert arguments.count is not None
    count = arguments.count
    slots = [step.slot for step in plan.steps]
    if slots != [*range(bench.layers)]:
        raise InterventionError(
            "remove_layers: guided removal stands first in a list; some layers are left out or repeated already"
        )
    protected: frozenset[int] = frozenset()
    if arguments.protect is not None:
        protected = frozenset(arguments.protect.resolve(bench.layers)[0])
    rounds: list[Mapping[int, float]] = []
    if arguments.contiguous:
        rounds.append(_block_scores(plan, count, protected, arguments, bench))
        first = min(rounds[0], key=lambda slot: (rounds[0][slot], slot), default=None)
        chosen = [] if first is None else [*range(first, first + count)]
    else:

        def score(gone: Sequence[int]) -> Mapping[int, float]:
            if not rounds or arguments.rescored:
                rounds.append(_scores(plan, gone, protected, arguments, bench))
            return rounds[-1]

        chosen = in_order(score, count, arguments.least_spacing, protected)
    if len(chosen) < count:
        rule = "in one block"
        if not arguments.contiguous:
            rule = f"with spacing above {arguments.least_spacing - 1}"
        raise InterventionError(
            f"remove_layers: {count} layers {rule} cannot be taken from "
            f"{len(slots) - len(protected)}; lower count, or name the layers yourself (layers: [...])"
        )
    bench.note("removed", sorted(chosen))
    if chosen != sorted(chosen):
        bench.note("removed_in_order", chosen)
    noted = [{str(slot): score for slot, score in scores.items()} for scores in rounds]
    bench.note("scores", noted if arguments.rescored else noted[0])
    return (plan.without(frozenset(chosen)),)


def in_order(
    score: Callable[[Sequence[int]], Mapping[int, float]],
    count: int,
    spacing: int,
    protected: frozenset[int] = frozenset(),
) -> list[int]:
    """Pick up to ``count`` layers in ascending order of their score, as many as the spacing allows.

    Args:
        score: Returns the scores of layers where some are gone.
        count: How many to pick.
        spacing: How far apart they are at least.
        protected: The layers that are never picked.
    """
    chosen: list[int] = []
    while len(chosen) < count:
        scores = score(chosen)
        left = [
            layer
            for layer in scores
            if layer not in protected and all(abs(layer - other) >= spacing for other in chosen)
        ]
        if not left:
            break
        chosen.append(min(left, key=lambda layer: (scores[layer], layer)))
    return chosen


def _scores(
    plan: Plan,
    gone: Sequence[int],
    protected: frozenset[int],
    arguments: args.RemoveLayers,
    bench: Bench,
) -> Mapping[int, float]:
    """Return the score of each layer of a plan where some are gone already."""
    by, text = str(arguments.guided_by), arguments.text
    current = plan.without(frozenset(gone))
    slots = [step.slot for step in current.steps]
    if by in ("perplexity", "kl"):
        left = [slot for slot in slots if slot not in protected]
        tried = [current.without(frozenset({slot})) for slot in left]
        return dict(zip(left, bench.plan_scores(plan, tried, by, text), strict=True))
    if by not in SWAP_SCORES:
        return bench.block_distances(current, by, text=text)
    distances = bench.pair_distances(current, by, text)
    return {
        slot: min((each for pair, each in distances.items() if slot in pair), default=math.inf)
        for slot in slots
    }


def _block_scores(
    plan: Plan, count: int, protected: frozenset[int], arguments: args.RemoveLayers, bench: Bench
) -> Mapping[int, float]:
    """Return the score of each block of so many layers without a protected one, by its first layer."""
    by, text = str(arguments.guided_by), arguments.text
    blocks = {first: range(first, first + count) for first in range(bench.layers - count + 1)}
    blocks = {first: block for first, block in blocks.items() if not protected & {*block}}
    if by in ("perplexity", "kl"):
        tried = [plan.without(frozenset(block)) for block in blocks.values()]
        return dict(zip(blocks, bench.plan_scores(plan, tried, by, text), strict=True))
    distances = bench.block_distances(plan, by, count, text) if blocks else {}
    return {first: distances[first] for first in blocks}


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
