from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_layerguard.bet.criteria.evaluate import Expression, Row
from pytest_layerguard.bet.criteria.interval import Interval, Truth, greatest, least, mean
from pytest_layerguard.bet.criteria.parse import CriterionError


def row(variant: str = "skip-0", *, target: str = "", **metrics: object) -> Row:
    names = {key: metrics.pop(key, None) for key in ("arm", "text", "checkpoint")}
    intervals = {
        name: Interval(value[1], value[0], value[2])
        if isinstance(value, tuple)
        else Interval.point(float(value))  # type: ignore[arg-type]
        for name, value in metrics.items()
    }
    return Row(variant, target, **names, metrics=intervals)  # type: ignore[arg-type]


def sweep(*ratios: object, **names: str) -> list[Row]:
    return [
        row(f"skip-{place}", target=str(place), perplexity_ratio=ratio, **names)
        for place, ratio in enumerate(ratios)
    ]


def judged(text: str, rows: list[Row]) -> Truth:
    return Expression.parse(text).evaluate(rows).truth


# --- parsing


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("kl<=1", "kl <= 1"),
        ("  ( (kl) <= (1.0) ) ", "kl <= 1"),
        ("kl <= 1e1", "kl <= 10"),
        ("kl <= .5", "kl <= 0.5"),
        ("kl <= -(3)", "kl <= -3"),
        ("kl <= --3", "kl <= 3"),
        ("-kl <= +3", "-kl <= 3"),
        ("(kl < 1 and kl > 0) and kl != 2", "kl < 1 and kl > 0 and kl != 2"),
        ("kl < 1 and (kl > 0 or kl == 2)", "kl < 1 and (kl > 0 or kl == 2)"),
        ("not (kl < 1)", "not kl < 1"),
        ("not (kl < 1 and kl > 2)", "not (kl < 1 and kl > 2)"),
        ("kl - (kl - 1) < 1", "kl - (kl - 1) < 1"),
        ("(kl - kl) - 1 < 1", "kl - kl - 1 < 1"),
        ("(kl * 2) + 1 < 1", "kl * 2 + 1 < 1"),
        ("kl * (2 + 1) < 1", "kl * (2 + 1) < 1"),
        ("-(kl * 2) < 1", "-(kl * 2) < 1"),
        ("0 < kl < 1", "0 < kl < 1"),
        ("any( a . kl * 2 <= b.kl )", "any(a.kl * 2 <= b.kl)"),
        ("max(kl)\n  <= 3", "max(kl) <= 3"),
    ],
)
def test_one_spelling_for_one_meaning(text, canonical):
    expression = Expression.parse(text)
    assert expression.canonical == canonical
    assert Expression.parse(canonical) == expression
    assert hash(Expression.parse(canonical)) == hash(expression)


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", 0, "must not be empty"),
        ("   ", 0, "must not be empty"),
        ("kl", 0, "is a number, neither true nor false; compare it, as in 'perplexity_ratio <= 3'"),
        ("any(kl)", 4, "is a number where something true or false is wanted"),
        ("all(kl) <= 3", 4, "is a number where something true or false is wanted"),
        ("all(kl < 2) <= 3", 0, "put the comparison inside"),
        ("max(kl < 2) <= 3", 4, "is true or false where a number is wanted"),
        ("kl < 1 and 3", 11, "is a number where something true or false"),
        (
            "not kl",
            4,
            "is a number where something true or false is wanted; compare it, as in "
            "'perplexity_ratio <= 3'",
        ),
        ("kl + (kl < 1) < 2", 6, "is true or false where a number is wanted"),
        ("1 < 2", 0, "names no metric"),
        ("kl < min(3)", 5, "min(...) names no metric, so it ranges over nothing"),
        ("kl < 1 or any(1 < 2)", 10, "any(...) names no metric, so it ranges over nothing"),
        ("kl =< 1", 3, "write == for 'is equal to'"),
        ("kl ≤ 1", 3, "write <="),
        ("kl < 5 %", 7, "write a share"),
        ("kl ** 2 < 1", 3, "powers are not part of it"),
        ("kl // 2 < 1", 3, "write /"),
        ("kl < 1 && kl > 0", 7, "write 'and'"),
        ("kl < 1 || kl > 0", 7, "write 'or'"),
        ("!kl < 1", 0, "write 'not'"),
        ("kl < 3x", 6, "a number runs into what follows"),
        ("kl < 1_000", 6, "a number runs into what follows"),
        ("kl < 0x10", 6, "a number runs into what follows"),
        ("kl < 012", 5, "starts with 0; write 12"),
        ("kl < 1e999", 5, "too large"),
        ("kl < " + "1" * 40, 5, "more than 30 characters"),
        ("kl <", 4, "ends after '<'"),
        ("(kl < 1", 7, "a '(' without a ')'"),
        ("kl < 1)", 6, "')' without a '('"),
        ("kl kl < 1", 3, "nothing stands between 'kl' and 'kl'"),
        ("kl < 'a'", 5, "quoted text is not part of a criterion"),
        ("kl if kl else kl", 3, "nothing stands between"),
        ("kl < is", 5, "'is' is not part of an expression"),
        ("True", 0, "'True' is not part of an expression"),
        ("lambda: kl", 0, "'lambda' is not part"),
        ("[kl]", 0, "'[' is not part of an expression"),
        (
            "kl, kl",
            0,
            "is not part of an expression here; allowed: metrics, numbers, comparisons, and, or, "
            "not, + - * /, and any all min max mean",
        ),
        ("exec(kl)", 0, "'exec(...)' is not known"),
        ("avg(kl) < 1", 0, "allowed: any, all, min, max, mean"),
        ("__import__(kl)", 0, "is not known"),
        ("kl.real() < 1", 0, "is not known"),
        ("any(kl < 1, kl < 2)", 0, "takes one expression"),
        ("any()", 0, "takes one expression"),
        ("any(all(kl < 1))", 4, "all(...) inside any(...)"),
        ("mean(max(kl)) < 1", 5, "max(...) inside mean(...)"),
        ("(kl < 1).real", 0, "a dot may only follow"),
        ("\x00", 0, "is not part of an expression"),
        ("kl\u200b < 1", 2, "is not part of an expression"),
        ("(" * 30 + "kl" + ")" * 30 + " < 1", 24, "more than 24 nested"),
        ("not " * 100 + "kl < 1", 196, "is nested too deeply"),
        ("kl < " + "-" * 100 + "1", 53, "is nested too deeply"),
        ("kl < 1 and " * 100 + "kl < 1", 687, "more than 250 words"),
        ("k" * 3_000, 0, "longer than 2000"),
    ],
)
def test_what_is_no_criterion(text, column, message):
    with pytest.raises(CriterionError) as caught:
        Expression.parse(text)
    assert message in caught.value.message
    assert caught.value.column == column


