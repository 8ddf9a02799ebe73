"""Judge measured rows by the criteria of a bet."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from pytest_layerguard.bet.criteria.interval import Truth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_layerguard.bet.criteria.evaluate import Criteria, Evaluation, Row
    from pytest_layerguard.bet.criteria.straddle import Straddle


class Verdict(StrEnum):
    """The verdict on a claim."""

    STRICT = "STRICT"
    LENIENT = "LENIENT"
    FALSIFIED = "FALSIFIED"
    CATASTROPHIC = "CATASTROPHIC"
    INCONCLUSIVE = "INCONCLUSIVE"

    @property
    def holds(self) -> bool:
        """Whether the claim holds."""
        return self in (Verdict.STRICT, Verdict.LENIENT)

    @property
    def fails(self) -> bool:
        """Whether the claim fails. INCONCLUSIVE neither holds nor fails."""
        return self in (Verdict.FALSIFIED, Verdict.CATASTROPHIC)


@dataclass(frozen=True)
class Judgement:
    """A verdict with the evaluations of the criteria. ``decided_by`` names the criterion that decided."""

    verdict: Verdict
    strict: Evaluation | None
    lenient: Evaluation
    catastrophic: Evaluation | None
    decided_by: str

    @property
    def deciding(self) -> Evaluation:
        """The evaluation of the criterion that decided."""
        return getattr(self, self.decided_by) or self.lenient

    @property
    def straddling(self) -> tuple[Straddle, ...]:
        """The undecided comparisons behind an INCONCLUSIVE verdict; empty for every other verdict."""
        if self.verdict is not Verdict.INCONCLUSIVE:
            return ()
        catastrophic = self.catastrophic.straddling if self.catastrophic else ()
        return (*catastrophic, *self.lenient.straddling)


def judge(criteria: Criteria, rows: Sequence[Row]) -> Judgement:
    """Return the verdict on measured rows. Raises CriterionError if the rows do not fit the criteria."""
    strict = criteria.strict.evaluate(rows) if criteria.strict else None
    lenient = criteria.lenient.evaluate(rows)
    catastrophic = criteria.catastrophic.evaluate(rows) if criteria.catastrophic else None
    verdict, decided_by = _verdict(
        strict.truth if strict else Truth.FALSE,
        lenient.truth,
        catastrophic.truth if catastrophic else Truth.FALSE,
    )
    return Judgement(verdict, strict, lenient, catastrophic, decided_by)


def _verdict(strict: Truth, lenient: Truth, catastrophic: Truth) -> tuple[Verdict, str]:
    if catastrophic is Truth.TRUE:
        return Verdict.CATASTROPHIC, "catastrophic"
    if catastrophic is Truth.FALSE and strict is Truth.TRUE:
        return Verdict.STRICT, "strict"
    if catastrophic is Truth.FALSE and lenient is Truth.TRUE:
        return Verdict.LENIENT, "lenient"
    if lenient is Truth.FALSE:
        return Verdict.FALSIFIED, "lenient"
    undecided = "lenient" if lenient is Truth.UNDECIDED else "catastrophic"
    return Verdict.INCONCLUSIVE, undecided
