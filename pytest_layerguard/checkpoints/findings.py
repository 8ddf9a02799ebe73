"""What was done to the values of tensors, as findings for people and programs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_layerguard.bet.errors import listed
from pytest_layerguard.checkpoints.facts import EXPERTS_LEFT_OUT, percent
from pytest_layerguard.checkpoints.places import ROUTER

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from pytest_layerguard.checkpoints.change import Change
    from pytest_layerguard.checkpoints.grid import Grid
    from pytest_layerguard.checkpoints.places import Place


@dataclass(frozen=True)
class Finding:
    """One thing that was done to a model.

    Attributes:
        kind: The intervention that it amounts to, or ``adapter``, ``configuration``,
            ``quantization_config``, ``resized``, ``reordered``, ``rescaled``, ``other_tensors``,
            ``unrelated`` or ``identical``.
        sentence: What was done, for people.
        details: The same for programs: layers, experts, shares and levels.
    """

    kind: str
    sentence: str
    details: Mapping[str, Any] = field(default_factory=dict)


def value_findings(
    changes: Mapping[Place, Change],
    matrices: Mapping[Place, Change],
    unmatched: Mapping[Place, Change],
) -> Iterator[Finding]:
    """Yield what was done to values.

    Args:
        changes: How each tensor changed, by its place in the base.
        matrices: Those of them that are matrices.
        unmatched: Matrices of layers that no layer of the base is like.
    """
    yield from placeless_findings({**matrices, **unmatched})
    casts: dict[str, list[Place]] = defaultdict(list)
    for place, change in changes.items():
        if change.cast is not None:
            casts[change.cast].append(place)
    for dtype, cast in casts.items():
        whole = all(change.cast == dtype or change.equal for change in changes.values())
        where = "every tensor" if whole else which_tensors(cast, changes, "tensor")
        yield Finding(
            "cast", f"{where} rounded to {dtype} and otherwise the base's", {"dtype": dtype}
        )
    yield from _put_back(changes, matrices)
    yield from _moved(changes, matrices)


def _put_back(
    changes: Mapping[Place, Change], matrices: Mapping[Place, Change]
) -> Iterator[Finding]:
    reordered = [place for place, change in matrices.items() if change.reordered]
    if reordered:
        yield Finding(
            "reordered",
            f"has the rows or columns of {which_tensors(reordered, matrices)} in another order",
            counts_of(reordered),
        )
    rescaled = [place for place, change in changes.items() if change.rescaled]
    if rescaled:
        yield Finding(
            "rescaled",
            f"{which_tensors(rescaled, changes, 'tensor')} rescaled: the scales of norms and of the matrices "
            "after them cancel out",
            counts_of(rescaled),
        )


def placeless_findings(matrices: Mapping[Place, Change]) -> Iterator[Finding]:
    """Yield what was done to values wherever they stand: zeros and grids."""
    yield from _pruned(matrices)
    yield from _quantized(matrices)
    yield from _ternary(matrices)


def _pruned(matrices: Mapping[Place, Change]) -> Iterator[Finding]:
    pruned = {place: change for place, change in matrices.items() if change.pruned}
    if not pruned:
        return
    zeros = [change.zeros for change in pruned.values()]
    before = max(change.base_zeros for change in pruned.values())
    pattern = (
        ", two of every four in a row (2:4)"
        if all(change.two_of_four for change in pruned.values())
        else ""
    )
    share = sum(zeros) / len(zeros)
    between = f" ({spread(zeros)})" if max(zeros) - min(zeros) >= 0.02 else ""
    has = "the base has none" if before == 0 else f"the base has {percent(before)} at most"
    yield Finding(
        "prune_weights",
        f"{percent(share)} of the weights{between} of {which_tensors(pruned, matrices)} are zero{pattern}; {has}",
        {"sparsity": share, "pattern": "2:4" if pattern else None, **counts_of(pruned)},
    )


def _quantized(matrices: Mapping[Place, Change]) -> Iterator[Finding]:
    grids: dict[str, list[Place]] = defaultdict(list)
    kinds: dict[str, Grid] = {}
    for place, change in matrices.items():
        if change.grid is not None:
            grids[str(change.grid)].append(place)
            kinds[str(change.grid)] = change.grid
    if not grids:
        return
    sentence = "; ".join(
        f"{which_tensors(found, matrices)} on {grid}" for grid, found in grids.items()
    )
    untouched = sorted(
        short_name(place.role)
        for place, change in matrices.items()
        if place.layer is None and (change.equal or change.cast is not None)
    )
    if untouched:
        sentence += f"; {listed(untouched)} untouched"
    found = [place for each in grids.values() for place in each]
    farthest = max(matrices[place].distance for place in found)
    sentence += f" (up to {percent(farthest)} off the base's)"
    experts = {place for place in matrices if place.expert is not None}
    if experts and experts.isdisjoint(found):
        sentence += f"; {EXPERTS_LEFT_OUT}"
    yield Finding(
        "quantize_weights",
        sentence,
        {
            "grids": [
                {"levels": kinds[each].levels, "group": kinds[each].group, "tensors": len(where)}
                for each, where in grids.items()
            ],
            **counts_of(found),
        },
    )


def _ternary(matrices: Mapping[Place, Change]) -> Iterator[Finding]:
    found = [
        place
        for place, change in matrices.items()
        if change.grid is not None and change.grid.levels == 3
    ]
    if found:
        yield Finding(
            "ternary_weights",
            f"{which_tensors(found, matrices)} of -1, 0 and 1 times a scale",
            counts_of(found),
        )


def _moved(changes: Mapping[Place, Change], matrices: Mapping[Place, Change]) -> Iterator[Finding]:
    strange = [place for place, change in matrices.items() if not change.related]
    moved = {
        place: change for place, change in changes.items() if change.moved and place not in strange
    }
    far = [change.distance for change in moved.values()]
    if moved and moved.keys().isdisjoint(matrices) and any(each.grid for each in matrices.values()):
        # Before quantising, AWQ and SmoothQuant shift the scales of inputs into the norm before.
        yield Finding(
            "quantize_weights",
            f"{which_tensors(moved, changes, 'tensor')} rescaled by {spread(far)} of the base's norm",
            {"least": min(far), "most": max(far), **counts_of(moved)},
        )
    elif moved:
        yield Finding(
            "train",
            f"{which_tensors(moved, changes, 'tensor')} moved by {spread(far)} of the base's norm",
            {"least": min(far), "most": max(far), **counts_of(moved)},
        )
    if strange:
        yield Finding(
            "reinitialize_layers",
            f"{which_tensors(strange, matrices)}: values that have nothing of the base's",
            counts_of(strange),
        )


def counts_of(found: Iterable[Place]) -> dict[str, Any]:
    """Return how many tensors there are and in which layers, for programs."""
    every = list(found)
    layers = sorted({place.layer for place in every if place.layer is not None})
    return {"tensors": len(every), "layers": layers}


def which_tensors(found: Collection[Place], universe: Iterable[Place], what: str = "matrix") -> str:
    """Return which tensors these are: "every matrix of layers 0 to 4", "q_proj of layer 3"."""
    layers = sorted({place.layer for place in found if place.layer is not None})
    inside = {place for place in found if place.layer is not None}
    every = {
        place
        for place in universe
        if place.layer in layers and (place in inside or not ROUTER.search(place.role))
    }
    outside = [short_name(place.role) for place in found if place.layer is None]
    words = []
    if inside:
        experts = {place for place in every if place.expert is not None}
        if inside == every:
            words.append(f"every {what} of {layer_words(layers)}")
        elif inside == experts:
            words.append(f"every expert of {layer_words(layers)}")
        elif experts and inside == every - experts:
            words.append(f"all but the experts of {layer_words(layers)}")
        else:
            names = listed(sorted({short_name(place.role) for place in inside}))
            words.append(f"{names} of {layer_words(layers)}")
    return listed(words + sorted(outside))


def short_name(role: str) -> str:
    """Return the name that people call a tensor by."""
    return role.removesuffix(".weight").split(".")[-1]


def layer_words(layers: list[int]) -> str:
    """Return "layer 3" or "layers 0 to 4"."""
    return f"layer {layers[0]}" if len(layers) == 1 else f"layers {ranges(layers)}"


def ranges(numbers: list[int]) -> str:
    """Return "0 to 4, 6 and 9"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = []
    for run in runs:
        words += [str(each) for each in run] if len(run) < 3 else [f"{run[0]} to {run[-1]}"]
    return listed(words)


def spread(shares: Iterable[float]) -> str:
    """Return "1 % to 3 %", or what all are."""
    every = list(shares)
    least, most = percent(min(every)), percent(max(every))
    return least if least == most else f"{least} to {most}"