def failure(text: str) -> CriterionError | None:
    try:
        Expression.parse(text)
    except CriterionError as error:
        return error
    return None


@given(st.text(max_size=300))
def test_no_text_crashes_the_parser(text):
    error = failure(text)
    assert error is None or 0 <= error.column <= len(text)


WORDS = "any( all( min( max( mean( ( ) ) ) kl a.kl b.text.kl not and or < <= == 1 .5 1e3 - + * / ,"


@given(st.lists(st.sampled_from(WORDS.split()), max_size=40))
def test_no_sentence_of_its_own_words_crashes_the_parser(words):
    try:
        expression = Expression.parse(" ".join(words))
    except CriterionError:
        return
    assert Expression.parse(expression.canonical) == expression


# --- Kleene's logic and intervals

truths = st.sampled_from(list(Truth))


@given(truths, truths, truths)
def test_kleene_laws(a, b, c):
    both, either = (lambda *x: Truth.all(x)), (lambda *x: Truth.any(x))
    assert both(a, b) == both(b, a)
    assert both(a, both(b, c)) == both(both(a, b), c) == both(a, b, c)
    assert both(a, either(b, c)) == either(both(a, b), both(a, c))
    assert ~both(a, b) == either(~a, ~b)
    assert ~~a == a
    assert both(a, a) == a
    assert both(a, Truth.TRUE) == a
    assert both(a, Truth.FALSE) is Truth.FALSE
    assert Truth.all([]) is Truth.TRUE
    assert Truth.any([]) is Truth.FALSE


ends = st.floats(allow_nan=False, width=32) | st.sampled_from([0.0, 1.0, -1.0, math.inf, -math.inf])


@st.composite
def intervals(draw):
    low, value, high = sorted(draw(st.tuples(ends, ends, ends)))
    return Interval(value, low, high)


@given(intervals(), intervals())
def test_arithmetic_on_intervals_is_never_nan(a, b):
    for result in (a + b, a - b, a * b, a / b, -a, least([a, b]), greatest([a, b]), mean([a, b])):
        assert not math.isnan(result.value)
        assert result.low <= result.high


