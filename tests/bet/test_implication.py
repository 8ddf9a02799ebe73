"""What follows from what: every pair of bars against an oracle, and the shapes around them one by one."""

from __future__ import annotations

import itertools
import operator

import pytest

from pytest_layerguard.bet.criteria import parse
from pytest_layerguard.bet.criteria.implication import implies, normal

SIGNS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
POINTS = [place / 4 for place in range(-8, 20)]


def node(text: str) -> parse.Node:
    return parse.parse(text, quantifiers=True, texts=False)


def follows(first: str, second: str) -> bool:
    return implies(node(first), node(second))


@pytest.mark.parametrize(("sign", "wanted"), [*itertools.product(SIGNS, SIGNS)])
def test_every_pair_of_bars(sign: str, wanted: str) -> None:
    for bar, other in itertools.product((0, 1, 2), repeat=2):
        true = all(SIGNS[wanted](point, other) for point in POINTS if SIGNS[sign](point, bar))
        assert follows(f"kl {sign} {bar}", f"kl {wanted} {other}") is true, (bar, other)
        assert follows(f"{bar} {MIRROR[sign]} kl", f"kl {wanted} {other}") is true, (bar, other)


MIRROR = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("all(kl < 1)", "any(kl < 1)"),
        ("all(kl < 1)", "all(kl < 2)"),
        ("any(kl < 1)", "any(kl < 2)"),
        ("kl < 1 and unique_tokens > 2", "kl < 2"),
        ("unique_tokens > 2 and kl < 1", "kl < 2"),
        ("kl < 1", "kl < 2 or unique_tokens > 2"),
        ("kl < 1", "unique_tokens > 2 or kl < 2"),
        ("kl < 1 or kl < 2", "kl < 3"),
        ("kl < 1", "kl < 2 and kl < 3"),
        ("kl < 1 and unique_tokens > 2", "unique_tokens > 1 and kl < 2"),
        ("kl < 1 or unique_tokens > 2", "unique_tokens > 1 or kl < 2"),
        ("0 < kl < 1", "kl > 0"),
        ("0 < kl < 1", "kl < 1"),
        ("not kl >= 1", "kl < 1"),
        ("not (kl >= 1 or unique_tokens < 5)", "unique_tokens >= 5"),
        ("not any(kl >= 1)", "all(kl < 1)"),
        ("not all(kl >= 1)", "any(kl < 1)"),
        ("min(kl) < 1", "any(kl < 1)"),
        ("min(kl) >= 1", "all(kl >= 1)"),
        ("max(kl) < 1", "all(kl < 1)"),
        ("max(kl) >= 1", "any(kl >= 1)"),
        ("1 > max(kl)", "all(kl < 2)"),
        ("mean(kl) < 1", "mean(kl) < 2"),
    ],
)
def test_what_follows(first: str, second: str) -> None:
    assert follows(first, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("any(kl < 1)", "all(kl < 1)"),
        ("all(kl < 2)", "any(kl < 1)"),
        ("kl < 1", "swap_kl < 2"),
        ("kl < perplexity", "kl < 2"),
        ("kl < 1", "kl < perplexity"),
        ("kl < 1 or unique_tokens > 2", "kl < 1"),
        ("kl < 1 or unique_tokens > 2", "unique_tokens > 2"),
        ("kl < 1", "kl < 1 and unique_tokens > 2"),
        ("kl < 1", "unique_tokens > 2 and kl < 1"),
        ("unique_tokens < 1 and swap_kl > 2", "kl < 2"),
        ("kl < 1", "unique_tokens > 2 or swap_kl < 2"),
        ("min(kl) < 1", "all(kl < 1)"),
        ("max(kl) > 1", "all(kl > 1)"),
        ("mean(kl) < 1", "any(kl < 1)"),
        ("max(kl) == 1", "all(kl == 1)"),
        ("not 0 < kl < 1", "kl <= 0"),
        ("any(kl < 1)", "kl < 1"),
    ],
)
def test_what_does_not_follow(first: str, second: str) -> None:
    assert not follows(first, second)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("not kl < 1", "kl >= 1"),
        ("not kl <= 1", "kl > 1"),
        ("not kl > 1", "kl <= 1"),
        ("not kl >= 1", "kl < 1"),
        ("not kl == 1", "kl != 1"),
        ("not kl != 1", "kl == 1"),
        ("not not kl < 1", "kl < 1"),
        ("1 < kl", "kl > 1"),
        ("1 <= kl", "kl >= 1"),
        ("1 > kl", "kl < 1"),
        ("1 >= kl", "kl <= 1"),
        ("1 == kl", "kl == 1"),
        ("1 != kl", "kl != 1"),
        ("kl < swap_kl", "kl < swap_kl"),
        ("0 < kl < 1", "kl > 0 and kl < 1"),
        ("not 0 < kl < 1", "kl <= 0 or kl >= 1"),
        ("not (kl < 1 and kl > 2)", "kl >= 1 or kl <= 2"),
        ("not (kl < 1 or kl > 2)", "kl >= 1 and kl <= 2"),
        ("not any(kl < 1)", "all(kl >= 1)"),
        ("not all(kl < 1)", "any(kl >= 1)"),
        ("any(not kl < 1)", "any(kl >= 1)"),
        ("all(1 > kl)", "all(kl < 1)"),
        ("min(kl) < 1", "any(kl < 1)"),
        ("min(kl) <= 1", "any(kl <= 1)"),
        ("min(kl) > 1", "all(kl > 1)"),
        ("max(kl) < 1", "all(kl < 1)"),
        ("max(kl) > 1", "any(kl > 1)"),
        ("max(kl) >= 1", "any(kl >= 1)"),
        ("mean(kl) > 1", "mean(kl) > 1"),
        ("max(kl) == 1", "max(kl) == 1"),
        ("min(kl) != 1", "min(kl) != 1"),
        ("min(kl) < perplexity", "min(kl) < perplexity"),
        ("not max(kl) < 1", "any(kl >= 1)"),
    ],
)
def test_normal_forms(text: str, wanted: str) -> None:
    assert parse.written(normal(node(text))) == wanted
