"""The intervals of tasks: against scipy, against McNemar's test, and how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from support import paired

from pytest_layerguard.measurement.metrics.statistics import counted_share, exact_share
from pytest_layerguard.measurement.metrics.task_metrics import mcnemar, paired_change


def test_mcnemar_is_scipys_binomial_test() -> None:
    for lost in range(26):
        for gained in range(26):
            if lost + gained:
                expected = stats.binomtest(lost, lost + gained, 0.5).pvalue
                assert mcnemar(lost, gained) == pytest.approx(expected, rel=1e-12)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1_300, 1_203) == pytest.approx(stats.binomtest(1_300, 2_503).pvalue, rel=1e-9)


COUNTS = [(0, 8), (1, 8), (8, 8), (57, 200), (3, 10_000)]


@pytest.mark.parametrize(("hits", "total"), COUNTS)
@pytest.mark.parametrize("comparisons", [1, 5])
def test_a_share_of_tokens_is_no_surer_than_scipys_exact_interval(
    hits: int, total: int, comparisons: int
) -> None:
    level = 1 - 0.05 / comparisons
    expected = stats.binomtest(hits, total).proportion_ci(level, method="exact")
    found = exact_share(hits, total, comparisons)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-12)
    assert found.value == hits / total


@pytest.mark.parametrize(("hits", "total"), COUNTS)
@pytest.mark.parametrize("comparisons", [1, 5])
def test_the_ends_of_a_share_count_the_outcome_half_and_are_never_nearer_than_exact_ones_at_3_percent(
    hits: int, total: int, comparisons: int
) -> None:
    found = counted_share(hits, total, comparisons)
    assert found.value == hits / total
    exact = stats.binomtest(hits, total).proportion_ci(1 - 0.06 / comparisons, method="exact")
    assert found.low <= exact.low + 1e-12
    assert found.high >= exact.high - 1e-12
    for end, bound, above in (
        (found.low, exact.low, stats.binom.sf(hits, total, found.low)),
        (found.high, exact.high, stats.binom.cdf(hits - 1, total, found.high)),
    ):
        if end not in (0, 1) and end != pytest.approx(bound, abs=1e-12):
            half = above + stats.binom.pmf(hits, total, end) / 2
            assert half == pytest.approx(0.025 / comparisons, rel=1e-6)


@pytest.mark.parametrize("comparisons", [1, 30])
def test_the_change_leaves_out_0_only_where_mcnemars_mid_p_does(comparisons: int) -> None:
    agree = differ = 0
    for lost in range(36):
        for gained in range(36):
            found = paired_change(lost, gained, 400, comparisons)
            # The exact test counts the very outcome whole on both sides, the mid-P test half of it.
            mid = mcnemar(lost, gained) - stats.binom.pmf(lost, lost + gained, 0.5)
            ruled_out = mid < 0.0505 / comparisons
            assert ruled_out or found.low <= 0 <= found.high
            agree += (found.low > 0 or found.high < 0) == ruled_out
            differ += (found.low > 0 or found.high < 0) != ruled_out
            mirrored = paired_change(gained, lost, 400, comparisons)
            assert mirrored.low == pytest.approx(-found.high, abs=1e-12)
            assert mirrored.high == pytest.approx(-found.low, abs=1e-12)
            assert -1 <= found.low <= found.value <= found.high <= 1
    # It rules nothing out too seldom either.
    assert differ <= agree / 100


@pytest.mark.parametrize("total", [50, 200])
def test_the_change_is_held_on_average_and_missed_on_neither_side_in_more_than_3_percent(
    total: int,
) -> None:
    for few, many, least in ((1, 5, 0.97), (5, 10, 0.94), (10, 20, 0.94)):
        found = np.array(
            [
                paired.of_change(total, changed, lost)
                for changed in np.linspace(few, many, 5)
                for lost in np.linspace(0, 1, 11)
            ]
        )
        assert least <= found[:, 0].mean()
        assert found[:, 0].min() >= 0.94
        assert found[:, 1:].max() <= 0.031
    # From ten on also no wider than it should be.
    assert found[:, 0].mean() <= 0.97


@pytest.mark.parametrize("total", [50, 200])
@pytest.mark.parametrize("comparisons", [1, 48])
def test_a_share_is_held_on_average_and_missed_on_neither_side_in_more_than_3_percent(
    total: int, comparisons: int
) -> None:
    shares = np.linspace(0, 1, 401)[1:-1]
    found = np.array([paired.of_share(total, share, comparisons) for share in shares])
    missed = 0.03 / comparisons
    assert found[:, 1:].max() <= missed + 1e-9
    often = found[(shares > 5 / total) & (shares < 1 - 5 / total)].mean(0)
    assert 0.5 * 0.025 / comparisons <= often[1:].min() <= often[1:].max() <= 0.025 / comparisons