finite = st.floats(-1e6, 1e6)


@st.composite
def intervals_with_points(draw):
    low, point, high = sorted(draw(st.tuples(finite, finite, finite)))
    return Interval(point, low, high), draw(st.floats(low, high))


@given(
    intervals_with_points(),
    intervals_with_points(),
    st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
)
def test_a_decision_holds_for_every_point_inside(first, second, sign):
    (a, x), (b, y) = first, second
    truth = a.compare(sign, b)
    if truth is not Truth.UNDECIDED:
        assert truth is Truth.of(eval(f"x {sign} y", {}, {"x": x, "y": y}))


@given(intervals_with_points(), intervals_with_points())
def test_results_hold_every_point_inside(first, second):
    (a, x), (b, y) = first, second
    for result, point in ((a + b, x + y), (a - b, x - y), (a * b, x * y)):
        assert result.low <= point <= result.high
    if y:
        quotient = a / b
        slack = 1e-9 * (1 + abs(x / y))
        assert quotient.low - slack <= x / y <= quotient.high + slack


NAMES = ("perplexity_ratio", "kl", "top1_agreement")
points = st.integers(-8, 8).map(lambda value: value / 4)


@st.composite
def numbers(draw, depth=2):
    if depth == 0 or draw(st.booleans()):
        return draw(st.sampled_from(NAMES) | points.map(str))
    if draw(st.integers(0, 4)) == 0:
        return f"-({draw(numbers(depth - 1))})"
    sign = draw(st.sampled_from("+-*/"))
    return f"({draw(numbers(depth - 1))}) {sign} ({draw(numbers(depth - 1))})"


@st.composite
def criteria(draw, depth=3):
    if depth == 0 or draw(st.booleans()):
        sides = draw(st.lists(numbers(), min_size=2, max_size=3))
        signs = [draw(st.sampled_from(["<", "<=", ">", ">=", "==", "!="])) for _ in sides[1:]]
        return f"({sides[0]}) " + " ".join(
            f"{sign} ({side})" for sign, side in zip(signs, sides[1:], strict=True)
        )
    if draw(st.integers(0, 3)) == 0:
        return f"not ({draw(criteria(depth - 1))})"
    word = draw(st.sampled_from(["and", "or"]))
    return f"({draw(criteria(depth - 1))}) {word} ({draw(criteria(depth - 1))})"


@given(criteria(), st.fixed_dictionaries(dict.fromkeys(NAMES, points)))
def test_agrees_with_python_on_points(text, metrics):
    try:
        expected = eval(text, {"__builtins__": {}}, metrics)
    except ZeroDivisionError:
        expected = None
    error = failure(text)
    if error is not None:
        assert "names no metric" in error.message
        return
    truth = judged(text, [row(**metrics)])
    if expected is not None and "/" not in text:
        assert truth is Truth.of(expected)
    elif expected is not None:
        # Python may leave out a division by zero that it never comes to.
        assert truth in (Truth.of(expected), Truth.UNDECIDED)


@given(
    st.sampled_from(["any", "all"]),
    st.lists(points, min_size=1, max_size=5),
    st.sampled_from(["<", "<=", ">", ">="]),
    points,
)
def test_quantifiers_agree_with_python_on_points(word, ratios, sign, bar):
    expected = {"any": any, "all": all}[word](
        eval(f"ratio {sign} bar", {}, {"ratio": ratio, "bar": bar}) for ratio in ratios
    )
    assert judged(f"{word}(perplexity_ratio {sign} {bar})", sweep(*ratios)) is Truth.of(expected)


# --- evaluation


