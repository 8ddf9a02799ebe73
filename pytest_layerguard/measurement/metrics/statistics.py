"""Means and percentiles of token quantities with 95 % intervals, clustered by window.

Token losses within a window are correlated; treated as independent, a nominal 95 % interval covers far less.
The window is the unit: Student's t on the window means (cluster-robust variance of a ratio estimator, Cameron
and Miller, "A Practitioner's Guide to Cluster-Robust Inference", 2015, with G/(G-1) and G-1 degrees of freedom).

Harm is skewed: some windows suffer far more than the rest. Student's interval then ends too early on the side
of the long tail, which is the side of the bar, and a proposal truly at the bar passes in 3 to 6 % of runs
instead of 2.5 %. That end is moved out to where Hall's transformation puts it ("On the removal of skewness by
transformation", Journal of the Royal Statistical Society B 54, 1992) for half again the skewness in the sample,
because a few windows show too little of it, and at most twice as far as Student's; the other end stays. Its
coverage is in ``docs/statistics.md``.

Documents are clusters of very unequal size, of which the largest decide. Their residuals are those of the jackknife,
which leaves out one document at a time, so that the standard error is that of Bell and McCaffrey's CR3 ("Bias
reduction in standard errors for linear regression with multi-stage samples", Survey Methodology 28, 2002). Degrees
of freedom and skewness are those of as many documents as they are worth: (sum w)^2 / sum w^2 for sizes w (Kish,
"Survey Sampling", 1965; Carter, Schnepel and Steigerwald, "Asymptotic behavior of a t-test robust to cluster
heterogeneity", Review of Economics and Statistics 99, 2017). Documents of one size have the interval of windows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import CONFIDENCE, Interval, quantile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FEWEST_WINDOWS: Final = 8
"""With fewer windows there is no interval; the point decides and the report has ``descriptive``."""

_SHORTFALL: Final = 1.5
"""Skewness to allow for over that of the sample; with 1 a skewed proposal at the bar still passes in 3 % of runs."""

_FURTHEST: Final = 2.0
"""How many times as far as Student's an interval that allows for skewness may reach."""

MOST_MISSED: Final = 0.03
"""How often an end of a counted share may miss the truth at most, whatever that is."""


@dataclass(frozen=True)
class Mean:
    """A mean over tokens and the standard error of it.

    Attributes:
        value: The mean over all scored tokens.
        error: Its standard error, clustered by window; 0 where all windows agree exactly.
        windows: The number of windows.
        skewness: Of the windows' deviations, with the usual correction for a small sample.
        worth: How many windows of one size know the mean as well, if the windows differ in size.
    """

    value: float
    error: float
    windows: int
    skewness: float = 0.0
    worth: float | None = None

    def interval(self, comparisons: int = 1) -> Interval:
        """Return the 95 % interval; simultaneous over so many comparisons by Bonferroni's inequality.

        With fewer than eight windows the interval is the point.
        """
        if self.windows < FEWEST_WINDOWS or not math.isfinite(self.value):
            return Interval.point(self.value)
        worth = self.windows if self.worth is None else self.worth
        half = quantile(worth, comparisons) * self.error
        # The fewer decide, the less of the skewness a sample shows.
        skewness = self.skewness * (self.windows / worth)
        return Interval(
            self.value,
            self.value - half * _reach(-skewness, worth),
            self.value + half * _reach(skewness, worth),
        )

    def root(self, comparisons: int = 1) -> Interval:
        """Return the interval of the root of a mean of squares, made in its logarithm."""
        if not self.value:
            return Interval.point(0.0)
        logarithm = replace(self, value=math.log(self.value) / 2, error=self.error / self.value / 2)
        return exponential(logarithm.interval(comparisons))

    def times(self, factor: float) -> Mean:
        """Return the mean of the quantity times a positive factor."""
        return replace(self, value=self.value * factor, error=self.error * factor)


