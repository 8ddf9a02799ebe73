"""The intervals of tasks: against scipy, against McNemar's test, and how often they hold the truth."""

from __future__ import annotations

import pytest
from scipy import stats
from support import paired

from pytest_layerguard.measurement.metrics.statistics import exact_share
from pytest_layerguard.measurement.metrics.task_metrics import mcnemar, paired_change


def test_mcnemar_is_scipys_binomial_test() -> None:
    for lost in range(26):
        for gained in range(26):
            if lost + gained:
                expected = stats.binomtest(lost, lost + gained, 0.5).pvalue
                assert mcnemar(lost, gained) == pytest.approx(expected, rel=1e-12)
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1_300, 1_203) == pytest.approx(stats.binomtest(1_300, 2_503).pvalue, rel=1e-9)


@pytest.mark.parametrize(("hits", "total"), [(0, 8), (1, 8), (8, 8), (57, 200), (3, 10_000)])
@pytest.mark.parametrize("comparisons", [1, 5])
def test_a_share_is_scipys_exact_interval(hits: int, total: int, comparisons: int) -> None:
    level = 1 - 0.05 / comparisons
    expected = stats.binomtest(hits, total).proportion_ci(level, method="exact")
    found = exact_share(hits, total, comparisons)
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-12)
    assert found.value == hits / total


@pytest.mark.parametrize("comparisons", [1, 30])
def test_the_change_leaves_out_nothing_only_where_mcnemar_does(comparisons: int) -> None:
    agree = differ = 0
    for lost in range(36):
        for gained in range(36):
            found = paired_change(lost, gained, 400, comparisons)
            ruled_out = mcnemar(lost, gained) < 0.05 / comparisons
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
@pytest.mark.parametrize("share_lost", [0.5, 0.9])
def test_the_change_is_held_also_where_few_questions_changed(total: int, share_lost: float) -> None:
    (held, below, above), agrees = paired.of_change(total, 12, share_lost)
    assert agrees >= 0.98
    assert 0.94 <= held <= 0.98
    assert max(below, above) <= 0.026
    for few in (1, 3):
        # Exact limits of so small counts are wide by nature.
        (held, below, above), _ = paired.of_change(total, few, share_lost)
        assert held >= 0.97
        assert max(below, above) <= 0.026
