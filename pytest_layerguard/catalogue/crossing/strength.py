"""How strong a bet's claim is beside one that failed, and whether the record would meet its bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_layerguard.bet.arguments import variants
from pytest_layerguard.bet.criteria.implication import implies, of_one
from pytest_layerguard.bet.criteria.interval import Truth
from pytest_layerguard.bet.criteria.parse import CriterionError, Quantifier, walk
from pytest_layerguard.bet.digest import canonical_model
from pytest_layerguard.bet.targets import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_layerguard.bet.bet import Bet
    from pytest_layerguard.bet.criteria.evaluate import Expression, Row
    from pytest_layerguard.catalogue.bet_folders import Entry


def is_weaker(bet: Bet, entry: Entry) -> bool:
    """Return whether a bet's claim does not imply the one that failed.

    A bar about one measurement holds for each of several, and a bar about a sweep is met by a
    single measurement that meets it, as a challenge is judged.
    """
    return not all(_follows(bar, bet) for bar in entry.bars)


def _follows(bar: Expression, bet: Bet) -> bool:
    own, other = bet.criteria.lenient.node, bar.node
    if not bet.is_sweep and len(bet.arm_interventions) == 1:
        return implies(of_one(own), of_one(other))
    if not any(isinstance(node, Quantifier) for node in walk(other)):
        other = Quantifier("all", other)
    return implies(own, other)


def record_meets(bet: Bet, entry: Entry) -> str | None:
    """Return how the record of a falsification would meet a bet's own bar, or None where it would not.

    Only the same variants of the same model are compared, whatever text they were measured on.
    """
    if entry.record is None or entry.record.bet["model"] != canonical_model(bet):
        return None
    rows = list(_rows(bet, entry))
    try:
        evaluation = bet.criteria.lenient.evaluate(rows)
    except CriterionError:
        return None
    if evaluation.truth is not Truth.TRUE:
        return None
    return f"{evaluation.filled} (on {entry.record.result.tokens:,} tokens)"


def _rows(bet: Bet, entry: Entry) -> Iterator[Row]:
    """Yield what a record measured of the very variants of a bet without arms."""
    assert entry.record is not None
    layers = max(int(facts.get("layers") or 0) for facts in entry.record.facts.values())
    theirs = entry.document.bet.arm_interventions
    try:
        wanted = [each.interventions for each in variants(bet.arm_interventions[None], layers)]
        measured = {
            (arm, variant.slug): variant.interventions
            for arm, interventions in theirs.items()
            for variant in variants(interventions, layers)
        }
    except (KeyError, TargetError):
        return
    for row in entry.record.result.rows():
        if measured.get((row.arm, row.variant), ()) in wanted:
            yield row
