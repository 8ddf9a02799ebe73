"""How one tensor of a candidate differs from the base's, found block by block."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt
from typing import TYPE_CHECKING, Final

from pytest_layerguard.checkpoints.grid import Grid, find_grid

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_layerguard.checkpoints.places import Piece

_BLOCK: Final = 2**20
"""The most values of a block; a dozen copies of it are in memory at once."""
_SAMPLED: Final = 64
"""The fewest rows that are searched for a grid."""
_RUN: Final = 16
"""The smallest group that formats scale together."""
_RELATED: Final = 0.2
"""The least cosine of a tensor and one made from it; unrelated tensors have one near zero."""
_MORE_ZEROS: Final = 0.01
_NEXT_TO_ZERO: Final = 0.01
"""The part of a tensor's root mean square below which values may be zeros that noise was added to."""
_MORE_NEXT_TO_ZERO: Final = 0.05
_PRUNED_ON_GRID: Final = 0.05
"""The least share of zeros on a grid that no rounding explains."""
_ROUNDED: Final = 0.6
"""The steps from zero below which values become zero; a half, and a little for GPTQ's corrections."""
_PRECISION: Final = {"F16": 2.0**-11, "BF16": 2.0**-8}
_FLOAT32: Final = 2.0**-24
_ROUNDINGS: Final = 4
"""How much less precise values are once a scale was taken back: that was rounded, and so were both norms."""


@dataclass(frozen=True)
class Change:
    """How a tensor differs from the base's.

    Attributes:
        equal: Whether every value is the base's, bit for bit.
        cast: The dtype that the base's values were rounded to, and nothing else, or None.
        pruned: Whether values were set to zero.
        grid: The grid that its values were put on, or None.
        moved: Whether values differ in a way that none of these explains.
        zeros: The share of zeros.
        base_zeros: That of the base's tensor.
        two_of_four: Whether two of any four values in a row are zero.
        distance: The norm of the difference over the base's norm.
        cosine: Of the angle between both.
        reordered: Whether its rows or columns were put into the base's order before this was found.
        rescaled: Whether the scales of its columns were taken back before, as a norm does.
    """

    equal: bool = False
    cast: str | None = None
    pruned: bool = False
    grid: Grid | None = None
    moved: bool = False
    zeros: float = 0.0
    base_zeros: float = 0.0
    two_of_four: bool = False
    distance: float = 0.0
    cosine: float = 1.0
    reordered: bool = False
    rescaled: bool = False

    @property
    def related(self) -> bool:
        """Whether it was made from the base's tensor at all."""
        return self.equal or self.cast is not None or self.cosine >= _RELATED


