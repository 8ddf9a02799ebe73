"""Scales: from numbers to places on an axis, and the round numbers written beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import short

if TYPE_CHECKING:
    from collections.abc import Iterable


_LEAST: Final = 1e-100
_MOST: Final = 1e100
"""Numbers beyond which nothing is drawn to scale, so that no arithmetic overflows."""
_SMALL: Final = 10.0
_FAR: Final = 100.0
_STEPS: Final = (1, 2, 5)
_MOST_TICKS: Final = 6


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in per cent of its length, and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """A map from numbers to per cent of an axis."""

    low: float
    high: float
    log: bool
    start: float = 2.0
    end: float = 98.0

    @classmethod
    def over(
        cls, values: Iterable[float], *, log: bool, start: float = 2.0, end: float = 98.0
    ) -> Scale:
        """Return a scale that holds all finite values, with a margin."""
        found = [
            min(max(value, -_MOST), _MOST)
            for value in values
            if math.isfinite(value) and (value > 0 or not log)
        ]
        low, high = (min(found), max(found)) if found else (1.0, 10.0)
        if log:
            low, high = max(low, _LEAST), min(max(high, _LEAST), _MOST)
            if high / low < 1.3:
                low, high = low / 1.15, high * 1.15
            margin = (high / low) ** 0.04
            return cls(low / margin, high * margin, True, start, end)
        if high == low:
            low, high = low - (abs(low) or 1.0) * 0.1, high + (abs(high) or 1.0) * 0.1
        margin = (high - low) * 0.04
        floor = low if low == 0 else low - margin
        return cls(floor, high + margin, False, start, end)

    def at(self, value: float) -> float:
        """Return the place of a value, held inside the axis."""
        if math.isnan(value):
            return self.start
        if self.log:
            share = (
                (math.log(min(max(value, _LEAST), _MOST)) - math.log(self.low))
                / (math.log(self.high) - math.log(self.low))
                if value > 0
                else 0.0
            )
        else:
            share = (min(max(value, -_MOST), _MOST) - self.low) / (self.high - self.low)
        share = min(1.0, max(0.0, share))
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self) -> tuple[Tick, ...]:
        """Return round numbers inside the axis, six at the most."""
        values = decades(self.low, self.high) if self.log else round_numbers(self.low, self.high)
        return tuple(Tick(self.at(value), short(value)) for value in values)


def near(values: Iterable[float], bars: Iterable[float]) -> list[float]:
    """Return the ratios that an axis has to hold: where some are small, those far beyond every bar are its end.

    A layer at 1.03 and its bar at 1.5 would be one place on an axis that goes to a layer at 10,000.
    """
    found = [value for value in values if value > 0]
    if not found or min(found) >= _SMALL:
        return found
    end = max((_FAR, *bars))
    return [min(value, end) for value in found]


def decades(low: float, high: float) -> list[float]:
    """Return steps of a logarithmic axis: 1, 2, 5 and 10 where that is few, else powers of ten."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    fine = [step * 10.0**power for power in range(first, last + 1) for step in _STEPS]
    inside = [value for value in fine if low <= value <= high]
    if len(inside) < 3 and high / low < 20:
        return round_numbers(low, high)
    if len(inside) <= _MOST_TICKS:
        return inside
    powers = [power for power in range(first, last + 1) if low <= 10.0**power <= high]
    return [10.0**power for power in powers[:: math.ceil(len(powers) / _MOST_TICKS)]]


def round_numbers(low: float, high: float) -> list[float]:
    """Return steps of a linear axis."""
    rough = (high - low) / (_MOST_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough)
    first = math.ceil(low / step)
    return [place * step for place in range(first, math.floor(high / step) + 1)]
