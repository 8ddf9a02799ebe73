"""The interval of a mean: by hand, against textbook formulas, and how often it holds the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from support.processes import SYNTHETIC, Process, sweep

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.measurement.metrics.statistics import (
    FEWEST_WINDOWS,
    Mean,
    clustered,
    exponential,
    quantile,
    share,
)

Array = NDArray[np.float64]


def windows_of(sizes: list[int]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(sizes)), sizes)


def of_windows(tokens: Array) -> Mean:
    return clustered(tokens.ravel(), windows_of([tokens.shape[1]] * len(tokens)))


def _skewness(sample: Array) -> float:
    """The third cumulant's unbiased estimate over the deviation's cube (the G1 of Joanes and Gill, 1998)."""
    return float(stats.kstat(sample, 3) / stats.kstat(sample, 2) ** 1.5)


def test_equal_windows_are_a_sample_of_their_means() -> None:
    tokens = np.random.default_rng(0).normal(size=(12, 10)) + 3
    means = tokens.mean(1)
    found = of_windows(tokens)
    assert found.value == pytest.approx(means.mean(), rel=1e-12)
    assert found.error == pytest.approx(means.std(ddof=1) / math.sqrt(12), rel=1e-12)
    assert found.skewness == pytest.approx(_skewness(means), rel=1e-12)
    assert found.windows == 12


def test_windows_of_unequal_length_weigh_by_their_tokens() -> None:
    values = np.array([1.0, 1, 1, 1, 4, 4, 7])
    found = clustered(values, windows_of([4, 2, 1]))
    mean = 19 / 7
    sums = [4 * (1 - mean), 2 * (4 - mean), 7 - mean]
    assert found.value == pytest.approx(mean, rel=1e-12)
    assert found.error == pytest.approx(math.sqrt(3 / 2 * sum(s * s for s in sums)) / 7, rel=1e-12)


@pytest.mark.parametrize("comparisons", [1, 2, 48])
@pytest.mark.parametrize("windows", [8, 22, 64])
def test_the_quantile_is_students_shared_out_by_bonferroni(windows: int, comparisons: int) -> None:
    wanted = stats.t.ppf(1 - 0.05 / (2 * comparisons), windows - 1)
    assert quantile(windows, comparisons) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("comparisons", [1, 48])
def test_without_skewness_the_interval_is_students(comparisons: int) -> None:
    found = Mean(2.0, 0.5, 16).interval(comparisons)
    low, high = stats.t.interval(1 - 0.05 / comparisons, 15, 2.0, 0.5)
    assert (found.low, found.value, found.high) == pytest.approx((low, 2.0, high))


@pytest.mark.parametrize("windows", [8, 22, 64])
@pytest.mark.parametrize("skewness", [0.05, 0.3, 0.6, 1.8])
def test_the_side_of_the_long_tail_reaches_to_where_halls_transformation_is_students(
    windows: int, skewness: float
) -> None:
    found = Mean(0.0, 1.0, windows, skewness).interval()
    student = quantile(windows)
    assert found.low == pytest.approx(-student)
    assert student < found.high <= 2 * student
    if found.high < 1.999 * student:
        # T is (mean - truth) over the deviation of the windows; at the upper end the truth is `high`.
        at = -found.high / math.sqrt(windows)
        a = 1.5 * skewness
        transformed = at + a * at**2 / 3 + a**2 * at**3 / 27 + a / (6 * windows)
        assert transformed == pytest.approx(-student / math.sqrt(windows), rel=1e-9)
    mirrored = Mean(0.0, 1.0, windows, -skewness).interval()
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


def test_skewness_moves_simultaneous_ends_by_the_same_share() -> None:
    alone, together = (Mean(0.0, 1.0, 22, 0.8).interval(m) for m in (1, 48))
    assert together.high / alone.high == pytest.approx(quantile(22, 48) / quantile(22))


def test_fewer_than_eight_windows_have_no_interval() -> None:
    assert Mean(2.0, 0.5, FEWEST_WINDOWS - 1).interval() == Interval.point(2.0)
    assert not Mean(2.0, 0.5, FEWEST_WINDOWS).interval().is_point


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_what_is_not_finite_has_no_interval(value: float) -> None:
    values = np.array([1.0] * 15 + [value])
    assert clustered(values, windows_of([2] * 8)).interval() == Interval.point(value)


def test_windows_that_agree_have_no_width() -> None:
    found = clustered(np.full(64, 0.25), windows_of([4] * 16))
    assert (found.error, found.skewness) == (0, 0)
    assert found.interval(48) == Interval.point(0.25)


def test_one_window_is_a_point() -> None:
    assert clustered(np.array([1.0, 3.0]), windows_of([2])) == Mean(2.0, 0.0, 1)


def test_a_mean_in_other_units_keeps_its_shape() -> None:
    mean = Mean(2.0, 0.5, 22, 0.7)
    found, wanted = mean.times(3).interval(), mean.interval()
    assert (found.low, found.value, found.high) == pytest.approx(
        (3 * wanted.low, 6, 3 * wanted.high)
    )


def test_an_exponential_that_overflows_is_infinite() -> None:
    assert exponential(Interval(1, 0, 2)) == Interval(math.e, 1, math.exp(2))
    assert exponential(Interval(800, 1, 900)) == Interval(math.inf, math.e, math.inf)


def test_a_share_that_never_varies_is_no_surer_than_independent_tokens() -> None:
    every = share(np.ones(1024), windows_of([128] * 8))
    wanted = stats.binomtest(1024, 1024).proportion_ci(method="exact")
    assert (every.value, every.high) == (1, 1)
    assert every.low == pytest.approx(wanted.low)
    none = share(np.zeros(1024), windows_of([128] * 8), 48)
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(1 - (0.025 / 48) ** (1 / 1024))


def test_a_share_is_as_unsure_as_its_windows() -> None:
    values = np.repeat([0.0, 1.0] * 4, 128)
    found = share(values, windows_of([128] * 8))
    wanted = clustered(values, windows_of([128] * 8)).interval()
    assert (found.low, found.high) == (max(0, wanted.low), min(1, wanted.high))
    assert share(values[:512], windows_of([128] * 4)) == Interval.point(0.5)


def covered(process: Process, windows: int, runs: int) -> tuple[float, float, float]:
    """How often the interval holds 0, how often it passes at the bar, how often one by tokens holds it."""
    random = np.random.default_rng(7)
    held = passed = by_token = 0
    for _ in range(runs):
        tokens = process(random, 1, windows)[0]
        found = of_windows(tokens).interval()
        held += found.low <= 0 <= found.high
        passed += found.high <= 0
        by_token += abs(tokens.mean()) <= 1.96 * tokens.std() / math.sqrt(tokens.size)
    return held / runs, passed / runs, by_token / runs


@pytest.mark.parametrize("windows", [8, 22, 64])
@pytest.mark.parametrize("name", SYNTHETIC)
def test_the_interval_covers_where_one_by_tokens_does_not(name: str, windows: int) -> None:
    # Of 500 runs; three standard errors of a share of 95 % are 3 %. docs/statistics.md has the figures of 3,000.
    held, passed, by_token = covered(SYNTHETIC[name], windows, 500)
    assert 0.92 <= held <= 0.99
    assert passed <= 0.046
    assert by_token < 0.8


def test_the_root_of_a_mean_of_squares_is_made_in_its_logarithm() -> None:
    found, square = Mean(4.0, 0.5, 22).root(), Mean(math.log(4.0), 0.5 / 4.0, 22).interval()
    assert (found.value, found.low, found.high) == pytest.approx(
        [math.exp(end / 2) for end in (square.value, square.low, square.high)]
    )
    assert Mean(0.0, 0.0, 22).root() == Interval.point(0.0)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_a_root_mean_square_is_held_from_eight_windows_too(name: str) -> None:
    # Of 500 runs; three standard errors of a share of 95 % are 3 %. docs/statistics.md has the figures of 4,000.
    random = np.random.default_rng(7)
    truth = math.sqrt(float((SYNTHETIC[name](random, 1, 20_000) ** 2).mean()))
    found = [of_windows(each**2).root() for each in SYNTHETIC[name](random, 500, 8)]
    assert 0.92 <= sum(each.low <= truth <= each.high for each in found) / 500 <= 0.99


def test_simultaneous_intervals_hold_all_layers_of_a_sweep() -> None:
    random = np.random.default_rng(3)
    draw = sweep(SYNTHETIC["AR(1), normal window effects"], 48)
    held = passed = 0
    for _ in range(100):
        found = [of_windows(each).interval(48) for each in draw(random, 1, 8)]
        held += all(each.low <= 0 <= each.high for each in found)
        passed += any(each.high <= 0 for each in found)
    assert held >= 90
    assert passed <= 7