@pytest.mark.parametrize(
    ("text", "rows", "truth"),
    [
        ("perplexity_ratio <= 3", [row(perplexity_ratio=(2, 2.5, 3))], Truth.TRUE),
        ("perplexity_ratio < 3", [row(perplexity_ratio=(2, 2.5, 3))], Truth.UNDECIDED),
        ("perplexity_ratio >= 3", [row(perplexity_ratio=(2, 2.5, 2.9))], Truth.FALSE),
        ("any(perplexity_ratio <= 3)", sweep((2, 3, 4), 5, 6), Truth.UNDECIDED),
        ("any(perplexity_ratio <= 3)", sweep((2, 3, 4), 1), Truth.TRUE),
        ("all(perplexity_ratio >= 3)", sweep((2, 3, 4), 1), Truth.FALSE),
        ("not any(perplexity_ratio <= 3)", sweep((2, 3, 4)), Truth.UNDECIDED),
        ("min(perplexity_ratio) <= 3", sweep((2, 3, 4), (2, 2.2, 2.9)), Truth.TRUE),
        ("max(perplexity_ratio) <= 3", sweep((2, 3, 4), (2, 2.2, 2.9)), Truth.UNDECIDED),
        ("mean(perplexity_ratio) == 2", sweep(1, 2, 3), Truth.TRUE),
        ("perplexity_ratio / kl <= 3", [row(perplexity_ratio=1, kl=0)], Truth.UNDECIDED),
        ("perplexity_ratio >= 3", [row(perplexity_ratio=math.inf)], Truth.TRUE),
    ],
)
def test_evaluation(text, rows, truth):
    assert judged(text, rows) is truth


def pairs(arm: str, kind: str, values: dict[str, float], **names: str) -> list[Row]:
    return [
        row(f"{kind}-{at}", target=at, arm=arm, swap_kl=value, **names)
        for at, value in values.items()
    ]


def test_arms_are_compared_pair_by_pair():
    swapped = pairs("i", "interchange", {"0-1": 1, "1-2": 5})
    replaced = pairs("r", "replace", {"1-2": 6, "0-1": 3})
    rows = [*swapped, *replaced]
    assert judged("any(i.swap_kl * 2 <= r.swap_kl)", rows) is Truth.TRUE
    assert judged("all(i.swap_kl * 2 <= r.swap_kl)", rows) is Truth.FALSE
    assert judged("all(i.swap_kl <= r.swap_kl)", rows) is Truth.TRUE
    assert judged("max(i.swap_kl) < max(r.swap_kl)", rows) is Truth.TRUE
    assert judged("any(swap_kl == 6)", rows) is Truth.TRUE
    evaluation = Expression.parse("all(i.swap_kl * 2 <= r.swap_kl)").evaluate(rows)
    assert "i.interchange-1-2 / r.replace-1-2" in evaluation.filled


def test_arms_that_do_not_line_up_are_an_error():
    rows = [
        *pairs("i", "interchange", {"0-1": 1, "1-2": 5}),
        *pairs("r", "replace", {"0-1": 3, "2-3": 1}),
    ]
    with pytest.raises(CriterionError, match="do not line up"):
        judged("any(i.swap_kl <= r.swap_kl)", rows)


def test_an_arm_with_one_variant_stands_beside_every_other():
    rows = [*sweep(1, 2, 3, arm="each"), row("skip-all", arm="fixed", perplexity_ratio=2)]
    assert judged("any(each.perplexity_ratio < fixed.perplexity_ratio)", rows) is Truth.TRUE
    assert judged("all(each.perplexity_ratio < fixed.perplexity_ratio)", rows) is Truth.FALSE


def test_texts_and_checkpoints_are_joined_by_what_is_not_named():
    rows = [
        row(f"skip-{layer}", target=layer, text=text, checkpoint=at, kl=kl)
        for layer, text, at, kl in [
            ("0", "wiki", "init", 1), ("0", "wiki", "end", 2),
            ("0", "web", "init", 3), ("0", "web", "end", 4),
            ("1", "wiki", "init", 5), ("1", "wiki", "end", 6),
            ("1", "web", "init", 7), ("1", "web", "end", 8),
        ]
    ]  # fmt: skip
    assert judged("all(init.kl < end.kl)", rows) is Truth.TRUE
    assert judged("all(wiki.kl + 2 == web.kl)", rows) is Truth.TRUE
    assert judged("all(wiki.init.kl + 3 == end.web.kl)", rows) is Truth.TRUE
    assert judged("max(web.end.kl) == 8", rows) is Truth.TRUE
    # Different dimensions: joined by the layer alone, so init beside both texts.
    assert judged("any(init.kl > wiki.kl)", rows) is Truth.TRUE


