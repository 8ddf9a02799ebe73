"""Means of token quantities with 95 % intervals, clustered by window.

Token losses within a window are correlated; treated as independent, a nominal 95 % interval covers far less.
The window is the unit: Student's t on the window means (cluster-robust variance of a ratio estimator, Cameron
and Miller, "A Practitioner's Guide to Cluster-Robust Inference", 2015, with G/(G-1) and G-1 degrees of freedom).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria import Interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FEWEST_WINDOWS: Final = 8
"""With fewer windows there is no interval; the point decides and the report says ``descriptive``."""

CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class Mean:
    """A mean over tokens and the standard error of it.

    Attributes:
        value: The mean over all scored tokens.
        error: Its standard error, clustered by window; 0 where all windows agree exactly.
        windows: How many windows it rests on.
    """

    value: float
    error: float
    windows: int

    def interval(self, comparisons: int = 1) -> Interval:
        """The 95 % interval; simultaneous over so many comparisons by Bonferroni's inequality.

        With fewer than eight windows the interval is the point.
        """
        if self.windows < FEWEST_WINDOWS or not math.isfinite(self.value):
            return Interval(self.value, self.value, self.value)
        half = quantile(self.windows, comparisons) * self.error
        return Interval(self.value, self.value - half, self.value + half)


def quantile(windows: int, comparisons: int = 1) -> float:
    """Student's t quantile for a two-sided interval on so many windows, shared by so many comparisons."""
    from scipy.special import stdtrit

    return float(stdtrit(windows - 1, 1 - (1 - CONFIDENCE) / (2 * comparisons)))


def clustered(values: NDArray[np.float64], windows: NDArray[np.int64]) -> Mean:
    """The mean over tokens with its clustered standard error.

    Args:
        values: One number per scored token, ``[n]``.
        windows: The number of the window that each token belongs to, ``[n]``; 0..G-1, none left out.

    Returns:
        The mean weighs every token alike, also where the last window is shorter.
    """
    import numpy as np

    count = int(windows.max()) + 1
    mean = float(values.mean())
    if count < 2 or not math.isfinite(mean):
        return Mean(mean, 0.0, count)
    residuals = np.bincount(windows, weights=values - mean)
    variance = count / (count - 1) * float((residuals**2).sum()) / len(values) ** 2
    return Mean(mean, math.sqrt(variance), count)


def exponential(interval: Interval) -> Interval:
    """The interval of exp(x), infinite where that overflows."""
    return Interval(*(_exp(bound) for bound in (interval.value, interval.low, interval.high)))


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
