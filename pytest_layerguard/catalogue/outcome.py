"""The outcome of a bet, decided from plain values: status, verdict, record and challenges."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_layerguard.bet.criteria.evaluate import Decider  # noqa: TC001 - pydantic reads the annotations
from pytest_layerguard.bet.criteria.interval import Truth
from pytest_layerguard.bet.errors import listed
from pytest_layerguard.bet.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_layerguard.bet.bet import Status
    from pytest_layerguard.bet.verdict import Judgement
    from pytest_layerguard.catalogue.crossing.doors import Crossing
    from pytest_layerguard.environment.measurement_errors import Lack
    from pytest_layerguard.measurement.results import BetResult


UNRECORDED: Final = "unrecorded"
"""How a message or warning about a bet without a record begins."""
NEITHER: Final = "the falsification could neither be confirmed nor overturned here"
"""The warning of a falsification that is undecided."""


class Word(StrEnum):
    """The word that a bet is reported by."""

    STRICT = "STRICT"
    LENIENT = "LENIENT"
    FALSIFIED = "FALSIFIED"
    CATASTROPHIC = "CATASTROPHIC"
    INCONCLUSIVE = "INCONCLUSIVE"
    CROSSED = "CROSSED"
    REGRESSED = "REGRESSED"
    OVERTURNED = "OVERTURNED"
    TAMPERED = "TAMPERED"
    STALE = "STALE"
    ERROR = "ERROR"
    UNMEASURED = "UNMEASURED"
    UNRECORDED = "UNRECORDED"
    SKIPPED = "SKIPPED"


class MissedBar(NamedTuple):
    """A comparison that a bet did not win against a falsification that it names.

    Attributes:
        of: The falsification's id.
        decider: The comparison.
        catastrophic: Whether it is with what the bet must stay clear of, and not with what it must meet.
    """

    of: str
    decider: Decider
    catastrophic: bool


@dataclass(frozen=True)
class Outcome:
    """The outcome of a bet.

    Attributes:
        word: The word for it.
        passed: Whether the test passes.
        verdict: What its criteria say of the measurement.
        verdict_before: The verdict of its record before this run.
        judgement: Its criteria, evaluated.
        result: The measurement.
        crossed: The closed doors that it stands in, where they decided.
        messages: Why it failed or was skipped. A message may have several lines; untrusted text in it is already safe
            to print.
        warnings: What to look at.
        remarks: What was reviewed with its record, so that nobody has to look again.
        lack: What was wanting to measure it, as far as that is known by name.
        recorded: Which record was written and what it closes.
        missed: The bars of falsifications that decided against it.
        differs: What is not as in its record, a line for each key or file.
    """

    word: Word
    passed: bool
    verdict: Verdict | None = None
    verdict_before: Verdict | None = None
    judgement: Judgement | None = None
    result: BetResult | None = None
    crossed: tuple[Crossing, ...] = ()
    messages: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    lack: Lack | None = None
    recorded: str | None = None
    missed: tuple[MissedBar, ...] = ()
    differs: tuple[str, ...] = ()

    @property
    def skipped(self) -> bool:
        """Whether the bet was neither judged nor refused."""
        return self.word is Word.SKIPPED

    @property
    def decided_by(self) -> str | None:
        """The criterion of the bet that decided; None where none did, or a falsification's bar."""
        if self.judgement is None:
            return None
        if self.word is Word.REGRESSED and self.judgement.verdict is Verdict.LENIENT:
            return "strict"
        by_bar = self.word in (Word.CROSSED, Word.INCONCLUSIVE) and self.judgement.verdict.holds
        return None if by_bar else self.judgement.decided_by

    @property
    def reason(self) -> str:
        """All messages in one text."""
        return "\n".join(self.messages)


def error(message: str) -> Outcome:
    """Return the outcome of a bet that cannot be measured honestly."""
    return Outcome(Word.ERROR, passed=False, messages=(message,))


def unavailable(reason: str, lack: Lack | None = None, *, required: bool) -> Outcome:
    """Return the outcome of a bet that cannot be measured here: a skip, or a failure if required."""
    if not required:
        return Outcome(Word.SKIPPED, passed=False, messages=(reason,), lack=lack)
    demand = "--layerguard-require all: a bet that cannot be measured here is a failure"
    return Outcome(Word.UNMEASURED, passed=False, messages=(reason, demand), lack=lack)


