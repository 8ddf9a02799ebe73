"""Whether values lie on a grid: even steps, or few values, in each group that shares a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_SIZES: Final = (256, 128, 64, 32, 16)
_MOST: Final = 256
_AGREEING: Final = 0.95
"""The share of groups that must lie on a grid."""
_SPACE: Final = 0.1
"""How far from a step rounding may put a value; a fifth of random values are as near."""


@dataclass(frozen=True)
class Grid:
    """A grid that values lie on.

    Attributes:
        levels: How many values one group can hold.
        group: What shares a scale: ``groups of 32``, ``one scale per row`` or ``per tensor``.
        floats: Whether the steps are those of 8-bit floats.
    """

    levels: int
    group: str
    floats: bool = False

    def __str__(self) -> str:
        """Return ``a grid of 16 values in groups of 32``."""
        where = self.group.replace("one scale per ", "each ")
        return f"a grid of {'FP8' if self.floats else self.levels} values in {where}"


def find_grid(values: Tensor, base: Tensor, precision: float) -> Grid | None:
    """Return the grid that a matrix lies on and its base does not.

    Args:
        values: Rows of the candidate's matrix, ``[rows, columns]``, in float32.
        base: The same rows of the base's.
        precision: The relative distance of two numbers in the dtype that the values are stored in.
    """
    views = list(_views(values, base))
    for bits in range(2, 9):
        for group, grouped, original in views:
            for top in (2 ** (bits - 1) - 1, 2 ** (bits - 1)):
                if _even(grouped, top, precision) and not _even(original, top, precision):
                    return Grid(3 if bits == 2 and top == 1 else 2**bits, group)
    for group, grouped, original in views:
        steps = _steps(grouped)
        if steps is not None and _steps(original) is None:
            return Grid(_rounded(steps), group)
    for group, grouped, original in views[:2]:
        if _fp8(grouped) and not _fp8(original):
            return Grid(_MOST, group, floats=True)
    counted = [
        (most, group)
        for group, grouped, original in views
        if (most := _few(grouped, original)) is not None
    ]
    # Groups that are too large mix several grids, and those that are too small have the same values.
    least = min((most for most, _ in counted), default=0)
    for most, group in counted:
        if most <= 1.25 * least:
            return Grid(_rounded(most), group)
    return None


def _views(values: Tensor, base: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield both matrices by group, ``[groups, values]``, from the largest group to the smallest."""
    columns = values.shape[1]
    yield "one scale per tensor", values.reshape(1, -1), base.reshape(1, -1)
    yield "one scale per row", values, base
    for size in _SIZES:
        if size < columns and columns % size == 0:
            yield f"groups of {size}", values.reshape(-1, size), base.reshape(-1, size)


def _even(grouped: Tensor, top: int, precision: float) -> bool:
    """Return whether values are whole steps, of which the largest value is ``top``."""
    at = grouped * (top / grouped.abs().amax(1, keepdim=True).clamp(min=1e-30))
    unsure = 2 * precision * at.abs()
    even = ((at - at.round()).abs() <= 0.01 + unsure) | (unsure > _SPACE)
    return float(even.all(1).float().mean()) >= _AGREEING


def _steps(grouped: Tensor) -> int | None:
    """Return how many even steps the groups take from any start; None where they are not even."""
    ordered = grouped.sort(1).values
    width = ordered[:, -1:] - ordered[:, :1]
    # Two values that differ by rounding only are one step.
    least = 1e-5 * grouped.abs().amax(1, keepdim=True)
    apart = ordered.diff(dim=1)
    rough = apart.masked_fill(apart <= least, float("inf")).amin(1, keepdim=True)
    step = width / (width / rough).round()
    at = (grouped - ordered[:, :1]) / step
    even = ((at - at.round()).abs() < _SPACE).all(1) & (at.amax(1) < _MOST)
    if float(even.float().mean()) < _AGREEING:
        return None
    # Counted from zero, where the grids of all groups have a value.
    return min(
        int(at[even].amax().round()) + 1,
        len(set((grouped / step)[even].round().flatten().tolist())),
    )


def _fp8(grouped: Tensor) -> bool:
    import torch

    scaled = grouped * (448 / grouped.abs().amax(1, keepdim=True).clamp(min=1e-30))
    rounded = scaled.to(torch.float8_e4m3fn).float()
    return bool(((rounded - scaled).abs() <= 1e-3 * scaled.abs()).all())


def _few(grouped: Tensor, original: Tensor) -> int | None:
    """Return the most distinct values of a group, where each occurs often and the base's do not."""
    distinct, values = _distinct(grouped)
    before, _ = _distinct(original)
    most = int(distinct.max()) + 1
    often = 2 * int(distinct.sum()) <= int(values.sum())
    fewer = int(before.sum()) >= 1.5 * int(distinct.sum()) > 0
    return most if often and fewer and most <= _MOST else None


def _distinct(grouped: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many distinct values other than zero each group has, and how many values."""
    ordered = grouped.sort(1).values
    nonzero = ordered != 0
    new = nonzero.clone()
    new[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    return new.sum(1), nonzero.sum(1)


def _rounded(levels: int) -> int:
    """Return the number of levels that a tool would use: three, or a power of two."""
    return levels if levels <= 3 else 1 << (levels - 1).bit_length()
