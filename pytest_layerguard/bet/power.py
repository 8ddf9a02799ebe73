"""How many tokens would decide what an interval across a bar leaves open.

The gap between an estimate and its bar is itself uncertain: a gap that looks wide may be luck, and a number
of tokens that takes it at its word decides far less often than it says. So the number named here is the one
at which a new measurement decides with a probability of 85 %, averaged over the gaps and the noise that the
measurement at hand leaves possible: predictive power, or assurance, under a flat prior (Spiegelhalter,
Freedman and Blackburn, "Monitoring clinical trials: conditional or predictive power?", Controlled Clinical
Trials 7, 1986; O'Hagan, Stevens and Campbell, "Assurance in clinical trial design", Pharmaceutical
Statistics 4, 2005). With 85 % on average it decides in more than 80 % of cases at any one true gap of half a
standard error or more; a model truly on its bar is decided by no number of tokens. Ratios are reckoned with
in log space, where their intervals are symmetric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from random import Random
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.interval import Interval
from pytest_layerguard.bet.student import quantile

if TYPE_CHECKING:
    from pytest_layerguard.bet.criteria import Row

ASSURANCE: Final = 0.85
"""The probability, over all that is possible, with which a measurement on the tokens named decides."""

_MOST_WINDOWS: Final = 10**9
_DRAWS: Final = 200
_NORMAL: Final = NormalDist()
_DEVIATIONS: Final = tuple(_NORMAL.inv_cdf((index + 0.5) / _DRAWS) for index in range(_DRAWS))

Scale = Callable[[float], float]


def scale_of(*sides: Interval) -> Scale:
    """The scale, linear or logarithmic, on which intervals are the more symmetric."""
    if not all(side.low > 0 and math.isfinite(side.high) for side in sides):
        return _linear

    def skew(scale: Scale) -> float:
        found = 0.0
        for side in sides:
            low, value, high = scale(side.low), scale(side.value), scale(side.high)
            if high > low:
                found += abs((high - value) - (value - low)) / (high - low)
        return found

    # Equal where there is nothing to choose by; two points are compared as they stand.
    return math.log if skew(math.log) < skew(_linear) else _linear


def tokens_for_gap(
    interval: Interval, bar: Interval, tokens: int, windows: int, comparisons: int
) -> int | None:
    """How many tokens in all would decide on which side of a bar a number lies.

    Args:
        interval: The number.
        bar: What it is compared with.
        tokens: How many were measured.
        windows: In how many windows.
        comparisons: Over how many comparisons the intervals hold together.

    Returns:
        A whole number of windows, in tokens; None where no number can be told, because an interval is
        unbounded or more windows would be needed than any text has.
    """
    scale = scale_of(interval, bar)
    sides = (interval, bar)
    upper, lower = sides if interval.value >= bar.value else sides[::-1]
    gap = scale(upper.value) - scale(lower.value)
    width = (scale(upper.value) - scale(upper.low)) + (scale(lower.high) - scale(lower.value))
    if not math.isfinite(width) or not math.isfinite(gap) or width <= 0:
        return None
    # Not the square root of a sum of squares: nothing is known of how the two sides hang together.
    distance = gap / (width / quantile(windows, comparisons))

    def power(count: int) -> float:
        factor = count / windows
        threshold = quantile(count, comparisons) / math.sqrt(factor)
        spread = math.sqrt(1 + 1 / factor)
        chances = [
            _NORMAL.cdf((distance / noise - threshold) / spread)
            + _NORMAL.cdf((-distance / noise - threshold) / spread)
            for noise in _noises(windows - 1)
        ]
        return sum(chances) / len(chances)

    return _tokens(power, tokens, windows)


def tokens_for_rows(
    decided: Callable[[Sequence[Row]], bool],
    rows: Sequence[Row],
    tokens: int,
    windows: int,
    comparisons: int,
) -> int | None:
    """How many tokens in all would decide what rests on several numbers.

    Args:
        decided: Whether such rows decide.
        rows: What was measured.
        tokens: On how many tokens.
        windows: In how many windows.
        comparisons: Over how many comparisons the intervals hold together.

    Returns:
        As :func:`tokens_for_gap`, with the new measurement drawn from what the one at hand leaves possible,
        each number by itself.
    """
    random = Random(0)
    futures = {
        (place, name): _Future(interval, windows, comparisons, random)
        for place, row in enumerate(rows)
        for name, interval in row.metrics.items()
        if not interval.is_point and math.isfinite(interval.high - interval.low)
    }

    def power(count: int) -> float:
        found = 0
        for draw in range(_DRAWS):
            drawn = [dict(row.metrics) for row in rows]
            for (place, name), future in futures.items():
                drawn[place][name] = future.measured(draw, count)
            found += decided(
                [replace(row, metrics=each) for row, each in zip(rows, drawn, strict=True)]
            )
        return found / _DRAWS

    return _tokens(power, tokens, windows)


class _Future:
    """What a new measurement may make of a number.

    Noise and deviation are drawn in evenly spaced quantiles, shuffled, so that few draws are enough.
    """

    def __init__(self, interval: Interval, windows: int, comparisons: int, random: Random) -> None:
        scale = scale_of(interval)
        self._linear = scale is _linear
        self._value = scale(interval.value)
        self._below = self._value - scale(interval.low)
        self._above = scale(interval.high) - self._value
        self._windows = windows
        self._comparisons = comparisons
        self._quantile = quantile(windows, comparisons)
        noises = list(_noises(windows - 1))
        deviations = list(_DEVIATIONS)
        random.shuffle(noises)
        random.shuffle(deviations)
        self._draws = tuple(zip(noises, deviations, strict=True))

    def measured(self, draw: int, count: int) -> Interval:
        noise, deviation = self._draws[draw]
        factor = count / self._windows
        error = noise * (self._below + self._above) / 2 / self._quantile
        value = self._value + error * math.sqrt(1 + 1 / factor) * deviation
        shrunk = noise * quantile(count, self._comparisons) / self._quantile / math.sqrt(factor)
        ends = (value, value - shrunk * self._below, value + shrunk * self._above)
        return Interval(*(ends if self._linear else (math.exp(min(end, 700.0)) for end in ends)))


def _tokens(power: Callable[[int], float], tokens: int, windows: int) -> int | None:
    """The fewest windows, to a hundredth, at which the power suffices, in tokens."""
    few, many = windows, windows
    while power(many) < ASSURANCE:
        few, many = many, 2 * many
        if many > _MOST_WINDOWS:
            return None
    while many - few > max(1, few // 100):
        middle = (few + many) // 2
        if power(middle) < ASSURANCE:
            few = middle
        else:
            many = middle
    return math.ceil(tokens / windows) * many


@cache
def _noises(degrees: int) -> tuple[float, ...]:
    """True noise over estimated noise, at evenly spaced quantiles of what the estimate leaves possible."""
    from scipy.special import chdtri

    return tuple(
        math.sqrt(degrees / float(chdtri(degrees, (index + 0.5) / _DRAWS)))
        for index in range(_DRAWS)
    )


def _linear(value: float) -> float:
    return value
