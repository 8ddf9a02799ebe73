"""Match a candidate's layers and experts with those of the base, by their values."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.checkpoints.order import likeness_in_any_order, sources_in_any_order
from pytest_layerguard.checkpoints.places import ROUTER, Layer, Piece

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

_SKETCH: Final = 4096
"""How many values of a matrix are compared with those of another one."""
_RELATED: Final = 0.2
"""The least cosine of a layer and the one it was made from."""
_NEXT: Final = 0.5
"""The most that an expert may be like a second one, beside the one it was made from; a mean of two is
like both."""
_ALIKE: Final = 0.1
"""The farthest that noise or training puts equal experts apart, over their norm."""
_MEAN: Final = 0.95
"""The least cosine of the mean of the base's experts and what quantising makes of it; a scale may have been
moved to the next matrix."""


@dataclass
class MatchedExperts:
    """The experts of a layer, matched with those of the base.

    Attributes:
        source: The base's expert of each; None where it is none of them.
        count: The experts that the base's layer has.
        different: How many of these differ from each other.
        equal: Whether all are equal to each other, and the base's are not.
        mean: Whether they are the mean of the base's.
        reordered: Whether the neurons of each stand in another order.
    """

    source: dict[int, int | None]
    count: int
    different: int
    equal: bool = False
    mean: bool = False
    reordered: bool = False

    @property
    def order(self) -> tuple[int, ...] | None:
        """The base's expert of each, where they are the base's in another order."""
        found = tuple(each for _, each in sorted(self.source.items()) if each is not None)
        every = list(range(self.count))
        return found if sorted(found) == every and list(found) != every else None

    @property
    def dropped(self) -> list[int]:
        """The base's experts that none of these was made from."""
        return sorted(set(range(self.count)) - set(self.source.values()) - {None})


def matched_layers(ours: Mapping[int, Layer], theirs: Mapping[int, Layer]) -> dict[int, int | None]:
    """Match each layer with the layer of the base whose values are nearest; None where none is near."""
    known = {
        layer: _sketches(pieces) | _sketches_of_an_expert(pieces) for layer, pieces in ours.items()
    }
    found: dict[int, int | None] = {}
    last = -1
    for layer, pieces in theirs.items():
        # Matrices of zeros tell nothing of the layer that they were in.
        sketches = _not_zero(_sketches(pieces)) or _not_zero(_sketches_of_an_expert(pieces))
        if not sketches:
            found[layer] = None
            continue
        near = {each: _likeness(sketches, sketch) for each, sketch in known.items()}
        if all(likeness is None for likeness in near.values()):
            # No matrix has a shape that the base knows: only the number is left to go by.
            found[layer] = layer if layer in ours else None
            continue
        best = max(likeness for likeness in near.values() if likeness is not None)
        ties = [
            each
            for each, likeness in near.items()
            if likeness is not None and likeness >= best - 1e-6
        ]
        following = [each for each in ties if each > last]
        source = layer if layer in ties else (following or ties)[0]
        found[layer] = source if best >= _RELATED else None
        last = source
    strange = {
        layer: theirs[layer]
        for layer, source in found.items()
        if source is None and _not_zero(_sketches(theirs[layer]))
    }
    return found | _in_any_order(ours, strange)


def _in_any_order(ours: Mapping[int, Layer], theirs: Mapping[int, Layer]) -> dict[int, int]:
    """Match layers by the rows and columns of a matrix, whose order may be another one."""
    found: dict[int, int] = {}
    for role in dict.fromkeys(role for layer in theirs.values() for role in _sketched(layer)):
        matrices, others = (
            {
                layer: pieces[role, None]
                for layer, pieces in each.items()
                if layer not in found and (role, None) in pieces
            }
            for each in (theirs, ours)
        )
        found |= sources_in_any_order(others, matrices)
    return found


def _sketches(pieces: Layer) -> dict[str, Tensor]:
    """Return some values of up to three matrices of a layer that are no experts', by role."""
    return {role: _sketch(pieces[role, None]) for role in _sketched(pieces)}


