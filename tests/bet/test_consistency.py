from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_layerguard.bet.criteria.evaluate import Expression, Row
from pytest_layerguard.bet.criteria.implication import implies, normal
from pytest_layerguard.bet.criteria.interval import Interval, Truth

PLAIN = "any(perplexity_ratio <= 3)"


@pytest.mark.parametrize(
    ("strict", "lenient", "catastrophic"),
    [
        (None, PLAIN, None),
        ("any(perplexity_ratio <= 3)", "any(perplexity_ratio <= 3)", None),
        ("all(perplexity_ratio <= 3)", "any(perplexity_ratio <= 3)", None),
        ("max(perplexity_ratio) <= 1.5", "min(perplexity_ratio) <= 3", None),
        ("3 >= max(perplexity_ratio)", "all(perplexity_ratio <= 4)", None),
        ("mean(perplexity_ratio) <= 1.5", "mean(perplexity_ratio) <= 3", None),
        ("not any(perplexity_ratio > 2)", "all(perplexity_ratio <= 3)", None),
        ("all(1 < perplexity_ratio < 2)", "all(perplexity_ratio < 3)", None),
        ("all(perplexity <= 2 * base_perplexity)", "all(perplexity_ratio <= 3)", None),
        ("all(perplexity_ratio <= 2)", "all(perplexity <= 3 * base_perplexity)", None),
        ("any(perplexity_ratio <= 1.5) and all(unique_tokens >= 50)", PLAIN, None),
        (
            None,
            "all(perplexity_ratio <= 3)",
            "any(perplexity_ratio > 10) or any(unique_tokens < 5)",
        ),
        (None, PLAIN, "any(unique_tokens <= 2)"),
        (None, PLAIN, "any(perplexity_ratio >= 2)"),
    ],
)
def test_criteria_that_make_sense_together(edited, read, strict, lenient, catastrophic):
    read(with_criteria(edited, strict, lenient, catastrophic))


@pytest.mark.parametrize(
    ("strict", "lenient", "catastrophic", "key", "message"),
    [
        ("any(perplexity_ratio <= 3)", "any(perplexity_ratio <= 2)", None, "lenient",
         "is stricter than strict: where perplexity_ratio is 2.5"),
        ("any(perplexity_ratio <= 2)", "any(perplexity_ratio < 2)", None, "lenient",
         "where perplexity_ratio is 2, strict is true and lenient is false"),
        ("any(perplexity_ratio <= 1.5)", "all(perplexity_ratio <= 3)", None, "lenient",
         "is stricter than strict"),
        ("any(perplexity_ratio <= 1.5)", "any(kl <= 3)", None, "lenient", "is stricter"),
        ("mean(perplexity_ratio) <= 3", "mean(perplexity_ratio) <= 2", None, "lenient",
         "is stricter"),
        ("all(perplexity <= 4 * base_perplexity)", "all(perplexity_ratio <= 3)", None, "lenient",
         "is stricter"),
        ("any(unique_tokens >= 20)", "any(unique_tokens >= 30)", None, "lenient", "is stricter"),
        (None, "any(perplexity_ratio <= 3)", "any(perplexity_ratio <= 10)", "catastrophic",
         "is true wherever lenient is, so that the claim can never hold"),
        (None, "any(perplexity_ratio <= 3)", "any(perplexity_ratio > 0 or kl >= 0)", "lenient",
         "can never hold"),
        ("any(perplexity_ratio <= 2)", PLAIN, "any(perplexity_ratio <= 2)", "catastrophic",
         "nothing can be STRICT"),
        (None, "any(perplexity_ratio < 0)", None, "lenient", "can never hold"),
        (None, "any(perplexity_ratio < 2 and perplexity_ratio > 3)", None, "lenient",
         "can never hold"),
        (None, "any(unique_tokens > 100)", None, "lenient", "can never hold"),
        (None, "any(perplexity_ratio >= 0)", None, "lenient", "can never fail"),
        (None, "all(top1_agreement <= 1)", None, "lenient", "can never fail"),
        (None, "all(unique_tokens <= 100)", None, "lenient", "can never fail"),
    ],
)  # fmt: skip
def test_criteria_that_contradict_each_other(
    edited, reported, strict, lenient, catastrophic, key, message
):
    (problem,) = reported(with_criteria(edited, strict, lenient, catastrophic))
    assert problem.key == f"criteria.{key}"
    assert message in problem.message


