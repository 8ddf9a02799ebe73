"""Comparisons that an interval leaves open, and how many tokens would decide them.

The gap between an estimate and its bar is itself uncertain, and (z + z') / gap squared treats it as exact.
The number here is the one at which a new measurement decides with a probability of 85 %, averaged over the
gaps and the noise that this measurement leaves possible (predictive power, or assurance, under a flat prior:
Spiegelhalter, Freedman and Blackburn 1986; O'Hagan, Stevens and Campbell 2005). Averaged so, it decides in
more than 80 % of cases at any one true gap of half a standard error or more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import CONFIDENCE, quantile
from pytest_layerguard.bet.criteria.metrics import PERCENTILES

if TYPE_CHECKING:
    from pytest_layerguard.bet.criteria.interval import Interval

_ASSURANCE: Final = 0.85
_MOST_WINDOWS: Final = 10**9
_NOISES: Final = 200
_CDF: Final = NormalDist().cdf

Scale = Callable[[float], float]


@dataclass(frozen=True)
class Straddle:
    """A comparison that is undecided, because the interval lies across the bar.

    ``interval`` and ``bar`` are the two sides; ``metric`` is the first side as written.
    """

    metric: str
    variant: str
    interval: Interval
    bar: Interval
    comparison: str

    def tokens_to_decide(self, tokens: int, windows: int, comparisons: int) -> int | None:
        """Return how many tokens in all would decide.

        Args:
            tokens: The number of tokens measured.
            windows: The number of windows they were measured in.
            comparisons: The number of comparisons over which the intervals hold together.

        Returns:
            A whole number of windows, in tokens. None if an interval is unbounded, or if more windows would be
            needed than any text has.
        """
        sides = (self.interval, self.bar)
        scale = scale_of(*sides)
        upper, lower = sides if self.interval.value >= self.bar.value else sides[::-1]
        gap = scale(upper.value) - scale(lower.value)
        # Not the square root of a sum of squares: the two sides may depend on each other in any way.
        width = scale(upper.value) - scale(upper.low) + (scale(lower.high) - scale(lower.value))
        if not math.isfinite(width) or not math.isfinite(gap) or width <= 0:
            return None
        distance = gap / (width / quantile(windows, comparisons))

        def power(count: int) -> float:
            factor = count / windows
            threshold = quantile(count, comparisons) / math.sqrt(factor)
            spread = math.sqrt(1 + 1 / factor)
            return (
                math.fsum(
                    _CDF((side / noise - threshold) / spread)
                    for noise in _noises(windows - 1)
                    for side in (distance, -distance)
                )
                / _NOISES
            )

        few, many = windows, windows
        while power(many) < _ASSURANCE:
            few, many = many, 2 * many
            if many > _MOST_WINDOWS:
                return None
        while many - few > max(1, few // 100):
            middle = (few + many) // 2
            few, many = (middle, many) if power(middle) < _ASSURANCE else (few, middle)
        return math.ceil(tokens / windows) * many

    def fewest_tokens(self, tokens: int, windows: int, comparisons: int) -> int | None:
        """Return how many tokens a percentile needs at least to have an upper end.

        Of fewer, even independent ones, the largest may lie below it: with n of them the chance is level to the power
        of n.

        Args:
            tokens: The number of tokens measured.
            windows: The number of windows they were measured in.
            comparisons: The number of comparisons over which the intervals hold together.

        Returns:
            A whole number of windows, in tokens. None if this is no percentile, or has an upper end or tokens enough.
        """
        level = PERCENTILES.get(self.metric.rpartition(".")[2])
        if level is None or self.interval.high < math.inf:
            return None
        wanted = math.log((1 - CONFIDENCE) / (2 * comparisons)) / math.log(level)
        window = math.ceil(tokens / windows)
        count = math.ceil(wanted / window)
        return count * window if count > windows else None


def scale_of(*sides: Interval) -> Scale:
    """Return the scale, linear or logarithmic, on which the intervals are the more symmetric."""
    if not all(side.low > 0 and math.isfinite(side.high) for side in sides):
        return _linear

    def skew(scale: Scale) -> float:
        return sum(
            abs(scale(side.high) - 2 * scale(side.value) + scale(side.low))
            / (scale(side.high) - scale(side.low))
            for side in sides
            if scale(side.high) > scale(side.low)
        )

    return math.log if skew(math.log) < skew(_linear) else _linear


def _linear(value: float) -> float:
    return value


@cache
def _noises(degrees: int) -> tuple[float, ...]:
    """Return evenly spaced quantiles of the true noise over the estimated noise."""
    from scipy.special import chdtri

    return tuple(
        math.sqrt(degrees / float(chdtri(degrees, (index + 0.5) / _NOISES)))
        for index in range(_NOISES)
    )
