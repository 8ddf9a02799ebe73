"""Decide whether one criterion follows from another, as far as their shape shows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from pytest_layerguard.bet.criteria.expression import COMPARISONS
from pytest_layerguard.bet.criteria.parse import (
    MIRRORED,
    Arithmetic,
    Comparison,
    Junction,
    Negation,
    Negative,
    Node,
    Number,
    Quantifier,
    is_truth,
)

_NEGATED: Final = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
_DUAL: Final = {"any": "all", "all": "any", "and": "or", "or": "and"}


def implies(first: Node, second: Node) -> bool:
    """Return whether the second holds wherever the first does, or False if the shape does not show it."""
    return _implies(normal(first), normal(second))


def of_one(node: Node) -> Node:
    """Return what a criterion says where there is one measurement, which is any, all and the mean of it."""
    match node:
        case Quantifier():
            return of_one(node.operand)
        case Negation() | Negative():
            return replace(node, operand=of_one(node.operand))
        case Arithmetic():
            return replace(node, left=of_one(node.left), right=of_one(node.right))
        case Comparison() | Junction():
            return replace(node, operands=tuple(map(of_one, node.operands)))
        case _:
            return node


def normal(node: Node, *, negated: bool = False) -> Node:
    """Return an equivalent tree without ``not``, chains, and ``min`` or ``max`` against a number."""
    match node:
        case Negation():
            return normal(node.operand, negated=not negated)
        case Junction():
            word = _DUAL[node.word] if negated else node.word
            return Junction(word, tuple(normal(each, negated=negated) for each in node.operands))
        case Quantifier() if is_truth(node):
            word = _DUAL[node.word] if negated else node.word
            return _quantified(word, normal(node.operand, negated=negated))
        case Comparison():
            pairs = tuple(
                _pair(left, _NEGATED[sign] if negated else sign, right)
                for left, sign, right in zip(
                    node.operands, node.operators, node.operands[1:], strict=False
                )
            )
            return pairs[0] if len(pairs) == 1 else Junction("or" if negated else "and", pairs)
        case _:
            return node


def _quantified(word: str, operand: Node) -> Node:
    return Quantifier("any" if word == "any" else "all", operand)


def _pair(left: Node, sign: str, right: Node) -> Node:
    if isinstance(left, Number):
        left, sign, right = right, MIRRORED[sign], left
    if isinstance(left, Quantifier) and isinstance(right, Number) and sign in "<=>=":
        inner = Comparison((left.operand, right), (sign,))
        smaller = sign[0] == "<"
        if left.word == "min":
            return _quantified("any" if smaller else "all", inner)
        if left.word == "max":
            return _quantified("all" if smaller else "any", inner)
    return Comparison((left, right), (sign,))


def _implies(first: Node, second: Node) -> bool:
    if first == second:
        return True
    match first, second:
        case Junction(word="or"), _:
            return all(_implies(each, second) for each in first.operands)
        case _, Junction(word="and"):
            return all(_implies(first, each) for each in second.operands)
        case Comparison(), Comparison():
            return _bar_implies(first, second)
        case Quantifier(), Quantifier() if not (first.word == "any" and second.word == "all"):
            # There is always a variant, so that all of them includes one.
            return _implies(first.operand, second.operand)
        case _:
            return (
                isinstance(first, Junction)
                and any(_implies(each, second) for each in first.operands)
            ) or (
                isinstance(second, Junction)
                and any(_implies(first, each) for each in second.operands)
            )


def _bar_implies(first: Comparison, second: Comparison) -> bool:
    (left, bar), (other, looser) = first.operands, second.operands
    if left != other or not isinstance(bar, Number) or not isinstance(looser, Number):
        return False
    sign, wanted = COMPARISONS[first.operators[0]], COMPARISONS[second.operators[0]]
    # Both change at their bar alone, so the bars and one value on each side of them show every case.
    low, high = sorted((bar.value, looser.value))
    values = (
        math.nextafter(low, -math.inf),
        low,
        low / 2 + high / 2,
        high,
        math.nextafter(high, math.inf),
    )
    return all(wanted(value, looser.value) for value in values if sign(value, bar.value))
