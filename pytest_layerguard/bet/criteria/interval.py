"""Numbers with a 95 % interval, and comparisons of them: true, false or undecided."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable


CONFIDENCE: Final = 0.95


class Truth(Enum):
    """True, false or undecided: Kleene's three-valued logic."""

    TRUE = "true"
    FALSE = "false"
    UNDECIDED = "undecided"

    def __invert__(self) -> Truth:
        """Return ``not``. Undecided stays undecided."""
        return _NOT[self]

    @classmethod
    def of(cls, value: bool) -> Truth:
        """Return TRUE or FALSE."""
        return cls.TRUE if value else cls.FALSE

    @classmethod
    def all(cls, truths: Iterable[Truth]) -> Truth:
        """Return ``and`` over all: false if one is false, else undecided if one is undecided."""
        values = set(truths)
        if cls.FALSE in values:
            return cls.FALSE
        return cls.UNDECIDED if cls.UNDECIDED in values else cls.TRUE

    @classmethod
    def any(cls, truths: Iterable[Truth]) -> Truth:
        """Return ``or`` over all: true if one is true, else undecided if one is undecided."""
        return ~cls.all(~truth for truth in truths)


_NOT: Final = {
    Truth.TRUE: Truth.FALSE,
    Truth.FALSE: Truth.TRUE,
    Truth.UNDECIDED: Truth.UNDECIDED,
}


@dataclass(frozen=True)
class Interval:
    """A value with its interval. ``low`` = ``value`` = ``high`` if there is no uncertainty.

    Infinite ends are allowed. Raises ValueError for NaN or low > high.
    """

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        """Raise ValueError if this is not an interval."""
        if math.isnan(self.value) or not self.low <= self.high:
            raise ValueError(f"not an interval: {self.value} [{self.low}, {self.high}]")

    @classmethod
    def point(cls, value: float) -> Interval:
        """Return a number without uncertainty."""
        return cls(value, value, value)

    @property
    def is_point(self) -> bool:
        """Whether there is no uncertainty."""
        return self.low == self.value == self.high

    def __neg__(self) -> Interval:
        """Return the interval of -x."""
        return Interval(-self.value, -self.high, -self.low)

    def __add__(self, other: Interval) -> Interval:
        """Return the interval of x + y."""
        return _sound(self.value + other.value, (self.low + other.low,), (self.high + other.high,))

    def __sub__(self, other: Interval) -> Interval:
        """Return the interval of x - y."""
        return self + -other

    def __mul__(self, other: Interval) -> Interval:
        """Return the interval of x * y."""
        ends = [_times(x, y) for x in (self.low, self.high) for y in (other.low, other.high)]
        return _sound(_times(self.value, other.value), ends, ends)

    def __truediv__(self, other: Interval) -> Interval:
        """Return the interval of x / y, unbounded if y may be zero."""
        if other.low <= 0 <= other.high:
            return _sound(_quotient(self.value, other.value), (-math.inf,), (math.inf,))
        ends = [_quotient(x, y) for x in (self.low, self.high) for y in (other.low, other.high)]
        return _sound(_quotient(self.value, other.value), ends, ends)

    def compare(self, sign: str, other: Interval) -> Truth:
        """Return whether ``x sign y`` holds for all, none or some values in the intervals."""
        match sign:
            case "<":
                return _decided(self.high < other.low, self.low >= other.high)
            case "<=":
                return _decided(self.high <= other.low, self.low > other.high)
            case ">":
                return other.compare("<", self)
            case ">=":
                return other.compare("<=", self)
            case "==":
                same = self.low == self.high == other.low == other.high
                return _decided(same, self.high < other.low or self.low > other.high)
            case _:
                return ~self.compare("==", other)

    def __str__(self) -> str:
        """Return ``6.21 [5.98, 6.45]``, or the number alone if there is no uncertainty."""
        if self.is_point:
            return short(self.value)
        return f"{short(self.value)} [{short(self.low)}, {short(self.high)}]"


def least(intervals: Iterable[Interval]) -> Interval:
    """Return the interval of the smallest."""
    listed = list(intervals)
    return Interval(
        min(each.value for each in listed),
        min(each.low for each in listed),
        min(each.high for each in listed),
    )


def greatest(intervals: Iterable[Interval]) -> Interval:
    """Return the interval of the largest."""
    return -least(-each for each in intervals)


def mean(intervals: Iterable[Interval]) -> Interval:
    """Return an interval that contains the mean, however the terms depend on each other."""
    listed = list(intervals)
    count = len(listed)
    # Each divided first: a sum of large finite numbers must not overflow.
    return _sound(
        sum(each.value / count for each in listed),
        (sum(each.low / count for each in listed),),
        (sum(each.high / count for each in listed),),
    )


@cache
def quantile(windows: float, comparisons: int = 1) -> float:
    """Return Student's t quantile for two-sided intervals on ``windows`` windows, or what others are worth.

    The intervals hold together over ``comparisons`` (Bonferroni).
    """
    from scipy.special import stdtrit

    return float(stdtrit(windows - 1, 1 - (1 - CONFIDENCE) / (2 * comparisons)))


def short(value: float) -> str:
    """Return a number with four significant digits, without an exponent from 10,000 up to 1e9."""
    return f"{value:,.0f}" if 9_999.5 <= abs(value) < 1e9 else f"{value:.4g}"


def _decided(yes: bool, no: bool) -> Truth:
    if yes:
        return Truth.TRUE
    return Truth.FALSE if no else Truth.UNDECIDED


def _times(x: float, y: float) -> float:
    # An end of zero stays zero: the other end is a bound, not a number that is reached.
    return 0.0 if x == 0 or y == 0 else x * y


def _quotient(x: float, y: float) -> float:
    if y == 0:
        return math.copysign(math.inf, x) if x else 0.0
    return x / y


def _sound(value: float, lows: Iterable[float], highs: Iterable[float]) -> Interval:
    """Return the interval, unbounded where an end is NaN (inf - inf)."""
    low, high = list(lows), list(highs)
    return Interval(
        0.0 if math.isnan(value) else value,
        -math.inf if any(map(math.isnan, low)) else min(low),
        math.inf if any(map(math.isnan, high)) else max(high),
    )
