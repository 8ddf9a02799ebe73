"""Arithmetic on intervals by numbers worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from pytest_layerguard.bet.criteria.interval import Interval, Truth, greatest, least, mean, short

INF = math.inf
A = Interval(3.0, 2.0, 5.0)
B = Interval(10.0, 7.0, 11.0)


@pytest.mark.parametrize(
    ("got", "wanted"),
    [
        (lambda: A + B, (13.0, 9.0, 16.0)),
        (lambda: A - B, (-7.0, -9.0, -2.0)),
        (lambda: A * B, (30.0, 14.0, 55.0)),
        (lambda: A * -B, (-30.0, -55.0, -14.0)),
        (lambda: -A * -B, (30.0, 14.0, 55.0)),
        (lambda: B / A, (10 / 3, 7 / 5, 11 / 2)),
        (lambda: B / -A, (-10 / 3, -11 / 2, -7 / 5)),
        (lambda: -A, (-3.0, -5.0, -2.0)),
        (lambda: least([A, B]), (3.0, 2.0, 5.0)),
        (lambda: greatest([A, B]), (10.0, 7.0, 11.0)),
        (lambda: least([Interval(2.0, 1.0, 9.0), A]), (2.0, 1.0, 5.0)),
        (lambda: greatest([Interval(2.0, 1.0, 9.0), A]), (3.0, 2.0, 9.0)),
        (lambda: mean([A, B]), (6.5, 4.5, 8.0)),
        (lambda: mean([A]), (3.0, 2.0, 5.0)),
        (lambda: mean([Interval.point(1.7e308)] * 2), (1.7e308,) * 3),
    ],
)
def test_worked_out_by_hand(
    got: Callable[[], Interval], wanted: tuple[float, float, float]
) -> None:
    found = got()
    assert (found.value, found.low, found.high) == pytest.approx(wanted, rel=1e-15)


@pytest.mark.parametrize(
    ("got", "wanted"),
    [
        (lambda: Interval(0.0, 0.0, INF) * Interval(1.0, 1.0, INF), (0.0, 0.0, INF)),
        (lambda: Interval(1.0, 1.0, INF) * Interval(0.0, 0.0, INF), (0.0, 0.0, INF)),
        (lambda: Interval(1.0, 0.0, 1.0) * Interval(INF, 2.0, INF), (INF, 0.0, INF)),
        (lambda: Interval.point(1.0) * Interval.point(INF), (INF, INF, INF)),
        (lambda: Interval.point(INF) * Interval.point(1.0), (INF, INF, INF)),
        (lambda: Interval.point(1.0) / Interval.point(0.0), (INF, -INF, INF)),
        (lambda: Interval.point(-1.0) / Interval.point(0.0), (-INF, -INF, INF)),
        (lambda: Interval.point(0.0) / Interval.point(0.0), (0.0, -INF, INF)),
        (lambda: Interval.point(6.0) / Interval(3.0, 0.0, 4.0), (2.0, -INF, INF)),
        (lambda: Interval.point(6.0) / Interval(-3.0, -4.0, 0.0), (-2.0, -INF, INF)),
        (lambda: Interval.point(INF) / Interval.point(INF), (0.0, -INF, INF)),
        (lambda: Interval.point(INF) - Interval.point(INF), (0.0, -INF, INF)),
        (lambda: mean([Interval.point(INF), Interval.point(-INF)]), (0.0, -INF, INF)),
        (lambda: Interval(1.0, -INF, 2.0) + Interval(1.0, 0.0, INF), (2.0, -INF, INF)),
    ],
)
def test_at_the_ends_of_the_numbers(
    got: Callable[[], Interval], wanted: tuple[float, float, float]
) -> None:
    found = got()
    assert (found.value, found.low, found.high) == wanted


LOW, HIGH = Interval(1.5, 1.0, 2.0), Interval(3.5, 3.0, 4.0)
TOUCHING = Interval(2.5, 2.0, 3.0)
T, F, U = Truth.TRUE, Truth.FALSE, Truth.UNDECIDED


@pytest.mark.parametrize(
    ("left", "right", "less", "at_most", "more", "at_least", "same"),
    [
        (LOW, HIGH, T, T, F, F, F),
        (HIGH, LOW, F, F, T, T, F),
        (LOW, TOUCHING, U, T, F, U, U),
        (TOUCHING, LOW, F, U, U, T, U),
        (LOW, Interval(1.5, 0.0, 9.0), U, U, U, U, U),
        (Interval.point(2.0), Interval.point(2.0), F, T, F, T, T),
        (Interval.point(2.0), LOW, F, U, U, T, U),
        (LOW, LOW, U, U, U, U, U),
    ],
)
def test_every_comparison(
    left: Interval,
    right: Interval,
    less: Truth,
    at_most: Truth,
    more: Truth,
    at_least: Truth,
    same: Truth,
) -> None:
    found = [left.compare(sign, right) for sign in ("<", "<=", ">", ">=", "==", "!=")]
    assert found == [less, at_most, more, at_least, same, ~same]


@pytest.mark.parametrize("ends", [(math.nan, 1, 2), (1, math.nan, 2), (1, 0, math.nan), (1, 2, 0)])
def test_what_is_no_interval(ends: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"^not an interval: \S+ \[\S+, \S+\]$"):
        Interval(*ends)


def test_a_value_may_lie_outside_its_interval() -> None:
    """A skewed interval of a minimum over variants need not hold the value itself."""
    assert not Interval(1.0, 2.0, 3.0).is_point
    assert not Interval(2.0, 2.0, 3.0).is_point
    assert not Interval(3.0, 2.0, 3.0).is_point
    assert Interval.point(3.0).is_point
    assert Interval.point(3.0) == Interval(3.0, 3.0, 3.0)


def test_truths() -> None:
    assert [~each for each in (T, F, U)] == [F, T, U]
    assert Truth.of(value=True) is T
    assert Truth.of(value=False) is F
    assert [Truth.all(each) for each in ([], [T, T], [T, U], [U, F], [T, F])] == [T, T, U, F, F]
    assert [Truth.any(each) for each in ([], [F, F], [F, U], [U, T], [F, T])] == [F, F, U, T, T]
    assert [each.value for each in Truth] == ["true", "false", "undecided"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1"),
        (1.23456, "1.235"),
        (999.96, "1000"),
        (1000.0, "1000"),
        (1234.6, "1235"),
        (-1234.6, "-1235"),
        (9999.4, "9999"),
        (9999.6, "10,000"),
        (10_000.0, "10,000"),
        (-12_345.6, "-12,346"),
        (999_999_999.0, "999,999,999"),
        (1e9, "1e+09"),
        (1.5e-7, "1.5e-07"),
        (INF, "inf"),
        (-INF, "-inf"),
    ],
)
def test_short(value: float, text: str) -> None:
    assert short(value) == text


def test_as_text() -> None:
    assert str(Interval(6.213, 5.981, 6.449)) == "6.213 [5.981, 6.449]"
    assert str(Interval.point(6.213)) == "6.213"
