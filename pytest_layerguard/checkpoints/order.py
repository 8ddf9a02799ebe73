"""Find the rows and columns of a matrix that were put in another order, by their values.

Neurons and heads may stand in any order without a change of what a model computes. A row is matched with the
row of the base whose direction is nearest, over some columns, so that neither its scale nor noise,
rounding or zeros hide it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from math import log, sqrt
from typing import TYPE_CHECKING, Final, Literal

from pytest_layerguard.checkpoints.change import Change, compare

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pytest_layerguard.checkpoints.places import Layer, Piece

Axis = Literal["rows", "columns"]
_AXES: Final[tuple[Axis, ...]] = ("rows", "columns")

_ACROSS: Final = 256
"""How many values of a row are compared."""
_BLOCK: Final = 1024
"""How many rows are compared with all of the base's at once."""
_PROBES: Final = 16
"""How many rows of a matrix are looked for in others."""
_LEAST: Final = 0.5
"""The least cosine of a row and the one it was made from."""
_BEYOND_CHANCE: Final = 1.5
"""The same over the largest cosine that random rows reach."""
_IN_PLACE: Final = 0.05
"""The distance from the base's up to which too few columns are out of place to hide a grid."""
_SIMILAR: Final = 0.95
"""The cosine from which a matrix on a grid, or with zeros, is in the base's order; of three values it has 0.9."""
_EQUAL_SCALES: Final = 0.02
_EXPLAINED: Final = 0.5
"""The most of what columns differ by that a norm may leave."""


class PutBack:
    """Compares the weights of a layer with the base's, once rows, columns and scales are as the base has them."""

    def __init__(self, ours: Layer, theirs: Layer) -> None:
        """Take the layer of the base and that of the candidate."""
        self._ours, self._theirs = ours, theirs
        self._rows: dict[tuple[str, int | None], tuple[int, ...]] = {}
        self._taken: set[tuple[str, int | None]] = set()

    def matrix(self, key: tuple[str, int | None], ours: Piece, theirs: Piece) -> Change:
        """Return how a matrix changed."""
        change = compare(ours, theirs)
        if not change.moved and change.cosine >= _SIMILAR:
            return change
        if change.distance > _IN_PLACE:
            if (rows := matched(vectors(ours, "rows"), vectors(theirs, "rows"))) is not None:
                order = self._rows[_stem(key)] = tuple(rows.tolist())
                theirs = replace(theirs, order=order)
                change = replace(compare(ours, theirs), reordered=True)
            elif (at := matched(vectors(ours, "columns"), vectors(theirs, "columns"))) is not None:
                back = replace(theirs, columns=at)
                found = _compared(ours, theirs, back, replace(ours, columns=at.argsort()))
                theirs, change = back, replace(found, reordered=True)
        if change.moved and (norm := self._norm_before(ours, theirs)) is not None:
            scales = self._scales[norm]
            back, forth = replace(theirs, scales=scales), replace(ours, scales=1 / scales)
            found = _compared(ours, theirs, back, forth)
            change = replace(found, reordered=change.reordered, rescaled=True)
        return change

    def vector(self, key: tuple[str, int | None], ours: Piece, theirs: Piece) -> Change:
        """Return how a bias or a norm changed; the matrices of the layer must have been compared before."""
        order = self._rows.get(_stem(key))
        change = compare(ours, theirs if order is None else replace(theirs, order=order))
        return replace(change, moved=False, rescaled=True) if key in self._taken else change

    def _norm_before(self, ours: Piece, theirs: Piece) -> tuple[str, int | None] | None:
        """Return a norm that multiplies by what columns are smaller by, and note all that do."""
        found = [norm for norm, scales in self._scales.items() if _explained(ours, theirs, scales)]
        for norm in found:
            if self._scales[norm].allclose(self._scales[found[0]], rtol=_EQUAL_SCALES):
                self._taken.add(norm)
        return found[0] if found else None

    @cached_property
    def _scales(self) -> dict[tuple[str, int | None], Tensor]:
        """What each norm that differs multiplies every column by, over the base's."""
        found = {}
        for key, piece in self._theirs.items():
            ours = self._ours.get(key)
            if ours is None or len(piece.shape) > 1 or ours.shape != piece.shape:
                continue
            before, after = ours.read().float(), piece.read().float()
            ratio = after / before
            if bool((ratio.isfinite() & (ratio != 0)).all()) and bool((ratio != 1).any()):
                found[key] = ratio
        return found


def _stem(key: tuple[str, int | None]) -> tuple[str, int | None]:
    return key[0].removesuffix(".weight").removesuffix(".bias"), key[1]