@dataclass(frozen=True)
class Case:
    """All that decides the outcome of a bet, as plain values.

    Attributes:
        status: The status in the bet file.
        verdict: What was measured, or None before anything is.
        recorded: The verdict of its record, or None without a record of this very bet.
        recorded_bar: Whether the record met the bars of all that the bet challenged.
        tampered: The bet is another than its record's, and no amendment says so.
        stale: Once measured, what it was measured on is not what its record was measured on, and no
            amendment says so.
        amended: An amendment says so; the record is then of the text before it.
        amended_before: The record followed an amendment.
        inside: Falsifications whose closed door it stands in without naming them.
        undecided: Falsifications of which that cannot be decided here.
        challenged: Falsifications that it challenges, and stands in the door of.
        mistaken: What is wrong with its challenges.
        bars: Once measured, whether it meets the lenient criterion of each falsification in
            `inside` or `challenged`.
        clear: Once measured, whether it stays clear of the catastrophic criterion of each
            falsification that it acknowledges.
        placeholders: Whether its bars are placeholders, so that it cannot be recorded.
        require_records: Whether an upheld or falsified bet must have a record.
        recording: Whether a record is about to be written.
    """

    status: Status
    verdict: Verdict | None = None
    recorded: Verdict | None = None
    recorded_bar: Truth = Truth.TRUE
    tampered: bool = False
    stale: bool = False
    amended: bool = False
    amended_before: bool = False
    inside: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()
    challenged: tuple[str, ...] = ()
    mistaken: tuple[str, ...] = ()
    bars: Mapping[str, Truth] = field(default_factory=dict)
    clear: Mapping[str, Truth] = field(default_factory=dict)
    placeholders: bool = False
    require_records: bool = False
    recording: bool = False

    @property
    def is_newcomer(self) -> bool:
        """Whether the catalogue does not have this bet yet, whatever its status says."""
        recorded = self.recorded is not None or self.recording
        return self.status == "proposed" or (self.status == "upheld" and not recorded)

    @property
    def bar(self) -> Truth:
        """Whether every bar that the bet challenges is met."""
        return Truth.all(truth for name, truth in self.bars.items() if name not in self.inside)

    def cleared(self, truth: Truth) -> tuple[str, ...]:
        """Return the falsifications it acknowledges of whose catastrophe it is clear, or not, or perhaps."""
        return tuple(name for name, found in self.clear.items() if found is truth)


@dataclass(frozen=True)
class Decision:
    """The word, whether the test passes, and why; ``word`` is None where measuring must decide."""

    word: Word | None
    passed: bool = False
    messages: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


MEASURE: Final = Decision(None)


def decide(case: Case) -> Decision:
    """Return the decision on a bet, before it is measured and again after."""
    decision = _unmeasured(case)
    if decision is None:
        if case.verdict is None:
            return MEASURE
        decision = _recorded(case, _measured(case, case.verdict))
        if case.stale:
            decision = _stale(case, decision)
    return replace(decision, warnings=(*decision.warnings, *_notes(case)))


def _unmeasured(case: Case) -> Decision | None:
    """Return the decision that needs no measurement, if there is one; the first reason counts."""
    if case.tampered:
        return _failed(Word.TAMPERED, CHANGED)
    if case.mistaken:
        return _failed(Word.ERROR, *case.mistaken)
    if (contradiction := _contradiction(case)) is not None:
        return contradiction
    if case.inside and case.is_newcomer:
        closed = f"{listed(case.inside)} closed this door, so nothing was measured"
        if len(case.inside) > 1:
            closed += "; a challenge must name each of them"
        if case.status == "proposed":
            return _failed(Word.CROSSED, closed)
        unproven = "it says upheld but has no record, so to the catalogue it is a proposal"
        return _failed(Word.CROSSED, closed, unproven)
    if case.undecided and case.is_newcomer:
        return Decision(
            Word.SKIPPED,
            messages=(
                f"not measured: whether {listed(case.undecided)} closed this door is not known, "
                "because the model's configuration cannot be had here",
            ),
        )
    return None


