"""The number of tokens that would decide: what it grows with, and that it does decide."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from pytest_layerguard.bet.criteria.interval import Interval, quantile
from pytest_layerguard.bet.criteria.straddle import Straddle, scale_of
from pytest_layerguard.measurement.metrics.statistics import percentile

WINDOW = 128


def straddle(low: float, value: float, high: float, bar: float | Interval) -> Straddle:
    side = bar if isinstance(bar, Interval) else Interval.point(bar)
    return Straddle("kl", "skip-0", Interval(value, low, high), side, "kl <= 1")


def decides(open_: Straddle, windows: int = 64, comparisons: int = 1) -> int:
    found = open_.tokens_to_decide(windows * WINDOW, windows, comparisons)
    assert found is not None
    assert found % WINDOW == 0
    return found


def test_the_nearer_the_bar_the_more_tokens():
    found = [decides(straddle(-1, 1, 3, bar)) for bar in (2.9, 2.5, 2, 1.5, 1)]
    assert found == sorted(found)
    assert len(set(found)) == len(found)
    assert found[0] > 64 * WINDOW


def test_a_bar_below_takes_as_many_as_one_above():
    assert decides(straddle(-1, 1, 3, 2)) == decides(straddle(-1, 1, 3, 0))


def test_an_estimate_on_the_bar_is_decided_by_how_far_it_may_be_from_it():
    # With the noise known, the new estimate is normal around the bar with variance 1 + 1/k in squared errors of
    # the old one; it is decided where that exceeds 1.96/sqrt(k), which 85 % of a normal's draws do at 0.189.
    factor = decides(straddle(-1, 1, 3, 1), windows=4096) / (4096 * WINDOW)
    nearest = NormalDist().inv_cdf(0.575)
    assert factor == pytest.approx((1.96 / nearest) ** 2 - 1, rel=0.03)


def test_a_ratio_is_reckoned_with_in_log_space():
    # From 2 to the bar 4 as far as from 2 to its end 8 in two halves, and so from 1 to 2 of 3.
    assert decides(straddle(0.5, 2, 8, 4)) == decides(straddle(-1, 1, 3, 2))
    assert scale_of(Interval(2, 0.5, 8)) is math.log
    assert scale_of(Interval(2, 1, 3))(2.0) == 2.0


def test_more_comparisons_take_more_tokens():
    few, many = (
        decides(straddle(-quantile(64, m), 0, quantile(64, m), 1), comparisons=m) for m in (1, 48)
    )
    assert many > 2 * few


def test_an_uncertain_bar_adds_its_own_width():
    alone, both = straddle(-1, 1, 3, 2), straddle(-1, 1, 3, Interval(2, 1, 3))
    assert decides(both) > 1.5 * decides(alone)


def test_no_number_where_none_would_do():
    assert straddle(-math.inf, 0, math.inf, 2).tokens_to_decide(1_024, 8, 1) is None
    assert straddle(0, 1, math.inf, 2).tokens_to_decide(1_024, 8, 1) is None
    assert straddle(1, 1, 1, 1).tokens_to_decide(1_024, 8, 1) is None


@pytest.mark.parametrize("windows", [8, 22, 64])
@pytest.mark.parametrize("errors", [0.6, 1, 2])
def test_it_does_decide_in_80_of_100_cases(windows: int, errors: float):
    random = np.random.default_rng(windows)
    again = []
    gap = errors / math.sqrt(windows)
    while len(again) < 200:
        found = _measured(random, gap, windows)
        if not found.low <= 0 <= found.high:
            continue
        named = decides(straddle(found.low, found.value, found.high, 0), windows)
        later = _measured(random, gap, named // WINDOW)
        again.append(not later.low <= 0 <= later.high)
    assert np.mean(again) >= 0.8


def _measured(random: np.random.Generator, gap: float, windows: int) -> Interval:
    """What so many normal windows of mean ``gap`` and deviation 1 measure, without drawing each."""
    mean = gap + random.normal() / math.sqrt(windows)
    deviation = math.sqrt(random.chisquare(windows - 1) / (windows - 1))
    half = quantile(windows) * deviation / math.sqrt(windows)
    return Interval(mean, mean - half, mean + half)


@pytest.mark.parametrize("comparisons", [100, 400])
@pytest.mark.parametrize(
    ("metric", "level", "length"), [("four.kl_p99", 0.99, 100), ("kl_p999", 0.999, 1_000)]
)
def test_a_percentile_without_an_upper_end_says_how_many_tokens_give_it_one(
    metric: str, level: float, length: int, comparisons: int
) -> None:
    def fewest(windows: int, interval: Interval) -> int | None:
        open_ = Straddle(metric, "", interval, Interval.point(5), "kl_p99 <= 5")
        return open_.fewest_tokens(windows * length, windows, comparisons)

    enough = fewest(8, Interval(1, 0, math.inf))
    assert enough is not None
    for windows in range(8, 12):
        # One token of each window is above the percentile, so that all count as independent ones do.
        numbers = np.repeat(np.arange(windows), length)
        values = np.tile(np.arange(length), windows) + numbers * 1e-6
        found = percentile(values, numbers, level, comparisons)
        assert (found.high < math.inf) == (windows * length >= enough)
        assert fewest(windows, found) == (None if windows * length >= enough else enough)


def test_only_a_percentile_lacks_an_upper_end_for_want_of_tokens() -> None:
    endless = Straddle("kl", "", Interval(1, 0, math.inf), Interval.point(5), "kl <= 5")
    assert endless.fewest_tokens(1_024, 8, 1) is None