def _compared(ours: Piece, theirs: Piece, back: Piece, forth: Piece) -> Change:
    """Compare the base with a matrix that was put back; or the base put forth, if that alone shows a grid.

    The groups of a grid are whole where values were rounded.
    """
    change = compare(ours, back)
    if not change.moved:
        return change
    other = compare(forth, theirs)
    return change if other.grid is None else other


def _explained(ours: Piece, theirs: Piece, scales: Tensor) -> bool:
    """Return whether columns are smaller than the base's by what a norm multiplies them by."""
    if ours.shape[-1] != len(scales):
        return False
    one, other = (next(each.blocks(_BLOCK)).float() for each in (ours, theirs))
    before, after = (each.masked_fill(other == 0, 0).norm(dim=0) for each in (one, other))
    there = (before > 0) & (after > 0)
    apart = (before[there] / after[there]).log()
    left = apart - scales[there].abs().log()
    return float(left.square().sum()) < _EXPLAINED * float(apart.square().sum())


def vectors(matrix: Piece | Tensor, axis: Axis) -> Tensor:
    """Return some values of each row or column of a matrix, ``[rows, values]``, of length one.

    Each of the values is over its root mean square, so that a few that are large in every row do not
    make all rows alike.
    """
    import torch

    found: Tensor
    blocks = [matrix] if isinstance(matrix, torch.Tensor) else matrix.blocks(_BLOCK)
    across = matrix.shape[1 if axis == "rows" else 0]
    at = torch.linspace(0, across - 1, min(across, _ACROSS)).round().long()
    if axis == "rows":
        found = torch.cat([block[:, at].float() for block in blocks])
    else:
        some, start = [], 0
        for block in blocks:
            inside = at[(at >= start) & (at < start + len(block))] - start
            some.append(block[inside].float())
            start += len(block)
        found = torch.cat(some).T
    found = found / found.square().mean(0).sqrt().clamp(min=1e-30)
    lengths: Tensor = found.norm(dim=1, keepdim=True)
    return found / lengths.clamp(min=1e-30)


def matched(base: Tensor, candidate: Tensor) -> Tensor | None:
    """Return which vector of a candidate is each of the base's; None where all stand in order or most are others."""
    import torch

    count = len(base)
    if candidate.shape != base.shape:
        return None
    nearest, likeness = torch.empty(count, dtype=torch.long), torch.empty(count)
    back, farthest = torch.zeros(count, dtype=torch.long), torch.full((count,), -1.0)
    for start in range(0, count, _BLOCK):
        cosines = candidate[start : start + _BLOCK] @ base.T
        likeness[start : start + _BLOCK], nearest[start : start + _BLOCK] = cosines.max(1)
        best, where = cosines.max(0)
        nearer = best > farthest
        back[nearer], farthest[nearer] = where[nearer] + start, best[nearer]
    own = torch.arange(count)
    sure = (back[nearest] == own) & (likeness >= _bar(count, base.shape[1]))
    if 2 * int(sure.sum()) < count or bool((nearest[sure] == own[sure]).all()):
        return None
    order = torch.full((count,), -1)
    order[nearest[sure]] = own[sure]
    # Rows of zeros, say, are like no row; they fill what is left.
    order[order < 0] = own[~sure]
    return order


def _bar(count: int, across: int) -> float:
    """Return the least cosine at which one of so many vectors is no accident."""
    return max(_LEAST, _BEYOND_CHANCE * sqrt(2 * log(max(2, count)) / across))


def sources_in_any_order(ours: Mapping[int, Piece], theirs: Mapping[int, Piece]) -> dict[int, int]:
    """Return the matrix of the base that each was made from, whatever the order of its rows or of its columns.

    Matrices that were made from none are left out.
    """
    found: dict[int, int] = {}
    for axis in _AXES:
        probes = {
            key: _probes(vectors(piece, axis)) for key, piece in theirs.items() if key not in found
        }
        best = dict.fromkeys(probes, 0.0)
        for source, piece in ours.items():
            every = vectors(piece, axis)
            for key, probe in probes.items():
                if probe.shape[1] != every.shape[1]:
                    continue
                likeness = _likeness(probe, every)
                if likeness > max(best[key], _bar(len(every) * len(ours), every.shape[1])):
                    best[key], found[key] = likeness, source
    return found


def likeness_in_any_order(one: Piece | Tensor, other: Piece | Tensor) -> float:
    """Return the mean cosine of the rows of a matrix and those of another that are nearest, or of the columns."""
    return max(_likeness(_probes(vectors(one, axis)), vectors(other, axis)) for axis in _AXES)


def _probes(every: Tensor) -> Tensor:
    # A view would keep the whole.
    return every[:: max(1, len(every) // _PROBES)].clone()


def _likeness(probes: Tensor, every: Tensor) -> float:
    return float((probes @ every.T).amax(1).mean())