def clustered(values: NDArray[np.float64], windows: NDArray[np.int64]) -> Mean:
    """Return the mean over tokens with its clustered standard error.

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
    return _mean_of(
        mean, np.bincount(windows, weights=values - mean).astype(np.float64), len(values)
    )


def ratio(sums: NDArray[np.float64], sizes: NDArray[np.float64]) -> Mean:
    """Return the mean over the units of independent texts with its clustered standard error.

    Args:
        sums: The sum of the quantity over each text, ``[n]``.
        sizes: The number of units of each text, ``[n]``.
    """
    total = float(sizes.sum())
    mean = float(sums.sum()) / total
    count = len(sums)
    if count < 2 or not math.isfinite(mean):
        return Mean(mean, 0.0, count)
    # 1 where all texts have one size.
    jackknife = (1 - 1 / count) / (1 - sizes / total)
    relative = sizes / sizes.max()
    return replace(
        _mean_of(mean, (sums - mean * sizes) * jackknife, total),
        worth=float(relative.sum() ** 2 / (relative**2).sum()),
    )


def _mean_of(mean: float, residuals: NDArray[np.float64], total: float) -> Mean:
    """Return a mean over ``total`` units with its standard error, from the residual of each cluster, ``[g]``."""
    count = len(residuals)
    variance = float((residuals**2).sum()) / (count - 1)
    error = math.sqrt(count * variance) / total
    if count < 3 or variance == 0:
        return Mean(mean, error, count)
    third = count * float((residuals**3).sum()) / ((count - 1) * (count - 2))
    return Mean(mean, error, count, third / variance**1.5)


def share(
    values: NDArray[np.float64], windows: NDArray[np.int64], comparisons: int = 1
) -> Interval:
    """Return the interval of a share of tokens, from one 0 or 1 per scored token, ``[n]``.

    Where the rare case never or hardly ever occurs the windows agree, which is little evidence of how rare it is.
    So the interval is no narrower than that of independent tokens (Clopper and Pearson, "The use of confidence
    or fiducial limits illustrated in the case of the binomial", Biometrika 26, 1934).
    """
    mean = clustered(values, windows)
    if mean.windows < FEWEST_WINDOWS:
        return mean.interval()
    found = mean.interval(comparisons)
    alone = exact_share(round(float(values.sum())), len(values), comparisons)
    return Interval(
        found.value, max(0.0, min(found.low, alone.low)), min(1.0, max(found.high, alone.high))
    )


def exact_share(hits: int, total: int, comparisons: int = 1) -> Interval:
    """Return the interval of a share of independent trials (Clopper and Pearson, 1934)."""
    from scipy.special import betaincinv

    tail = (1 - CONFIDENCE) / (2 * comparisons)
    misses = total - hits
    low = float(betaincinv(hits, misses + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, misses, 1 - tail)) if misses else 1.0
    return Interval(hits / total, low, high)


@cache
def counted_share(
    hits: int, total: int, comparisons: int = 1, most_missed: float = MOST_MISSED
) -> Interval:
    """Return the interval of a share of independent trials whose ends miss in 2.5 % on average and 3 % at most.

    A count is whole, so that how often an interval holds the true share must swing with it (Brown, Cai and DasGupta,
    "Interval estimation for a binomial proportion", Statistical Science 16, 2001). Clopper and Pearson's ends miss in
    2.5 % at most, and on average in less, far less where few count. The mid-P ends, for which the chance of the very
    outcome counts half (Lancaster, "Significance tests in discrete distributions", Journal of the American Statistical
    Association 56, 1961), miss in 2.5 % on average, but at some true shares in 5 %. These are the mid-P ends, but no
    nearer than Clopper and Pearson's at 3 %.

    Args:
        hits: How often it was met.
        total: In how many trials.
        comparisons: How many intervals hold together.
        most_missed: How often an end may miss at most, of one interval alone.
    """
    missed = most_missed / comparisons
    return Interval(
        hits / total,
        1 - _highest(total - hits, total, comparisons, missed),
        _highest(hits, total, comparisons, missed),
    )


def _highest(hits: int, total: int, comparisons: int, missed: float) -> float:
    """Return the upper end of a counted share."""
    from scipy.optimize import brentq
    from scipy.special import bdtr, betaincinv

    if hits == total:
        return 1.0
    tail = (1 - CONFIDENCE) / (2 * comparisons)

    def exact(chance: float) -> float:
        return float(betaincinv(hits + 1, total - hits, 1 - chance))

    def beyond(share: float) -> float:
        return float(bdtr(hits, total, share) + bdtr(hits - 1, total, share)) / 2 - tail

    nearest = exact(missed)
    # Without a hit the mid-P end is always nearer.
    return max(nearest, brentq(beyond, hits / total, exact(tail))) if hits else nearest


def percentile(
    values: NDArray[np.float64], windows: NDArray[np.int64], level: float, comparisons: int = 1
) -> Interval:
    """Return a percentile over tokens with its interval, from one number per scored token, ``[n]``.

    The value is numpy's, linear between the two tokens next to it. The ends are the tokens of those fractional ranks
    between which the percentile of independent tokens lies (Hutson, "Calculating nonparametric confidence intervals for
    quantiles using fractional order statistics", Journal of Applied Statistics 26, 1999), for as many tokens as the
    scored ones are worth (Korn and Graubard, "Confidence intervals for proportions with small expected number of
    positive counts estimated from survey data", Survey Methodology 24, 1998). The upper end is made for fewer, where a
    few windows have most of the tokens above. Where not even the largest token is surely above the percentile, the
    interval has no upper end.

    Args:
        values: The numbers.
        windows: The number of the window that each token belongs to, ``[n]``; 0..G-1, none left out.
        level: The share of tokens below the percentile, such as 0.99.
        comparisons: How many intervals hold together.
    """
    import numpy as np
    from scipy.optimize import brentq
    from scipy.special import betainc

    ordered = np.sort(values)
    value = at_place(ordered, level * (len(ordered) - 1))
    above = clustered((values > value).astype(np.float64), windows)
    if above.windows < FEWEST_WINDOWS:
        return Interval.point(value)
    tail = (1 - CONFIDENCE) / (2 * comparisons)
    known = _worth(above, len(values), comparisons)

    def end(tokens: float, wanted: float) -> float:
        """Return the token that is above the percentile with a certainty, of so many independent ones."""
        ranks = tokens + 1
        first, last = 1 / ranks, 1 - 1 / ranks

        def certainty(place: float) -> float:
            return 1 - float(betainc(ranks * place, ranks * (1 - place), level))

        if certainty(first) >= wanted:
            return -math.inf
        if certainty(last) <= wanted:
            return math.inf
        place = brentq(lambda at: certainty(at) - wanted, first, last)
        return at_place(ordered, place * (len(ordered) + 1) - 1)

    return Interval(
        value,
        min(end(known, tail), value),
        max(end(known / _longer(above, len(values)) ** 2, 1 - tail), value),
    )


def _worth(share: Mean, tokens: int, comparisons: int) -> float:
    """Return how many independent tokens would know a share as well as so many of windows do; no more than these."""
    from scipy.special import ndtri

    if not share.error:
        return float(tokens)
    normal = float(ndtri(1 - (1 - CONFIDENCE) / (2 * comparisons)))
    student = quantile(share.windows, comparisons)
    return min(tokens, share.value * (1 - share.value) / share.error**2 * (normal / student) ** 2)


def _longer(share: Mean, tokens: int) -> float:
    """Return how much further a share may lie above the sample's than chance alone puts it, for its skewness.

    Windows of independent tokens are skewed too where what is counted is rare. That much the percentile allows for.
    """
    if not share.error:
        return 1.0
    variance = share.value * (1 - share.value)
    error = max(share.error, math.sqrt(variance / tokens))
    chance = (1 - 2 * share.value) * error * math.sqrt(share.windows) / variance
    return max(1.0, _reach(share.skewness, share.windows) / _reach(chance, share.windows))


def at_place(ordered: NDArray[np.float64], place: float) -> float:
    """Return the number at a place of a sorted list, ``[n]``, linear between two; at an end beyond it."""
    place = min(max(place, 0.0), len(ordered) - 1.0)
    below = int(place)
    low, high = float(ordered[below]), float(ordered[min(below + 1, len(ordered) - 1)])
    # Also beside an infinite one.
    return low if low == high or place == below else low + (place - below) * (high - low)


def exponential(interval: Interval) -> Interval:
    """Return the interval of exp(x), infinite where that overflows."""
    return Interval(*(_exp(bound) for bound in (interval.value, interval.low, interval.high)))


def _reach(skewness: float, windows: float) -> float:
    """Return how many times as far as Student's the upper end lies, for deviations of this skewness.

    Hall's transformation is g(T) = T + aT²/3 + a²T³/27 + a/(6n), for T the mean's deviation in standard
    deviations of the windows; g is inverted at Student's quantile. Always at 95 %: further out the
    transformation rests on more than so few windows can tell.
    """
    point = -quantile(windows) / math.sqrt(windows)
    allowed = _SHORTFALL * skewness
    if abs(allowed) < 1e-9:
        return 1.0
    root = math.cbrt(1 + allowed * (point - allowed / (6 * windows)))
    return min(max(3 / allowed * (root - 1) / point, 1.0), _FURTHEST)


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