def test_the_protocol_gap_counts_once_whichever_arm_carries_it():
    rows = [
        row("replace-0-1", target="0-1", arm="r", protocol_gap=1),
        row("replace-1-2", target="1-2", arm="r", protocol_gap=3),
        row("interchange-0-1", target="0-1", arm="i", kl=1),
        row("interchange-1-2", target="1-2", arm="i", kl=1),
    ]
    assert judged("mean(protocol_gap) == 2", rows) is Truth.TRUE
    both = [row("x-0-1", target="0-1", arm=arm, protocol_gap=2) for arm in "ri"]
    assert judged("protocol_gap == 2", both) is Truth.TRUE


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("any(kl <= 1)", "'kl' was not measured for skip-1"),
        ("any(top1_agreement <= 1)", "'top1_agreement' was not measured"),
        ("any(a.perplexity_ratio <= 1)", "'a.perplexity_ratio' was not measured"),
        ("perplexity_ratio <= 1", "means 2 measurements (skip-0, skip-1, ...)"),
    ],
)
def test_what_was_not_measured_is_an_error(text, message):
    rows = [row("skip-0", target="0", perplexity_ratio=1, kl=1), *sweep(1, 2)[1:]]
    with pytest.raises(CriterionError) as caught:
        judged(text, rows)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("text", "rows", "filled"),
    [
        (
            "any(perplexity_ratio <= 3)",
            sweep(80, (5.98, 6.21, 6.45)),
            "any(perplexity_ratio <= 3)  ->  skip-1: 6.21 [5.98, 6.45] <= 3 is false; "
            "skip-0: 80 <= 3 is false",
        ),
        (
            "all(perplexity_ratio >= 10)",
            sweep(80, 24, 13, 12, 11),
            "all(perplexity_ratio >= 10)  ->  skip-4: 11 >= 10 is true; skip-3: 12 >= 10 is true; "
            "skip-2: 13 >= 10 is true; skip-1: 24 >= 10 is true; and 1 more",
        ),
        (
            "max(perplexity_ratio) <= 3 and perplexity_ratio <= 5",
            [row(perplexity_ratio=4)],
            "max(perplexity_ratio) <= 3 and perplexity_ratio <= 5  ->  "
            "max(perplexity_ratio) = 4 (skip-0) <= 3 is false",
        ),
        (
            "perplexity_ratio > 10 or unique_tokens < 5",
            [row(perplexity_ratio=(1, 2, 3), unique_tokens=2)],
            "perplexity_ratio > 10 or unique_tokens < 5  ->  unique_tokens 2 < 5 is true",
        ),
    ],
)
def test_numbers_are_filled_in(text, rows, filled):
    assert (
        Expression.parse(text).evaluate(rows).filled.replace("perplexity_ratio 4 ", "4 ") == filled
    )


def test_what_is_filled_in_is_bounded():
    text = "any(" + " or ".join(["perplexity_ratio * 2 + kl <= 3"] * 20) + ")"
    rows = [row(f"skip-{n}", target=str(n), perplexity_ratio=n + 5, kl=n) for n in range(40)]
    assert len(Expression.parse(text).evaluate(rows).filled) <= 800


def test_what_straddles_is_reported_with_its_bar():
    rows = sweep((2.5, 2.8, 3.2), (2.9, 3.4, 4.0), 9)
    evaluation = Expression.parse("any(perplexity_ratio <= 3)").evaluate(rows)
    assert evaluation.truth is Truth.UNDECIDED
    assert [(each.variant, each.metric, each.bar.value) for each in evaluation.straddling] == [
        ("skip-0", "perplexity_ratio", 3),
        ("skip-1", "perplexity_ratio", 3),
    ]
    (straddle,) = Expression.parse("3 >= min(perplexity_ratio)").evaluate(rows[:1]).straddling
    assert (straddle.variant, straddle.metric) == ("skip-0", "min(perplexity_ratio)")


def test_only_what_keeps_from_deciding_straddles():
    rows = [row(perplexity_ratio=(2, 3, 4), kl=(0.5, 1, 2))]
    assert not Expression.parse("perplexity_ratio <= 3 and kl > 5").evaluate(rows).straddling
    (only,) = Expression.parse("perplexity_ratio <= 3 and kl < 5").evaluate(rows).straddling
    assert only.metric == "perplexity_ratio"


@pytest.mark.parametrize("ends", [(math.nan, 0, 1), (0, 2, 1), (0, math.nan, 1), (0, 0, math.nan)])
def test_what_is_no_interval(ends):
    with pytest.raises(ValueError, match="not an interval"):
        Interval(*ends)


def test_references():
    references = Expression.parse("any(a.kl < 1 or a.b.kl < kl)").references
    assert sorted(map(str, references)) == ["a.b.kl", "a.kl", "kl"]


def test_equal_criteria_are_one_key():
    assert hash(Expression.parse("kl<1")) == hash(Expression.parse("( kl ) < 1.0"))
    assert (
        len({Expression.parse("kl < 1"), Expression.parse("kl<1"), Expression.parse("kl < 2")}) == 2
    )
    assert Expression.parse("kl < 1") != "kl < 1"


