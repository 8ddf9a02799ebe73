"""What a bet that challenges a falsification must name, measure and meet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria import parse
from pytest_layerguard.bet.criteria.interval import Truth
from pytest_layerguard.bet.criteria.metrics import METRICS
from pytest_layerguard.bet.criteria.parse import CriterionError
from pytest_layerguard.bet.errors import printable
from pytest_layerguard.catalogue.crossing.doors import parts_inside
from pytest_layerguard.catalogue.crossing.strength import is_weaker
from pytest_layerguard.catalogue.wording import cut

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_layerguard.bet.bet import Bet
    from pytest_layerguard.bet.criteria.evaluate import Decider, Expression, Row
    from pytest_layerguard.bet.criteria.straddle import Straddle
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.catalogue.bet_folders import Catalogue
    from pytest_layerguard.catalogue.crossing.doors import Crossing
    from pytest_layerguard.measurement.results import BetResult


def mistakes(
    document: BetDocument, catalogue: Catalogue, crossed: Sequence[Crossing]
) -> Iterator[str]:
    """Yield the errors in a bet's challenges, each with what is allowed."""
    bet = document.bet
    allowed = ", ".join(dict.fromkeys(each.id for each in crossed)) or "none, it stands in no door"
    for key, id_, place in _named(bet):
        line, column = document.position(key, place)
        where = f"line {line}, column {column}: {key}: {id_!r}"
        entries = catalogue.of(id_)
        if not entries:
            yield f"{where} is no bet of the catalogue; allowed: {allowed}"
        elif all(entry.closes is None for entry in entries):
            yield f"{where} is {entries[0].document.bet.status} and closes no door; allowed: {allowed}"
        elif not any(each.id == id_ for each in crossed):
            yield f"{where} closed a door that this bet does not stand in; allowed: {allowed}"
        for each in crossed:
            if each.id != id_:
                continue
            challenge = key == "challenges"
            bars = each.entry.bars if challenge else each.entry.catastrophes
            yield from (f"{where}: {lack}" for lack in _lacks(each, bet, bars))
            if not challenge and not is_weaker(bet, each.entry):
                yield (
                    f"{where}: your claim is as strong as the one that failed: "
                    f"'{cut(str(bet.criteria.lenient))}' implies {each.bars}; challenge it instead"
                )


def _named(bet: Bet) -> Iterator[tuple[str, str, int]]:
    for key in ("challenges", "acknowledges"):
        yield from ((key, id_, place) for place, id_ in enumerate(getattr(bet, key)))


def _lacks(crossing: Crossing, bet: Bet, bars: Sequence[Expression]) -> Iterator[str]:
    """Yield what a bet must measure besides, so that bars of a falsification can be judged on it."""
    theirs, ours = crossing.entry.document.bet.measure.tasks or {}, bet.measure.tasks or {}
    names = {*(bet.arms or {}), *(bet.measure.texts or {}), *bet.model.checkpoints(), *theirs}
    for reference in sorted({each for bar in bars for each in bar.references}, key=str):
        metric = METRICS.get(reference.metric)
        if metric is not None and metric.needs == "sample" and bet.measure.sample is None:
            yield f"its bar needs {reference.metric}; add measure.sample"
        if metric is not None and metric.needs == "generate" and bet.measure.generate is None:
            yield f"its bar needs {reference.metric}; add measure.generate"
        on_request = metric is None or metric.needs == "criterion"
        if on_request and reference.metric not in bet.criteria.metrics:
            yield f"its bar needs {reference.metric}; name it in a criterion, so that it is measured"
        for task in reference.prefix:
            if task in theirs and ours.get(task) != theirs[task]:
                yield f"its bar is about {reference}; add its task {task!r} as it is there to measure.tasks"
        missing = [name for name in reference.prefix if name not in names]
        if missing:
            yield (
                f"its bar is about {reference}; name an arm, a text or a checkpoint "
                f"{missing[0]!r}, so that it can be judged"
            )
    yield from _elsewhere(
        crossing, {name for bar in bars for each in bar.references for name in each.prefix}
    )


def _elsewhere(crossing: Crossing, named: set[str]) -> Iterator[str]:
    """Yield the arms that do not match those that a bar names: equal names alone do not make equal arms."""
    theirs = crossing.entry.document.bet
    about = named & set(theirs.arms or {})
    if not about:
        return
    closed = {arm for arm, _ in parts_inside(crossing.entry, theirs)}
    # A bet without arms is asked to name one already.
    for arm in sorted(each for each in crossing.arms - about if each is not None):
        yield f"its bar is about {', '.join(sorted(about))}; the arm {arm!r} stands in the door too"
    for arm in sorted((about & closed) - crossing.arms):
        yield f"its bar is about {arm}, which stands in the door there and not here"


