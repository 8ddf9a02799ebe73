"""Intervals at their edges, and the reach of a skewed one by solving for it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from pytest_layerguard.bet.criteria.interval import quantile
from pytest_layerguard.measurement.metrics.statistics import Mean, clustered, share


@pytest.mark.parametrize("windows", [8, 22, 64])
@pytest.mark.parametrize("skewness", [0.1, 0.2, 0.4])
def test_the_long_end_lies_where_halls_transformation_puts_it(
    windows: int, skewness: float
) -> None:
    point = -quantile(windows) / math.sqrt(windows)
    a = 1.5 * skewness

    def transformed(t: float) -> float:
        return t + a * t**2 / 3 + a**2 * t**3 / 27 + a / (6 * windows) - point

    reach = brentq(transformed, 10 * point, 0) / point
    assert 1 < reach < 2, "or the case tests nothing but the bounds"
    found = Mean(5.0, 0.5, windows, skewness).interval()
    half = quantile(windows) * 0.5
    assert found.high - 5.0 == pytest.approx(reach * half, rel=1e-9)
    assert 5.0 - found.low == pytest.approx(half, rel=1e-12)
    mirrored = Mean(5.0, 0.5, windows, -skewness).interval()
    assert 5.0 - mirrored.low == pytest.approx(reach * half, rel=1e-9)


def test_two_and_three_windows() -> None:
    two = clustered(np.array([1.0, 3.0]), np.array([0, 1]))
    assert (two.value, two.error, two.windows, two.skewness) == (2.0, 1.0, 2, 0.0)
    three = clustered(np.array([0.0, 0.0, 3.0]), np.array([0, 1, 2]))
    assert (three.value, three.windows) == (1.0, 3)
    assert three.error == pytest.approx(1.0)
    assert three.skewness == pytest.approx(math.sqrt(3))


def test_a_share_stays_between_nothing_and_all() -> None:
    windows = np.repeat(np.arange(8), 4)
    most = np.ones(32)
    most[:4] = 0
    found = share(most, windows)
    assert found.high == 1.0
    assert share(1 - most, windows).low == 0.0
    assert (share(np.ones(32), windows).high, share(np.zeros(32), windows).low) == (1.0, 0.0)
    assert 0.85 < share(np.ones(32), windows).low < 1.0