def test_three_arms_are_compared_variant_by_variant():
    rows = [
        row(f"skip-{place}", target=str(place), arm=arm, kl=value)
        for arm, values in (("a", (1, 2)), ("b", (10, 20)), ("c", (11, 22)))
        for place, value in enumerate(values)
    ]
    assert judged("all(a.kl + b.kl == c.kl)", rows) is Truth.TRUE
    assert judged("any(a.kl + b.kl != c.kl)", rows) is Truth.FALSE


def test_what_stands_alone_is_named():
    rows = [row("skip-0", target="0", arm="a", kl=1), row("skip-1", target="1", arm="b", kl=1)]
    rows += [row("skip-2", target="2", arm=arm, kl=1) for arm in "ab"]
    with pytest.raises(CriterionError) as caught:
        Expression.parse("any(a.kl < b.kl)").evaluate(rows)
    assert caught.value.message == (
        "around 'b.kl' the two sides do not line up: there is nothing beside a.skip-0; "
        "use the same layers or pairs in both"
    )
    assert caught.value.column == 11


def test_combinations_have_an_end(monkeypatch):
    monkeypatch.setattr("pytest_layerguard.bet.criteria.evaluate._LARGEST_JOIN", 6)
    rows = [row(f"v-{at}", target="", arm=arm, kl=1) for arm in "ab" for at in range(3)]
    with pytest.raises(CriterionError) as caught:
        Expression.parse("any(a.kl < b.kl)").evaluate(rows)
    assert caught.value.message == "ranges over too many combinations"
    assert caught.value.column == 11
    assert judged("any(a.kl < b.kl)", rows[:2] + rows[3:]) is Truth.FALSE


@pytest.mark.parametrize(
    ("text", "decider"),
    [
        ("any(ratio <= 3)", ("b", "best of 3", "ratio", 2, "<= 3")),
        ("any(ratio <= 1)", ("b", "best of 3", "ratio", 2, "<= 1")),
        ("all(ratio <= 9)", ("c", "worst of 3", "ratio", 8, "<= 9")),
        ("all(ratio <= 3)", ("c", "worst of 3", "ratio", 8, "<= 3")),
        ("3 >= min(ratio)", ("b", "least of 3", "ratio", 2, "<= 3")),
        ("mean(ratio) > 4", ("", "mean of 3", "ratio", 5, "> 4")),
        ("max(ratio) < 9 and min(ratio) > 4", ("b", "least of 3", "ratio", 2, "> 4")),
        ("x.kl * 2 < 9", ("", "", "x.kl * 2", 2, "< 9")),
        ("x.kl < 9", ("x", "", "kl", 1, "< 9")),
    ],
)
def test_one_comparison_decides(text, decider):
    sweep = {"a": 5.0, "b": 2.0, "c": 8.0}
    rows = [
        Row(name, name, None, None, None, {"ratio": Interval.point(each)})
        for name, each in sweep.items()
    ]
    if "x.kl" in text:
        rows = [Row("skip", "", "x", None, None, {"kl": Interval.point(1.0)})]
    found = Expression.parse(text).evaluate(rows).decider
    shown = (found.variant, found.among, found.metric, found.interval.value, found.bar)
    assert shown == decider


@pytest.mark.parametrize(
    ("text", "truth", "bars"),
    [
        ("any(ratio <= 1 and kl <= 1)", "false", [("ratio", "<= 1"), ("kl", "<= 1")]),
        ("any(ratio <= 1 and kl <= 9)", "false", [("ratio", "<= 1")]),
        ("any(ratio <= 1 or kl <= 1)", "false", [("ratio", "<= 1")]),
        ("any(ratio <= 9 or kl <= 9)", "true", [("ratio", "<= 9"), ("kl", "<= 9")]),
        ("min(ratio) <= 1 and min(kl) <= 1", "false", [("ratio", "<= 1"), ("kl", "<= 1")]),
    ],
)
def test_every_comparison_that_would_have_to_turn_is_named(text, truth, bars):
    metrics = {"ratio": Interval.point(2.0), "kl": Interval.point(3.0)}
    found = Expression.parse(text).evaluate([Row("skip-0", "", None, None, None, metrics)])
    assert found.truth.value == truth
    assert [(each.metric.strip("min()"), each.bar) for each in found.deciders] == bars