@dataclass(frozen=True)
class ChallengeResult:
    """Whether a bet meets the bar of a falsification, with the numbers, or why that is undecided."""

    truth: Truth
    reason: str
    straddling: tuple[Straddle, ...] = ()
    """What leaves it undecided."""
    decider: Decider | None = None
    """The comparison that it rests on; None where it cannot be judged."""


def judge_challenge(crossing: Crossing, rows: Sequence[Row]) -> ChallengeResult:
    """Judge a measured bet by the lenient criterion of a falsification.

    Only arms and checkpoints that stand in the door count. If the criterion is about one
    measurement and the bet has several, each of them must meet it, so that none can be picked.
    """
    return _joined([_judged(expression, crossing, rows) for expression in crossing.entry.bars])


def judge_acknowledgement(crossing: Crossing, rows: Sequence[Row]) -> ChallengeResult:
    """Judge whether a bet stays clear of the catastrophic criterion of a falsification.

    As in a challenge, every measurement that stands in the door counts. Without such a criterion
    there is nothing to stay clear of.
    """
    return _joined(
        [
            _judged(expression, crossing, rows, clear=True)
            for expression in crossing.entry.catastrophes
        ]
    )


def _joined(bars: Sequence[ChallengeResult]) -> ChallengeResult:
    truth = Truth.all(each.truth for each in bars)
    deciding = [each for each in bars if each.truth is truth]
    straddling = tuple(straddle for each in deciding for straddle in each.straddling)
    decider = next((each.decider for each in deciding if each.decider), None)
    reason = "; ".join(each.reason for each in deciding)
    return ChallengeResult(truth, reason, straddling, decider)


_SHOWN: Final = 3


def _judged(
    expression: Expression, crossing: Crossing, rows: Sequence[Row], *, clear: bool = False
) -> ChallengeResult:
    """Return whether every measurement in the door meets a criterion or, with `clear`, none does."""
    inside = [
        row for row in rows if row.arm in crossing.arms and row.checkpoint in crossing.checkpoints
    ]
    if any(reference.prefix for reference in expression.references):
        groups = [list(rows)]
    else:
        keys = dict.fromkeys((row.arm, row.text, row.checkpoint) for row in inside)
        groups = [
            [row for row in inside if (row.arm, row.text, row.checkpoint) == key] for key in keys
        ]
        if not _ranges(expression):
            groups = [[row] for group in groups for row in group]
    evaluations = []
    # If nothing was measured in the door, an empty group raises CriterionError: the bar is not met.
    for group in groups or [[]]:
        try:
            evaluations.append(expression.evaluate(group))
        except CriterionError as error:
            return ChallengeResult(Truth.UNDECIDED, f"cannot be judged here: {cut(error.message)}")
    truths = [~each.truth if clear else each.truth for each in evaluations]
    truth = Truth.all(truths)
    deciding = [each for each, own in zip(evaluations, truths, strict=True) if own is truth]
    filled = [each.filled for each in deciding]
    more = f"; and {len(filled) - _SHOWN} more" if len(filled) > _SHOWN else ""
    straddling = (straddle for each in evaluations for straddle in each.straddling)
    return ChallengeResult(
        truth,
        cut("; ".join(filled[:_SHOWN]) + more),
        tuple(straddling) if truth is Truth.UNDECIDED else (),
        deciding[0].decider,
    )


def _ranges(expression: Expression) -> bool:
    return any(isinstance(node, parse.Quantifier) for node in parse.walk(expression.node))


def easier_conditions(bet: Bet, result: BetResult, challenged: Sequence[Crossing]) -> Iterator[str]:
    """Yield how the conditions of a bet differ from those of the falsifications that it challenges."""
    for each in challenged:
        other = each.entry.document.bet
        differ = []
        if other.measure.tokens is not None and result.tokens < other.measure.tokens:
            differ.append(f"on {result.tokens:,} tokens instead of {other.measure.tokens:,}")
        if result.descriptive:
            differ.append("without intervals, because of fewer than 8 windows")
        if bet.measure.named_texts != other.measure.named_texts:
            differ.append("on another text")
        if bet.measure.max_base_perplexity == "none":
            differ.append("with no bound on the base's perplexity")
        if bet.model != other.model:
            differ.append(f"on {bet.model.name} instead of {other.model.name}")
        if differ:
            yield printable(f"compared with {each.id} it was measured {', '.join(differ)}")