def _sketched(pieces: Layer) -> list[str]:
    roles = sorted(
        role
        for (role, expert), piece in pieces.items()
        if expert is None and len(piece.shape) == 2 and not ROUTER.search(role)
    )
    if len(roles) > 3:
        roles = [roles[0], roles[len(roles) // 2], roles[-1]]
    return roles


def _sketches_of_an_expert(pieces: Layer) -> dict[str, Tensor]:
    return {role: _sketch(piece) for (role, expert), piece in pieces.items() if expert == 0}


def _not_zero(sketches: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {role: sketch for role, sketch in sketches.items() if bool(sketch.any())}


def _sketch(piece: Piece) -> Tensor:
    rows = max(1, _SKETCH // max(1, piece.shape[-1]))
    # A view would keep the whole of a matrix that is dequantised at once.
    return piece.read(0, min(rows, piece.shape[0])).float().flatten(1).clone()


def _likeness(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float | None:
    """Return the mean cosine of the sketches that two layers share; None where there are none.

    A matrix that was padded has the sketch of its corner.
    """
    cosines = [
        _cosine(*_corners(one[role], other[role]))
        for role in one.keys() & other.keys()
        if one[role].shape == other[role].shape
        or is_padded(other[role].shape[1:], one[role].shape[1:])
    ]
    return sum(cosines) / len(cosines) if cosines else None


def _corners(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = (min(sizes) for sizes in zip(one.shape, other.shape, strict=True))
    return one[:rows, :columns], other[:rows, :columns]


def is_padded(shape: tuple[int, ...], larger: tuple[int, ...]) -> bool:
    """Return whether a shape has another one as its corner."""
    return all(ours <= theirs for ours, theirs in zip(shape, larger, strict=True))


def _cosine(one: Tensor, other: Tensor) -> float:
    norms = float(one.norm() * other.norm())
    return float((one * other).sum()) / norms if norms else 0.0


def experts_of(layer: Layer) -> int:
    """Return how many experts a layer has."""
    return len({expert for _, expert in layer if expert is not None})


def matched_experts(ours: Layer, theirs: Layer) -> MatchedExperts:
    """Match the experts of a layer with the base's."""
    role = min(role for role, expert in theirs if expert is not None)
    before = {
        expert: piece
        for (name, expert), piece in ours.items()
        if name == role and expert is not None
    }
    after = {
        expert: piece
        for (name, expert), piece in theirs.items()
        if name == role and expert is not None
    }
    known = {expert: _sketch(piece) for expert, piece in before.items()}
    sketches = {expert: _sketch(piece) for expert, piece in after.items()}
    source: dict[int, int | None] = {}
    strange = {}
    for expert, sketch in sketches.items():
        near = {
            each: _cosine(sketch, other) if sketch.shape == other.shape else 0.0
            for each, other in known.items()
        }
        ranked = sorted(near, key=lambda each: (-near[each], each != expert))
        best, second = near[ranked[0]], near[ranked[1]] if ranked[1:] else 0.0
        if best < _RELATED:
            source[expert] = expert if expert in before else None
            strange[expert] = after[expert]
        else:
            source[expert] = ranked[0] if second <= _NEXT * best or best > 1 - 1e-6 else None
    source |= sources_in_any_order(before, strange) if strange else {}
    copies = Counter(_bytes(sketch) for sketch in sketches.values())
    if len({_bytes(sketch) for sketch in known.values()}) == len(known):
        # One that there is several times was made of several of the base's.
        source |= {
            expert: None for expert, sketch in sketches.items() if copies[_bytes(sketch)] > 1
        }
    experts = MatchedExperts(source, len(before), len(copies))
    reordered = bool(strange) and not _all_equal(sketches) and _all_equal_in_any_order(after)
    alike = (reordered or _all_equal(sketches)) and not _all_equal(known)
    if alike and (len(after) > 1 or None in source.values()) and len(before) > 1:
        experts.equal, experts.reordered = True, reordered
        experts.mean = _is_mean(before, next(iter(after.values())))
        experts.source = dict.fromkeys(source)
    return experts


def _bytes(sketch: Tensor) -> bytes:
    return bytes(sketch.numpy().tobytes())


def _all_equal(sketches: Mapping[int, Tensor]) -> bool:
    first = next(iter(sketches.values()))
    least = _ALIKE * float(first.norm())
    return all(
        first.shape == sketch.shape and float((sketch - first).norm()) <= least
        for sketch in sketches.values()
    )


def _all_equal_in_any_order(experts: Mapping[int, Piece]) -> bool:
    first, *others = experts.values()
    return all(likeness_in_any_order(first, other) >= 1 - _ALIKE**2 for other in others)


def _is_mean(experts: Mapping[int, Piece], candidate: Piece) -> bool:
    """Return whether a matrix is the mean of the base's experts, but for rounding."""
    total = sum(piece.read().float() for piece in experts.values()) / len(experts)
    found = candidate.read().float()
    assert not isinstance(total, float)
    return total.shape == found.shape and (
        _cosine(found, total) >= _MEAN or likeness_in_any_order(found, total) >= _MEAN
    )


def is_part(base: Piece, candidate: Piece) -> bool:
    """Return whether a tensor has some of the base's rows or columns and nothing else, bit for bit."""
    if len(base.shape) != len(candidate.shape):
        return False
    differing = [
        dim
        for dim, (ours, theirs) in enumerate(zip(base.shape, candidate.shape, strict=True))
        if ours != theirs
    ]
    if len(differing) != 1 or candidate.shape[differing[0]] > base.shape[differing[0]]:
        return False
    ours, theirs = (
        {
            hash(row.numpy().tobytes())
            for row in piece.read().float().movedim(differing[0], 0).contiguous()
        }
        for piece in (base, candidate)
    )
    return theirs <= ours
