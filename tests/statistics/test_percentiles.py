"""The interval of a percentile: against numpy and exact binomials, and how often it holds the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from support.processes import SYNTHETIC

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.measurement.metrics.statistics import at_place, percentile

Array = NDArray[np.float64]


def windows_of(count: int, length: int) -> NDArray[np.int64]:
    return np.repeat(np.arange(count), length)


@pytest.mark.parametrize("level", [0.5, 0.99, 0.999])
@pytest.mark.parametrize("tokens", [2, 1_000, 1_001])
def test_the_value_is_numpys(level: float, tokens: int) -> None:
    values = np.random.default_rng(0).gamma(0.3, size=tokens)
    found = percentile(values, windows_of(1, tokens), level)
    assert found.is_point
    assert found.value == pytest.approx(np.quantile(values, level), rel=1e-12)


@pytest.mark.parametrize("comparisons", [1, 12])
def test_independent_tokens_have_the_ends_that_binomials_allow(comparisons: int) -> None:
    # Each window has as many tokens above the percentile as the next, so that all tokens are worth their number.
    count, length, level = 200, 100, 0.99
    values = np.tile(np.arange(length) / length, count) + np.repeat(np.arange(count), length) * 1e-6
    found = percentile(values, windows_of(count, length), level, comparisons)
    tail = 0.025 / comparisons
    worth = count * length
    # So many of them are above the percentile, by chance, at most and at least.
    most = stats.binom.ppf(1 - tail, worth, 1 - level) / worth
    fewest = stats.binom.ppf(tail, worth, 1 - level) / worth
    ordered = np.sort(values)
    for end, above in ((found.low, most), (found.high, fewest)):
        rank = np.searchsorted(ordered, end)
        assert 1 - rank / len(ordered) == pytest.approx(above, abs=1.5 / worth)


def test_tokens_that_come_in_clusters_are_worth_less() -> None:
    random = np.random.default_rng(1)
    effects = random.normal(size=(64, 1))
    apart = random.normal(size=(64, 64))
    alike = 0.2 * random.normal(size=(64, 64)) + effects
    width = [
        (found.high - found.low) / each.std()
        for each in (apart, alike)
        for found in [percentile(each.ravel(), windows_of(64, 64), 0.9)]
    ]
    assert width[1] > 2 * width[0]


def test_where_few_windows_have_most_of_the_tail_it_may_reach_further() -> None:
    # As many tokens of as many windows are in the tail, and windows differ as much, but those with many are fewer.
    even, skewed = [0] * 6 + [2] * 4 + [4] * 6, [1] * 12 + [5] * 4
    assert sum(even) == sum(skewed)
    assert np.var(even) == np.var(skewed)
    found = []
    for counts in (even, skewed):
        in_tail = np.concatenate([np.arange(64) < count for count in counts])
        values = np.empty(16 * 64)
        values[in_tail] = 2 + np.arange(32)
        values[~in_tail] = np.linspace(0, 1, 16 * 64 - 32)
        found.append(percentile(values, windows_of(16, 64), 1 - 32 / (16 * 64)))
    assert found[0].low == found[1].low
    assert found[0].value == found[1].value
    assert found[0].high < found[1].high < math.inf


def test_few_tokens_give_no_upper_end() -> None:
    values = np.random.default_rng(2).gamma(0.3, size=16 * 128)
    assert math.isfinite(percentile(values, windows_of(16, 128), 0.99).high)
    found = percentile(values, windows_of(16, 128), 0.999)
    assert found.high == math.inf
    assert 0 < found.low < found.value < values.max()


def test_too_few_windows_give_no_interval_and_few_tokens_none_below_the_value() -> None:
    values = np.random.default_rng(3).gamma(0.3, size=8)
    assert percentile(values[:7], windows_of(7, 1), 0.99).is_point
    found = percentile(values, windows_of(8, 1), 0.999)
    assert (found.low, found.high) == (found.value, math.inf)


def test_what_is_infinite_stays_so() -> None:
    values = np.ones(16 * 100)
    values[::20] = np.inf
    assert percentile(values, windows_of(16, 100), 0.99) == Interval.point(math.inf)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_the_interval_covers(name: str) -> None:
    # Of 300 runs; three standard errors of a share of 95 % are 4 %. docs/statistics.md has the figures of 2,000.
    random = np.random.default_rng(7)
    process = SYNTHETIC[name]
    truth = np.quantile(np.exp(process(random, 1, 20_000)), 0.99)
    held = 0
    for _ in range(300):
        found = percentile(np.exp(process(random, 1, 64)).ravel(), windows_of(64, 64), 0.99)
        held += found.low <= truth <= found.high
    assert 0.91 <= held / 300 <= 0.99


def test_a_number_beside_an_infinite_one_is_itself() -> None:
    ordered = np.array([1.0, 2.0, np.inf])
    assert [at_place(ordered, place) for place in (0.5, 1, 1.5)] == [1.5, 2.0, math.inf]
