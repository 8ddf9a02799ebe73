"""What an evaluation says and what straddles, to the letter."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from pytest_layerguard.bet.criteria.evaluate import Expression, Row
from pytest_layerguard.bet.criteria.interval import Interval, Truth
from pytest_layerguard.bet.criteria.parse import CriterionError


def row(
    variant: str, target: str, arm: str | None = None, text: str | None = None, **metrics: object
) -> Row:
    intervals = {
        name: Interval(value[1], value[0], value[2])
        if isinstance(value, tuple)
        else Interval.point(float(value))  # type: ignore[arg-type]
        for name, value in metrics.items()
    }
    return Row(variant, target, arm, text, None, intervals)


ROWS = {
    "one": [row("skip-0", "0", kl=(2, 3, 4), perplexity=(20, 30, 40), base_perplexity=10)],
    "sweep": [
        row(
            f"skip-{at}",
            str(at),
            kl=(kl - 0.5, kl, kl + 0.5),
            perplexity=10 * kl,
            base_perplexity=10,
        )
        for at, kl in enumerate((4, 1, 7, 2, 9))
    ],
    "four": [row(f"skip-{at}", str(at), kl=kl) for at, kl in enumerate((4, 1, 7, 2))],
    "arms": [
        row("x-0", "0", arm, "t", kl=(kl - 1, kl, kl + 1)) for arm, kl in (("a", 2), ("b", 6))
    ],
}


@pytest.mark.parametrize(
    ("rows", "text", "filled", "straddling"),
    [
        ("one", "kl < 3", "kl 3 [2, 4] < 3 is undecided", ["kl | skip-0 | 3 [2, 4] | 3 | kl < 3"]),
        ("one", "3 > kl", "3 > kl 3 [2, 4] is undecided", ["kl | skip-0 | 3 [2, 4] | 3 | 3 > kl"]),
        (
            "one",
            "1 < kl < 3.5 < 5",
            "1 < kl 3 [2, 4] < 3.5 < 5 is undecided",
            ["kl | skip-0 | 3 [2, 4] | 3.5 | kl < 3.5"],
        ),
        ("one", "kl < 5 < 9", "kl 3 [2, 4] < 5 < 9 is true", []),
        (
            "one",
            "perplexity <= 3.5 * base_perplexity",
            "perplexity 30 [20, 40] <= 3.5 * base_perplexity = 35 is undecided",
            ["perplexity | skip-0 | 30 [20, 40] | 35 | perplexity <= 3.5 * base_perplexity"],
        ),
        (
            "one",
            "not kl < 3 and kl < 9",
            "kl 3 [2, 4] < 3 is undecided",
            ["kl | skip-0 | 3 [2, 4] | 3 | kl < 3"],
        ),
        (
            "one",
            "kl < 1 or kl > 9 or kl == 7",
            "kl 3 [2, 4] < 1 is false; kl 3 [2, 4] == 7 is false; kl 3 [2, 4] > 9 is false",
            [],
        ),
        (
            "one",
            "kl < 3 or kl > 3.5",
            "kl 3 [2, 4] < 3 is undecided; kl 3 [2, 4] > 3.5 is undecided",
            ["kl | skip-0 | 3 [2, 4] | 3 | kl < 3", "kl | skip-0 | 3 [2, 4] | 3.5 | kl > 3.5"],
        ),
        (
            "one",
            "3 < kl <= 3 + 0 * kl",
            "3 < kl 3 [2, 4] <= 3 + 0 * kl = 3 is undecided",
            [
                "kl | skip-0 | 3 [2, 4] | 3 | 3 < kl",
                "kl | skip-0 | 3 [2, 4] | 3 | kl <= 3 + 0 * kl",
            ],
        ),
        (
            "one",
            "-kl < -3",
            "-kl = -3 [-4, -2] < -3 is undecided",
            ["-kl | skip-0 | -3 [-4, -2] | -3 | -kl < -3"],
        ),
        ("one", "2 * 3 < kl", "2 * 3 = 6 < kl 3 [2, 4] is false", []),
        (
            "one",
            "kl - kl < 1",
            "kl - kl = 0 [-2, 2] < 1 is undecided",
            ["kl - kl | skip-0 | 0 [-2, 2] | 1 | kl - kl < 1"],
        ),
        (
            "sweep",
            "min(kl) < 1.2",
            "min(kl) = 1 [0.5, 1.5] (skip-1) < 1.2 is undecided",
            ["min(kl) | skip-1 | 1 [0.5, 1.5] | 1.2 | min(kl) < 1.2"],
        ),
        (
            "sweep",
            "max(kl) < 9.2",
            "max(kl) = 9 [8.5, 9.5] (skip-4) < 9.2 is undecided",
            ["max(kl) | skip-4 | 9 [8.5, 9.5] | 9.2 | max(kl) < 9.2"],
        ),
        (
            "sweep",
            "mean(kl) < 4.6",
            "mean(kl) = 4.6 [4.1, 5.1] < 4.6 is undecided",
            ["mean(kl) |  | 4.6 [4.1, 5.1] | 4.6 | mean(kl) < 4.6"],
        ),
        (
            "sweep",
            "1.2 > min(kl)",
            "1.2 > min(kl) = 1 [0.5, 1.5] (skip-1) is undecided",
            ["min(kl) | skip-1 | 1 [0.5, 1.5] | 1.2 | 1.2 > min(kl)"],
        ),
        (
            "sweep",
            "any(kl < 1.2)",
            "skip-1: 1 [0.5, 1.5] < 1.2 is undecided",
            ["kl | skip-1 | 1 [0.5, 1.5] | 1.2 | kl < 1.2"],
        ),
        (
            "sweep",
            "all(kl < 100)",
            "skip-4: 9 [8.5, 9.5] < 100 is true; skip-2: 7 [6.5, 7.5] < 100 is true; "
            "skip-0: 4 [3.5, 4.5] < 100 is true; skip-3: 2 [1.5, 2.5] < 100 is true; and 1 more",
            [],
        ),
        (
            "sweep",
            "all(kl < 8.8)",
            "skip-4: 9 [8.5, 9.5] < 8.8 is undecided",
            ["kl | skip-4 | 9 [8.5, 9.5] | 8.8 | kl < 8.8"],
        ),
        (
            "sweep",
            "any(kl > 50)",
            "skip-4: 9 [8.5, 9.5] > 50 is false; skip-2: 7 [6.5, 7.5] > 50 is false; "
            "skip-0: 4 [3.5, 4.5] > 50 is false; skip-3: 2 [1.5, 2.5] > 50 is false; and 1 more",
            [],
        ),
        (
            "sweep",
            "max(kl) - min(kl) < 8",
            "max(kl) - min(kl) = 8 [7, 9] < 8 is undecided",
            ["max(kl) - min(kl) | skip-4 | 8 [7, 9] | 8 | max(kl) - min(kl) < 8"],
        ),
        (
            "sweep",
            "2 * min(perplexity) <= max(base_perplexity)",
            "2 * min(perplexity) = 20 <= max(base_perplexity) = 10 (skip-0) is false",
            [],
        ),
        (
            "sweep",
            "all(8.8 > kl)",
            "skip-4: 8.8 > 9 [8.5, 9.5] is undecided",
            ["kl | skip-4 | 9 [8.5, 9.5] | 8.8 | 8.8 > kl"],
        ),
        (
            "four",
            "all(kl < 100)",
            "skip-2: 7 < 100 is true; skip-0: 4 < 100 is true; skip-3: 2 < 100 is true; skip-1: 1 < 100 is true",
            [],
        ),
        ("four", "any(kl < 3)", "skip-3: 2 < 3 is true; skip-1: 1 < 3 is true", []),
        (
            "four",
            "min(kl) == 1 and max(kl) == 7",
            "min(kl) = 1 (skip-1) == 1 is true; max(kl) = 7 (skip-2) == 7 is true",
            [],
        ),
        ("arms", "a.kl < b.kl", "a.kl 2 [1, 3] < b.kl 6 [5, 7] is true", []),
        (
            "arms",
            "b.kl / a.kl < 4",
            "b.kl / a.kl = 3 [1.667, 7] < 4 is undecided",
            ["b.kl / a.kl | b.t.x-0 | 3 [1.667, 7] | 4 | b.kl / a.kl < 4"],
        ),
        (
            "arms",
            "any(kl < 1)",
            "a.t.x-0: 2 [1, 3] < 1 is false; b.t.x-0: 6 [5, 7] < 1 is false",
            [],
        ),
        ("arms", "min(a.kl) < b.kl", "min(a.kl) = 2 [1, 3] (a.t.x-0) < b.kl 6 [5, 7] is true", []),
        (
            "arms",
            "all(a.kl < b.kl)",
            "a.t.x-0 / b.t.x-0: a.kl 2 [1, 3] < b.kl 6 [5, 7] is true",
            [],
        ),
        (
            "arms",
            "any(a.t.kl < 2 * t.b.kl)",
            "a.t.x-0 / b.t.x-0: a.t.kl 2 [1, 3] < 2 * t.b.kl = 12 [10, 14] is true",
            [],
        ),
    ],
)
def test_an_evaluation(rows: str, text: str, filled: str, straddling: list[str]) -> None:
    found = Expression.parse(text).evaluate(ROWS[rows])
    assert found.filled == f"{text}  ->  {filled}"
    assert straddling == [
        f"{each.metric} | {each.variant} | {each.interval} | {each.bar} | {each.comparison}"
        for each in found.straddling
    ]


def test_what_means_several_measurements() -> None:
    with pytest.raises(CriterionError) as caught:
        Expression.parse("1 < kl").evaluate(ROWS["sweep"])
    assert caught.value.message == (
        "'kl' means 5 measurements (skip-0, skip-1, skip-2, ...); name one by a prefix, or range "
        "over them with any, all, min, max or mean"
    )
    assert caught.value.column == 4


def test_as_code() -> None:
    assert repr(Expression.parse(" kl \n< 1")) == "Expression.parse('kl < 1')"
    parsed = Expression.parse("kl < 1")
    assert hash(parsed) == hash(Expression.parse("(kl) < 1"))


def test_what_names_no_metric() -> None:
    with pytest.raises(CriterionError) as caught:
        Expression.parse("1 < 2")
    assert caught.value.message == "names no metric, so nothing measured could change it"
    assert caught.value.column == 0


def test_what_is_filled_in_ends_in_time() -> None:
    filled = Expression.parse("perplexity < 1 or " * 50 + "kl < 1").evaluate(ROWS["one"]).filled
    assert len(filled) == 800
    assert filled.endswith(" ...")


@pytest.mark.parametrize(
    ("value", "reported"),
    [
        (3, "must be an expression such as 'perplexity_ratio <= 3', not 3"),
        ("kl <", "ends after '<', where something must follow"),
    ],
)
def test_what_a_criterion_of_a_bet_must_be(value: object, reported: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Expression).validate_python(value)
    assert reported in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "text", "filled"),
    [
        ("four", "any(not kl < 7)", "skip-2: 7 < 7 is false"),
        ("one", "not kl > 9 and not kl > 5", "kl 3 [2, 4] > 5 is false; kl 3 [2, 4] > 9 is false"),
        ("one", "kl < 3 < 2", "kl 3 [2, 4] < 3 < 2 is false"),
    ],
)
def test_what_is_reported_where_nothing_straddles(rows: str, text: str, filled: str) -> None:
    found = Expression.parse(text).evaluate(ROWS[rows])
    assert found.filled == f"{text}  ->  {filled}"
    assert found.straddling == ()


def test_signs_inside_a_quantifier() -> None:
    assert Expression.parse("any(-kl < -8)").evaluate(ROWS["four"]).truth is Truth.FALSE
    assert Expression.parse("any(-kl < -6)").evaluate(ROWS["four"]).truth is Truth.TRUE


@pytest.mark.parametrize(
    ("text", "message", "column"),
    [
        ("1 < swap_kl", "'swap_kl' was not measured for skip-0", 4),
        ("any(kl < swap_kl)", "'swap_kl' was not measured for skip-0", 9),
        ("1 < protocol_gap", "'protocol_gap' was not measured", 4),
    ],
)
def test_where_what_was_not_measured_stands(text: str, message: str, column: int) -> None:
    with pytest.raises(CriterionError) as caught:
        Expression.parse(text).evaluate(ROWS["four"])
    assert (caught.value.message, caught.value.column) == (message, column)


def test_where_a_criterion_of_a_bet_is_wrong() -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Expression).validate_python("1 < kl kl")
    assert caught.value.errors()[0]["ctx"]["offset"] == 7