def _contradiction(case: Case) -> Decision | None:
    """Return the failure of a bet whose status contradicts its record."""
    recorded = case.recorded
    if recorded is None:
        return None
    won = recorded.holds and case.recorded_bar is Truth.TRUE
    short = case.recorded_bar is Truth.FALSE
    of = f"its record says {recorded}"
    if recorded.holds and short:
        of += " by its own criteria, but short of the bar that it challenged"
    anew = "or, if that is no longer so, delete the record and run with --layerguard-record"
    if case.status == "upheld" and not won:
        return _failed(
            Word.REGRESSED,
            f"status: upheld contradicts the record: {of}; a bet that lost is kept as "
            f"status: falsified, {anew}",
        )
    if case.status == "falsified" and won:
        return _failed(
            Word.OVERTURNED,
            f"status: falsified contradicts the record: {of}; say status: upheld, {anew}",
        )
    if case.status == "proposed" and (recorded.fails or short):
        return _failed(
            Word.CROSSED if short else Word(recorded),
            f"status: proposed contradicts the record: {of}; a bet that lost is kept as "
            f"status: falsified, {anew}",
        )
    return None


def _measured(case: Case, verdict: Verdict) -> Decision:
    decide = {"proposed": _proposed, "upheld": _upheld, "falsified": _falsified}[case.status]
    return decide(case, verdict)


def _proposed(case: Case, verdict: Verdict) -> Decision:
    if case.bars and (verdict.fails or case.bar is Truth.FALSE):
        return _failed(Word.CROSSED, *_lost(case, verdict))
    if verdict.fails and case.placeholders:
        return _failed(
            Word(verdict),
            "the claim does not hold by bars that are placeholders; write the bars that you would accept, and "
            "take the key placeholders out: only then can it be recorded",
        )
    if verdict.fails:
        return _failed(
            Word(verdict),
            "the claim does not hold; keep the bet as status: falsified with a record "
            "(--layerguard-record), so that nobody has to lose it again",
        )
    if not verdict.holds:
        return _failed(Word.INCONCLUSIVE, _UNDECIDED)
    if case.bar is Truth.UNDECIDED:
        return _failed(Word.INCONCLUSIVE, _open(case))
    if (dead := _catastrophe(case)) is not None:
        return dead
    if not case.bars:
        return Decision(Word(verdict), passed=True, warnings=tuple(_acknowledged(case)))
    won = (
        f"the challenge of {listed(case.challenged)} won: the catalogue should be revisited "
        "for this model"
    )
    return Decision(Word(verdict), passed=True, warnings=(won, *_acknowledged(case)))


def _catastrophe(case: Case) -> Decision | None:
    """Return the failure of a bet that is beyond doubt dead by what it acknowledges, or perhaps is."""
    if dead := case.cleared(Truth.FALSE):
        return _failed(Word.CROSSED, f"CATASTROPHIC by the criterion of {listed(dead)}")
    if maybe := case.cleared(Truth.UNDECIDED):
        return _failed(
            Word.INCONCLUSIVE,
            "the claim holds, but whether it is CATASTROPHIC by the criterion of "
            f"{listed(maybe)} is undecided",
        )
    return None


def _acknowledged(case: Case) -> Iterator[str]:
    if case.clear:
        yield f"a weaker claim than that of {listed(tuple(case.clear))}, which failed"


def _upheld(case: Case, verdict: Verdict) -> Decision:
    if not verdict.holds:
        now = "no longer holds" if verdict.fails else "is no longer known to hold"
        if case.recorded is None:
            now = "does not hold" if verdict.fails else "is not known to hold"
        before = f", recorded as {case.recorded}" if case.recorded else ""
        lost = f"status: upheld, but the claim {now}: {verdict}{before}"
        return _failed(Word.REGRESSED, lost, *(() if verdict.fails else (_UNDECIDED,)))
    if case.recorded is Verdict.STRICT and verdict is Verdict.LENIENT:
        return _failed(Word.REGRESSED, "recorded as STRICT, now only LENIENT")
    if case.bar is Truth.FALSE:
        return _failed(Word.CROSSED, *_lost(case, verdict))
    if case.bar is Truth.UNDECIDED:
        return _failed(Word.INCONCLUSIVE, _open(case))
    if (dead := _catastrophe(case)) is not None:
        return dead
    inside, weaker = tuple(_inside(case)), tuple(_acknowledged(case))
    if case.recorded is not None:
        return Decision(Word(verdict), passed=True, warnings=inside, remarks=weaker)
    return Decision(Word(verdict), passed=True, warnings=(*inside, *weaker))


def _inside(case: Case) -> Iterator[str]:
    """Yield a warning for an upheld bet in a closed door, whose claim may be another one."""
    if not case.inside:
        return
    where = f"upheld inside a door that {listed(case.inside)} closed"
    missed = [name for name in case.inside if case.bars.get(name) is not Truth.TRUE]
    if missed:
        yield f"{where}, without the bar of {listed(missed)}: see that its claim is another one"
    else:
        yield (
            f"{where}, and it meets the bar: the catalogue contradicts itself; narrow closes: "
            "there, or name it in challenges: here"
        )


