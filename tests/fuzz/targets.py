"""What a fuzzer drives: bytes in, nothing out, and an exception only where the code is wrong."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path

from pytest_layerguard.bet.criteria.evaluate import Expression, Row
from pytest_layerguard.bet.criteria.implication import implies
from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.bet.criteria.parse import CriterionError
from pytest_layerguard.bet.criteria.scope import ModelScope
from pytest_layerguard.bet.digest import canonical, differences, digest
from pytest_layerguard.bet.errors import BetFileError, Problem, printable
from pytest_layerguard.bet.reader import BetDocument, parse_bets
from pytest_layerguard.bet.targets import LARGEST_LAYER, TargetError
from pytest_layerguard.bet.verdict import judge

PATH = Path("bets/fuzzed.yaml")
_ENDS = (
    Interval(3.0, 2.5, 3.5),
    Interval.point(1.0),
    Interval(0.0, -1.0, 1.0),
    Interval(math.inf, 7.0, math.inf),
    Interval(1e308, -math.inf, math.inf),
)
_METRICS = ("perplexity", "base_perplexity", "perplexity_ratio", "unique_tokens", "kl")
_FACTS = {"parameters": 8.2e6, "layers": 4, "experts": None, "hidden_size": 64, "family": "mixtral"}
ROWS = tuple(
    Row(
        f"skip-{target}",
        str(target),
        arm,
        None,
        None,
        {name: _ENDS[(place + target) % len(_ENDS)] for place, name in enumerate(_METRICS)},
    )
    for arm in ("a", "b")
    for target in range(3)
)


def criterion(data: bytes) -> None:
    """A criterion, and the same text as an expression over models."""
    text = data.decode("utf-8", "replace")
    try:
        expression = Expression.parse(text)
    except CriterionError as error:
        _placed(error, text)
    else:
        again = Expression.parse(expression.canonical)
        assert again == expression, (expression.canonical, again.canonical)
        assert implies(expression.node, expression.node)
        try:
            assert len(expression.evaluate(ROWS).filled) <= 800
        except CriterionError as error:
            _placed(error, text)
    try:
        scope = ModelScope.parse(text)
    except CriterionError as error:
        _placed(error, text)
    else:
        assert ModelScope.parse(scope.canonical) == scope
        scope.covers(_FACTS)


def bets(data: bytes) -> None:
    """A bet file, and what is done with a bet before anything is measured."""
    try:
        documents = parse_bets(data, PATH)
    except BetFileError as error:
        _reported(error.problems)
        return
    for document in documents:
        _used(document)


def _used(document: BetDocument) -> None:
    bet = document.bet
    assert digest(bet).startswith("sha256:")
    assert not differences(canonical(bet), canonical(bet))
    assert document.position("criteria", "lenient") >= (1, 1)
    for interventions in bet.arm_interventions.values():
        for intervention in interventions:
            for layers in (1, 4):
                try:
                    for variant in intervention.arguments.variants(layers):
                        assert variant.slug()
                except TargetError:
                    assert layers <= LARGEST_LAYER
    # The rows are another bet's, and need not fit.
    with contextlib.suppress(CriterionError):
        judge(bet.criteria, ROWS)


def _placed(error: CriterionError, text: str) -> None:
    assert 0 <= error.column <= len(text)
    assert printable(error.message) == error.message, error.message


def _reported(problems: Sequence[Problem]) -> None:
    assert problems
    for problem in problems:
        assert problem.line >= 1
        assert problem.column >= 1
        for line in str(problem).split("\n"):
            assert printable(line) == line, line