def compare(base: Piece, candidate: Piece) -> Change:
    """Compare a tensor with the base's, over the rows and columns that both have."""
    columns = min(base.shape[-1], candidate.shape[-1]) if len(base.shape) > 1 else None
    width = max(1, prod((*candidate.shape[1:-1], columns or 1)))
    rows = max(1, _BLOCK // width)
    scaled = base.scales is not None or candidate.scales is not None
    tolerance = _ROUNDINGS * _PRECISION.get(candidate.dtype, _FLOAT32) if scaled else 0.0
    tally = _Tally(min(base.shape[0], candidate.shape[0]), width, tolerance)
    for ours, theirs in zip(base.blocks(rows), candidate.blocks(rows), strict=False):
        shared = min(len(ours), len(theirs))
        if columns is None:
            tally.add(ours[:shared], theirs[:shared])
        else:
            tally.add(ours[:shared, ..., :columns], theirs[:shared, ..., :columns])
    return tally.change(candidate)


class _Tally:
    """Counts over the blocks of two tensors."""

    def __init__(self, rows: int, width: int, tolerance: float) -> None:
        import torch

        self._tolerance = tolerance
        self._every = max(1, rows // _SAMPLED)
        # One piece of memory for all rows: small ones between the blocks would keep those from being reused.
        self._sample = torch.empty(2, -(-rows // self._every), width)
        self._rows = 0
        self._casts = {"bfloat16": True, "float16": True}
        self._equal = self._kept = self._two_of_four = True
        self._count = self._zeros = self._base_zeros = self._small = self._base_small = 0
        self._dot = self._square = self._base_square = self._apart = 0.0

    def add(self, base: Tensor, candidate: Tensor) -> None:
        import torch

        ours, theirs = base.float(), candidate.float()
        first = -self._rows % self._every
        sampled = torch.stack(
            [
                each[first :: self._every].reshape(-1, self._sample.shape[2])
                for each in (ours, theirs)
            ]
        )
        at = -(-self._rows // self._every)
        self._sample[:, at : at + sampled.shape[1]] = sampled
        self._rows += len(ours)
        same = ours == theirs
        if self._tolerance:
            same |= (ours - theirs).abs() <= self._tolerance * ours.abs()
        self._count += ours.numel()
        self._equal = self._equal and bool(same.all())
        for dtype, alive in self._casts.items():
            target = getattr(torch, dtype)
            self._casts[dtype] = (
                alive and target != base.dtype and bool((base.to(target).float() == theirs).all())
            )
        if self._equal:
            return
        zero = theirs == 0
        rounded = base.to(candidate.dtype).float() == theirs
        self._kept = self._kept and bool((zero | same | rounded).all())
        self._zeros += int(zero.sum())
        self._base_zeros += int((ours == 0).sum())
        self._small += int(_next_to_zero(theirs).sum())
        self._base_small += int(_next_to_zero(ours).sum())
        if theirs.dim() > 1 and theirs.shape[-1] % 4 == 0:
            fours = zero.reshape(-1, 4).sum(1)
            self._two_of_four = self._two_of_four and bool((fours >= 2).all())
        else:
            self._two_of_four = False
        self._dot += float((ours * theirs).sum(dtype=torch.float64))
        self._square += float(theirs.square().sum(dtype=torch.float64))
        self._base_square += float(ours.square().sum(dtype=torch.float64))
        self._apart += float((theirs - ours).square().sum(dtype=torch.float64))

    def change(self, candidate: Piece) -> Change:
        """Return the change that the counts show."""
        if self._equal:
            return Change(equal=True)
        cast = next((dtype for dtype, alive in self._casts.items() if alive), None)
        if cast is not None:
            return Change(cast=cast)
        zeros, base_zeros = self._zeros / self._count, self._base_zeros / self._count
        # A vector of zeros is a norm or a bias that is gone, and no pruned matrix.
        kept = self._kept and len(candidate.shape) > 1
        pruned, grid = kept, None
        if len(candidate.shape) > 1 and not kept:
            ours, theirs = self._sample
            # Few bits hold the larger half of random values as well as those of a grid.
            grid = _grid(candidate, ours.masked_fill(theirs == 0, 0), theirs)
            least = _MORE_ZEROS if grid is None else _PRUNED_ON_GRID
            small, base_small = self._small / self._count, self._base_small / self._count
            noisy = small - base_small > _MORE_NEXT_TO_ZERO
            if grid is None and zeros - base_zeros <= _MORE_ZEROS and noisy:
                zeros, base_zeros = small, base_small
                theirs = theirs.masked_fill(_next_to_zero(theirs), 0)
            more = zeros - base_zeros > _MORE_ZEROS
            pruned = more and _unexplained(ours, theirs, self._tolerance) > least
            if grid is not None and zeros == 0:
                at_level, unexplained = _next_to_zero_on_grid(ours, theirs)
                if unexplained > least:
                    pruned, zeros = True, at_level
        norms = sqrt(self._square * self._base_square)
        return Change(
            pruned=pruned,
            grid=grid,
            moved=grid is None and not kept,
            zeros=zeros,
            base_zeros=base_zeros,
            two_of_four=pruned and self._two_of_four,
            distance=sqrt(self._apart / self._base_square) if self._base_square else float("inf"),
            cosine=self._dot / norms if norms else 0.0,
        )


def _next_to_zero(values: Tensor) -> Tensor:
    return values.abs() <= _NEXT_TO_ZERO * values.square().mean().sqrt()


def _grid(candidate: Piece, base: Tensor, values: Tensor) -> Grid | None:
    scheme = candidate.checkpoint.weights[candidate.name].scheme
    if scheme is not None:
        return Grid(scheme.levels, scheme.group, floats="FP8" in scheme.number)
    return find_grid(values, base, _precision(candidate))


def _precision(candidate: Piece) -> float:
    stored = _PRECISION.get(candidate.dtype, _FLOAT32)
    return stored if candidate.scales is None else _ROUNDINGS * stored


def _next_to_zero_on_grid(base: Tensor, candidate: Tensor) -> tuple[float, float]:
    """Return the share of values on the level next to zero of a grid that has no zero.

    Returns:
        The share, and that of values which rounding would not have put there.
    """
    whole = candidate.numel() // _RUN * _RUN
    values, before = (each.flatten()[:whole].reshape(-1, _RUN) for each in (candidate, base))
    level = values.gather(1, values.abs().argmin(1, keepdim=True))
    apart = values.sort(1).values.diff(dim=1)
    least = 1e-3 * values.abs().amax(1, keepdim=True)
    step = apart.masked_fill(apart <= least, float("inf")).amin(1, keepdim=True)
    there = (values == level) & (2 * level.abs() <= step)
    away = there & ((before - level).abs() > _ROUNDED * step)
    return float(there.float().mean()), float(away.float().mean())


def _unexplained(base: Tensor, candidate: Tensor, tolerance: float) -> float:
    """Return the share of zeros that rounding to the steps of their group would not have made.

    Values that differ by no more than the tolerance, over the largest of their group, are one step.
    """
    whole = candidate.numel() // _RUN * _RUN
    values, before = (each.flatten()[:whole].reshape(-1, _RUN) for each in (candidate, base))
    apart = values.sort(1).values.diff(dim=1)
    least = tolerance * values.abs().amax(1, keepdim=True)
    step = apart.masked_fill(apart <= least, float("inf")).amin(1, keepdim=True)
    return float(((values == 0) & (before.abs() > _ROUNDED * step)).float().mean())