def with_criteria(edited, strict, lenient, catastrophic):
    return edited(
        ("any(perplexity_ratio <= 3)", lenient),
        ("  strict: any(perplexity_ratio <= 1.5)\n", f"  strict: {strict}\n" if strict else ""),
        (
            "  catastrophic: all(perplexity_ratio >= 10)\n",
            f"  catastrophic: {catastrophic}\n" if catastrophic else "",
        ),
    )


def test_arms_of_which_one_must_beat_the_other(edited, read, reported):
    arms = (
        "intervention:\n  skip_layers: {layers: {each: all}}\n",
        "arms:\n  a: {skip_layers: {layers: 0}}\n  b: {zero_layers: {layers: 0}}\n",
    )
    strict = ("any(perplexity_ratio <= 1.5)", "a.kl * 4 <= b.kl")
    none = ("  catastrophic: all(perplexity_ratio >= 10)\n", "")
    read(edited(arms, strict, none, ("any(perplexity_ratio <= 3)", "a.kl * 2 <= b.kl")))
    (problem,) = reported(
        edited(arms, strict, none, ("any(perplexity_ratio <= 3)", "a.kl * 5 <= b.kl"))
    )
    assert "is stricter than strict: where a.kl is" in problem.message


SIDES = st.sampled_from(["kl", "top1_agreement", "1", "2", "3"])
SIGNS = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
comparisons = st.builds(
    lambda name, sign, bar: f"{name} {sign} {bar}",
    st.sampled_from(["kl", "top1_agreement"]),
    SIGNS,
    st.sampled_from("123"),
)


@st.composite
def criteria(draw, depth=2):
    if depth == 0:
        name = draw(st.sampled_from(["any({})", "all({})", "not any({})"]))
        if draw(st.booleans()):
            return name.format(draw(comparisons))
        word = draw(st.sampled_from(["min", "max"]))
        return f"{word}(kl) {draw(SIGNS)} {draw(st.sampled_from('123'))}"
    word = draw(st.sampled_from(["and", "or"]))
    return f"({draw(criteria(depth - 1))} {word} {draw(criteria(depth - 1))})"


def every_case():
    """Every order of two variants' two metrics around the bars 1, 2 and 3."""
    values = (0.5, 1, 1.5, 2, 2.5, 3, 3.5)
    for kls in itertools.product(values, repeat=2):
        for tops in ((0.5, 3.5), (2, 2), (1, 3), (2.5, 1.5)):
            yield [
                Row(f"skip-{n}", str(n), None, None, None,
                    {"kl": Interval.point(kl), "top1_agreement": Interval.point(top)})
                for n, (kl, top) in enumerate(zip(kls, tops, strict=True))
            ]  # fmt: skip


CASES = list(every_case())[::7]


@given(criteria(), criteria())
def test_an_implication_that_is_seen_is_one(first, second):
    one, other = Expression.parse(first), Expression.parse(second)
    assert implies(one.node, one.node)
    if implies(one.node, other.node):
        for rows in CASES:
            if one.evaluate(rows).truth is Truth.TRUE:
                assert other.evaluate(rows).truth is Truth.TRUE


@given(criteria())
def test_the_normal_form_says_the_same(text):
    expression = Expression.parse(text)
    same = Expression("", normal(expression.node))
    for rows in CASES[::2]:
        assert same.evaluate(rows).truth is expression.evaluate(rows).truth


@pytest.mark.parametrize(
    ("strict", "lenient"),
    [
        # What follows from the definitions of the metrics, not from the shape.
        ("all(protocol_gap >= 0.1)", "all(r.swap_kl >= i.swap_kl)"),
        ("all(i.kl <= 0.1)", "all(i.swap_kl <= 0.2)"),
        ("mean(protocol_gap) >= 0.1", "mean(protocol_gap) >= 0"),
        ("all(not -i.kl / 2 < -0.1)", "all(i.kl - 0.1 <= 0.1)"),
        ("all(r.kl != 3)", "all(r.kl < 3 or r.kl > 3)"),
    ],
)
def test_definitions_of_the_metrics_are_known(edited, read, strict, lenient):
    arms = (
        "intervention:\n  skip_layers: {layers: {each: all}}\n",
        "arms:\n  r: {replace_layers: {pairs: {each: all}}}\n"
        "  i: {interchange_layers: {pairs: {each: all}}}\n",
    )
    read(
        edited(
            arms,
            ("any(perplexity_ratio <= 1.5)", strict),
            ("any(perplexity_ratio <= 3)", lenient),
            ("  catastrophic: all(perplexity_ratio >= 10)\n", ""),
        )
    )
