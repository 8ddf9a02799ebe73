"""The interval of a ratio over documents of unequal length: by hand, and how often it holds the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from support import documents

from pytest_layerguard.measurement.metrics.statistics import clustered, ratio


@pytest.mark.parametrize("count", [8, 57])
@pytest.mark.parametrize("comparisons", [1, 48])
def test_documents_of_one_size_have_the_interval_of_windows(count: int, comparisons: int) -> None:
    # Whole numbers about 0, so that not a bit may differ.
    losses = np.random.default_rng(count).integers(-64, 64, (count, 16)).astype(float)
    losses[-1, -1] -= losses.sum()
    found = ratio(losses.sum(1), np.full(count, 16.0))
    windows = clustered(losses.ravel(), np.repeat(np.arange(count), 16))
    assert found.worth == count
    assert found.interval(comparisons) == windows.interval(comparisons)


def test_documents_of_unequal_size_are_left_out_one_by_one() -> None:
    random = np.random.default_rng(0)
    sizes = np.array([3.0, 5, 400, 6, 2, 50, 3, 4, 90])
    sums = sizes * random.normal(1, 0.3, 9)
    found = ratio(sums, sizes)
    value = sums.sum() / sizes.sum()
    without = np.array(
        [(sums.sum() - s) / (sizes.sum() - n) for s, n in zip(sums, sizes, strict=True)]
    )
    assert found.value == pytest.approx(value, rel=1e-12)
    assert found.error == pytest.approx(math.sqrt(8 / 9 * ((without - value) ** 2).sum()), rel=1e-9)
    assert found.worth == pytest.approx(sizes.sum() ** 2 / (sizes**2).sum(), rel=1e-12)
    # The other side than the long tail's is Student's.
    near = stats.t.ppf(0.975, found.worth - 1) * found.error
    interval = found.interval()
    assert min(interval.high - value, value - interval.low) == pytest.approx(near, rel=1e-9)


def test_where_one_document_has_nearly_all_words_nothing_is_known() -> None:
    sizes = np.array([1e6] + [1.0] * 20)
    found = ratio(sizes * np.linspace(0, 1, 21), sizes).interval()
    assert found.low < -1e6
    assert found.high > 1e6


# The figures of 5,000 runs are in docs/statistics.md; of 500, three standard errors of a share of 95 % are 3 %.
@pytest.mark.parametrize("documents_asked", [8, 16, 62])
@pytest.mark.parametrize("spread", [0.5, 1.0])
@pytest.mark.parametrize("name", ["normal", "heavy-tailed", "skewed"])
def test_the_interval_covers_however_unequal_documents_are(
    name: str, spread: float, documents_asked: int
) -> None:
    draw = documents.SYNTHETIC[name].of_lengths(spread)
    found = documents.intervals(draw, documents_asked, 500, np.random.default_rng(7))
    above, below = documents.missed(found)
    assert 0.92 <= 1 - above - below <= 0.99
    assert above <= 0.06