def _falsified(case: Case, verdict: Verdict) -> Decision:
    met = Truth.all((case.bar, *case.clear.values()))
    if verdict.holds and met is Truth.TRUE:
        return _failed(
            Word.OVERTURNED,
            f"status: falsified, but the claim holds here: {verdict}; the falsification must be "
            "revisited (what differs from its record?), not ignored",
        )
    if verdict.fails:
        return Decision(Word(verdict), passed=True)
    if verdict.holds and (dead := _catastrophe(case)) is not None:
        return Decision(Word(verdict), passed=True, warnings=dead.messages)
    if case.bar is Truth.FALSE:
        own = "it holds by its own criteria; " if verdict.holds else ""
        short = f"{own}{'; '.join(_lost(case, verdict))}"
        return Decision(Word(verdict), passed=True, warnings=(short,))
    return Decision(
        Word.INCONCLUSIVE,
        passed=True,
        warnings=(NEITHER,),
    )


def _recorded(case: Case, decision: Decision) -> Decision:
    """Warn of, or fail, a bet of the catalogue that has no record of its present text."""
    if case.status == "proposed" or case.recorded is not None:
        return decision
    what = UNRECORDED
    if case.amended:
        what += ": its record is of the text before the amendment"
    if case.placeholders:
        what += (
            ": its bars are placeholders; write the bars that you would accept, and take the key placeholders out: "
            "only then can it be recorded"
        )
    elif case.require_records:
        what += (
            "; --layerguard-require records makes that a failure; run with --layerguard-record and "
            "commit the record"
        )
    elif not case.amended:
        what += ": no record of it yet; --layerguard-record writes one"
    if case.require_records:
        word = Word.UNRECORDED if decision.passed else decision.word
        return replace(decision, word=word, passed=False, messages=(*decision.messages, what))
    # What a placeholder asks for is a note of its own.
    return decision if case.placeholders else replace(decision, warnings=(*decision.warnings, what))


def _stale(case: Case, decision: Decision) -> Decision:
    """Fail a bet whose record is of other files, also in the run that records it anew.

    Otherwise a run that always records would let files be swapped with nothing in the diff.
    """
    anew = case.recording and decision.passed
    return replace(
        decision,
        word=Word.STALE,
        passed=False,
        messages=(_SWAPPED + (_ANEW if anew else _SETTLED), *decision.messages),
    )


def _notes(case: Case) -> Iterator[str]:
    if case.amended or case.amended_before:
        yield "amended after the result"
    won = case.recorded is not None and case.recorded.holds and case.recorded_bar is Truth.TRUE
    if case.status == "proposed" and won:
        yield "recorded and still proposed; it can be status: upheld"


def _lost(case: Case, verdict: Verdict) -> Iterator[str]:
    if not verdict.holds:
        claim = "the claim does not hold" if verdict.fails else _UNTOLD
        yield f"{claim}: {verdict}; {listed(case.challenged)} {_stand(case.challenged)}"
    missed = [
        name
        for name, truth in case.bars.items()
        if truth is Truth.FALSE and name not in case.inside
    ]
    if missed:
        yield f"short of the bar (the lenient criterion) of {listed(missed)}, which {_stand(missed)}"


def _open(case: Case) -> str:
    """Return the message on bars that are undecided, for a bet whose claim holds."""
    bars = [name for name, truth in case.bars.items() if truth is Truth.UNDECIDED]
    return (
        f"the claim holds, but whether it meets the bar (the lenient criterion) of {listed(bars)} "
        "is undecided"
    )


CHANGED: Final = (
    "claim, model, intervention, measure or criteria were changed after the result; "
    "put them back, or write amends: {digest: ..., because: ...} with the digest of the record and why"
)
_SWAPPED: Final = "the bet is the same, but what it was measured on is not; "
_ANEW: Final = "recorded anew, and the next run compares with that: commit the record for review"
_SETTLED: Final = (
    "put the files back, or, if these are meant, run with --layerguard-record or write "
    "amends: {digest: ..., because: ...} with the digest of the record and why"
)
_UNTOLD: Final = "whether the claim holds is undecided"
_UNDECIDED: Final = "undecided: an interval straddles a bar; measure more"


def _failed(word: Word, *messages: str) -> Decision:
    return Decision(word, messages=messages)


def _stand(names: Sequence[str]) -> str:
    return "stands" if len(names) == 1 else "stand"
