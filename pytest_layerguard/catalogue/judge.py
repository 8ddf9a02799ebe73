"""Judge bets by their text, by the catalogue and by what is measured."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import Truth
from pytest_layerguard.bet.digest import criteria, differences
from pytest_layerguard.bet.errors import printable
from pytest_layerguard.bet.verdict import Verdict, judge
from pytest_layerguard.catalogue import outcome
from pytest_layerguard.catalogue.bet_folders import Catalogue, Entry, folders_for, shown
from pytest_layerguard.catalogue.crossing.challenges import (
    ChallengeResult,
    easier_conditions,
    judge_acknowledgement,
    judge_challenge,
    mistakes,
)
from pytest_layerguard.catalogue.crossing.doors import Crossing, crossings, has_candidates
from pytest_layerguard.catalogue.git import GitError, GitRepository
from pytest_layerguard.catalogue.outcome import Case, Decision, MissedBar, Outcome, Word
from pytest_layerguard.catalogue.recognised import recorded
from pytest_layerguard.catalogue.records import (
    Record,
    RecordError,
    closes_of,
    describe_value,
    path_of,
    write_record,
)
from pytest_layerguard.catalogue.staleness import stale_files
from pytest_layerguard.catalogue.wording import describe_closes, describe_record
from pytest_layerguard.checkpoints.facts import EXPERTS_LEFT_OUT
from pytest_layerguard.environment.measurement_errors import (
    Lack,
    MeasurementError,
    UnavailableError,
)
from pytest_layerguard.measurement.metrics.task_metrics import guesses
from pytest_layerguard.measurement.results import FIRST_CRITERIA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path, PurePosixPath

    from pytest_layerguard.bet.arguments import Kinds
    from pytest_layerguard.bet.bet import Bet
    from pytest_layerguard.bet.criteria.evaluate import Row
    from pytest_layerguard.bet.criteria.metrics import Metric
    from pytest_layerguard.bet.criteria.straddle import Straddle
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.bet.verdict import Judgement
    from pytest_layerguard.catalogue.model_facts import FindsModels
    from pytest_layerguard.catalogue.recognised import Recognised
    from pytest_layerguard.measurement.results import BetResult, VariantResult

_DIFFERENCES: Final = 20
_STRADDLES: Final = 6
"""Undecided comparisons that are shown one by one, the closest to a decision first."""


@dataclass
class Judge:
    """Judges the bets of one run by one catalogue, which is read once for each bet folder.

    Attributes:
        lookup: Finds what is known of the models of bets.
        root: The project's folder; paths are shown from here.
        names: Names of bet folders, relative to a folder that holds one.
        require: `all` (what cannot be measured here fails), `records` (so does what has none).
        recording: Whether records are written.
        kinds: The interventions that bets may name; None for the built-in ones.
        metrics: The metrics that criteria may name; None for the built-in ones.
    """

    lookup: FindsModels
    root: Path
    names: Sequence[PurePosixPath]
    require: frozenset[str] = frozenset()
    recording: bool = False
    kinds: Kinds | None = None
    metrics: Mapping[str, Metric] | None = None
    _catalogues: dict[Path, Catalogue] = field(default_factory=dict)

    def judge(self, document: BetDocument, bets: Path, measure: Callable[[], BetResult]) -> Outcome:
        """Return the outcome of a bet of the folder `bets`; call `measure` only if it is needed.

        Whatever is wrong with the bet, its model or its record becomes an outcome; `measure` may
        raise MeasurementError and UnavailableError.
        """
        try:
            found = self.find(document, bets)
        except MeasurementError as error:
            return outcome.error(str(error))
        decision = outcome.decide(found.case)
        if decision.word is not None:
            return self._refused(found, decision)
        if found.may_hide_a_door:
            return outcome.error("\n".join((_UNREADABLE, *found.catalogue.unreadable)))
        try:
            result = measure()
        except UnavailableError as error:
            required = "all" in self.require
            return outcome.unavailable(str(error), error.lack, required=required)
        except MeasurementError as error:
            return outcome.error(str(error))
        if found.catalogue.doors and has_candidates(document.bet):
            # Files that measuring fetched were not here when the doors were looked at.
            here = self.lookup.recognised(document, bets).items()
            known = recorded(document.bet, result)
            found = self.find(
                document, bets, known | {arm: each for arm, each in here if each.findings}
            )
            decision = outcome.decide(found.case)
            if decision.word is not None:
                return self._refused(found, decision)
        return self._judged(found, result)

    def measures(self, document: BetDocument, bets: Path) -> bool:
        """Return whether `judge` would have the bet measured."""
        try:
            found = self.find(document, bets)
        except MeasurementError:
            return False
        return outcome.decide(found.case).word is None and not found.may_hide_a_door

    def find(
        self, document: BetDocument, bets: Path, found_in_files: Recognised | None = None
    ) -> CataloguedBet:
        """Return a bet with all that the catalogue has on it; raises MeasurementError.

        Args:
            document: The bet.
            bets: Its bet folder.
            found_in_files: What its candidates are recognised as; looked up by default.
        """
        catalogue = self.catalogue(bets)
        crossed = crossings(document, bets, catalogue, self.lookup, found_in_files)
        own = (entry for entry in catalogue.of(document.bet.id) if entry.bets == bets)
        return CataloguedBet(
            document,
            bets,
            catalogue,
            next(own, Entry(document, bets)).record,
            crossed,
            tuple(mistakes(document, catalogue, crossed)),
            require_records="records" in self.require and not self.recording,
            recording=self.recording,
        )

    def catalogue(self, bets: Path) -> Catalogue:
        """Return the catalogue that counts for the bets of a folder."""
        if bets not in self._catalogues:
            folders = folders_for(bets, self.root, self.names)
            self._catalogues[bets] = Catalogue.load(folders, kinds=self.kinds, metrics=self.metrics)
        return self._catalogues[bets]

    def _refused(self, found: CataloguedBet, decision: Decision) -> Outcome:
        """Return the outcome of a bet that is not measured."""
        lack = self._lack(found) if decision.word is Word.SKIPPED else None
        if decision.word is Word.SKIPPED and "all" in self.require:
            required = outcome.unavailable("\n".join(decision.messages), lack, required=True)
            return replace(required, crossed=found.crossed, warnings=decision.warnings)
        messages = [*decision.messages]
        if decision.word is Word.TAMPERED:
            messages.append(found.tampering())
        elif decision.word in (Word.CROSSED, Word.SKIPPED) and found.crossed:
            every = [each.id for each in found.crossed]
            messages.extend(
                "\n".join(each.lines(self.root, found.bet, challenge=every))
                for each in found.unnamed
            )
        if found.current is not None:
            messages.append(f"its record: {describe_record(found.current)}")
        assert decision.word is not None
        return Outcome(
            decision.word,
            decision.passed,
            crossed=found.crossed if decision.word in (Word.CROSSED, Word.SKIPPED) else (),
            messages=tuple(messages),
            warnings=decision.warnings,
            lack=lack,
            differs=found.changes if decision.word is Word.TAMPERED else (),
        )

    def _lack(self, found: CataloguedBet) -> Lack | None:
        """Return what is wanting to read the model's configuration."""
        models = self.lookup.checkpoints(found.document, found.bets).values()
        return next((model.lack for model in models if model.lack), None)

    def _judged(self, found: CataloguedBet, result: BetResult) -> Outcome:
        """Return the outcome of a bet that was measured, and record it if this run writes records."""
        bet = found.document.bet
        if (record := found.current) is not None:
            found = replace(found, stale=stale_files(record.result, result))
            # A bar that was recorded is older than whatever was seen here since.
            result = _with_first_criteria(result, record.result)
        rows = result.rows()
        judgement = judge(bet.criteria, rows)
        bars = {each.id: judge_challenge(each, rows) for each in found.held_to}
        acknowledged = {each.id: judge_acknowledgement(each, rows) for each in found.acknowledged}
        truths = {name: each.truth for name, each in bars.items()}
        clear = {name: each.truth for name, each in acknowledged.items()}
        case = replace(found.case, verdict=judgement.verdict, bars=truths, clear=clear)
        decision = outcome.decide(case)
        assert decision.word is not None
        lost = decision.word is Word.CROSSED
        won = decision.passed and bet.status != "falsified"
        named = (*found.challenged, *found.acknowledged)
        compared = (*found.held_to, *found.acknowledged) if won else ()
        easier = tuple(easier_conditions(bet, result, compared))
        reviewed = case.recorded is not None
        reached = Outcome(
            decision.word,
            decision.passed,
            verdict=judgement.verdict,
            verdict_before=case.recorded,
            judgement=judgement,
            result=result,
            crossed=named if lost else (),
            messages=(
                *decision.messages,
                *found.staleness(),
                *_unmet(bars, result, decision.word, "the bar"),
                *_unmet(acknowledged, result, decision.word, "the catastrophic criterion"),
                *(() if lost else _straddles(judgement.straddling, result)),
                *("\n".join(each.lines(self.root)) for each in named if lost),
            ),
            warnings=(
                *decision.warnings,
                *found.notes(),
                *_guessable(bet, judgement, result),
                *_left_out(result),
                *_bars_after(bet, result),
                *(() if reviewed else easier),
            ),
            remarks=(*decision.remarks, *(easier if reviewed else ())),
            missed=(
                *_missed(bars, decision.word, catastrophic=False),
                *_missed(acknowledged, decision.word, catastrophic=True),
            ),
            differs=found.stale if decision.word is Word.STALE else (),
        )
        if not self.recording:
            return reached
        holds = outcome.decide(replace(case, stale=False)).passed
        return self._recorded(found, reached, {**truths, **clear}, holds=holds)

    def _recorded(
        self, found: CataloguedBet, reached: Outcome, bars: Mapping[str, Truth], *, holds: bool
    ) -> Outcome:
        """Write the record of a bet that was measured, unless that would hide that it got worse.

        `holds` is whether it passes by its status, whatever files its record is of.
        """
        assert reached.result is not None
        assert reached.verdict is not None
        if bars_left := found.bet.placeholders:
            return replace(
                reached,
                word=Word.ERROR,
                passed=False,
                messages=(*reached.messages, _PLACEHOLDERS.format(", ".join(bars_left))),
            )
        if found.current is not None and (
            reason := _keeps(found.current, reached.verdict, holds=holds)
        ):
            return replace(reached, warnings=(*reached.warnings, reason))
        try:
            record = Record.of(
                found.document.bet,
                reached.verdict,
                reached.result,
                bars=bars,
                facts={
                    name or "": model.to_record()
                    for name, model in self.lookup.checkpoints(found.document, found.bets).items()
                },
                before=found.record,
            )
            write_record(found.bets, record)
        except (RecordError, MeasurementError) as error:
            return replace(
                reached, word=Word.ERROR, passed=False, messages=(*reached.messages, str(error))
            )
        warnings = tuple(
            each for each in reached.warnings if not each.startswith(outcome.UNRECORDED)
        )
        if found.record is None:
            warnings = (*warnings, *_recorded_before(found))
        path = shown(path_of(found.bets, found.bet.id), self.root)
        # What an overturned falsification closes is to be revisited.
        closing = found.bet.status == "falsified" and reached.word != Word.OVERTURNED
        closes = found.bet.closes if closing else None
        closed = f"; closed from now on: {describe_closes(closes)}" if closes else ""
        reached = replace(
            reached, warnings=warnings, recorded=f"{reached.verdict} in {printable(path)}{closed}"
        )
        new = found.bet.status == "upheld" and found.current is None
        return self._admitted(found, reached) if new and found.unnamed else reached

    def _admitted(self, found: CataloguedBet, reached: Outcome) -> Outcome:
        """Fail a bet in the run that records it inside a closed door; later runs pass by the record.

        Otherwise a run that always records would let it pass with no record in any diff.
        """
        doors = ", ".join(_ids(found.unnamed))
        return replace(
            reached,
            word=Word.CROSSED,
            passed=False,
            crossed=found.unnamed,
            messages=(
                *reached.messages,
                f"recorded inside a door that {doors} closed; the next run measures it as a bet of "
                f"the catalogue: commit {path_of(found.bets, found.bet.id).relative_to(found.bets.parent)} "
                f"for review, or name {doors} in challenges:",
                *("\n".join(each.lines(self.root)) for each in found.unnamed),
            ),
        )


_PLACEHOLDERS: Final = (
    "cannot be recorded: {} still placeholders; write the bars that you would accept, and the claim "
    "that they make true, and take placeholders: out"
)
_UNREADABLE: Final = (
    "the catalogue cannot be read whole, so a door may be closed that nobody can see; repair:"
)


@dataclass(frozen=True)
class CataloguedBet:
    """A bet with all that the catalogue has on it.

    Attributes:
        document: The bet.
        bets: The bet folder that it belongs to.
        catalogue: The catalogue that counts for it.
        record: Its record, of its present text or not.
        crossed: The closed doors that it stands in.
        mistaken: What is wrong with its challenges.
        require_records: Whether an upheld or falsified bet must have a record.
        recording: Whether a record is about to be written.
        stale: Once measured, what its record was measured on and is not so any more.
    """

    document: BetDocument
    bets: Path
    catalogue: Catalogue
    record: Record | None
    crossed: tuple[Crossing, ...]
    mistaken: tuple[str, ...]
    require_records: bool = False
    recording: bool = False
    stale: tuple[str, ...] = ()

    @property
    def bet(self) -> Bet:
        """The bet."""
        return self.document.bet

    @property
    def changed(self) -> bool:
        """Whether the bet says something else than when its record was made."""
        return self.record is not None and not self.record.is_of(self.bet)

    @property
    def amended(self) -> bool:
        """Whether an amendment accounts for a change of the bet, or of what it is measured on."""
        if self.record is None or not (self.changed or self.stale):
            return False
        return self.record.amendment(self.bet) is not None

    @property
    def current(self) -> Record | None:
        """The record, if it is of this very bet."""
        return None if self.changed or self.amended else self.record

    @property
    def unnamed(self) -> tuple[Crossing, ...]:
        """The doors that the bet stands in, neither challenged nor acknowledged."""
        named = {*self.bet.challenges, *self.bet.acknowledges}
        return tuple(each for each in self.crossed if each.id not in named)

    @property
    def challenged(self) -> tuple[Crossing, ...]:
        """The doors that the bet stands in and challenges."""
        return tuple(each for each in self.crossed if each.id in self.bet.challenges)

    @property
    def acknowledged(self) -> tuple[Crossing, ...]:
        """The doors that the bet stands in and acknowledges, as one whose claim is weaker."""
        return tuple(each for each in self.crossed if each.id in self.bet.acknowledges)

    @property
    def held_to(self) -> tuple[Crossing, ...]:
        """The doors whose bar the bet is compared with once it is measured."""
        if self.bet.status != "upheld":
            return self.challenged
        return tuple(each for each in self.crossed if each.id not in self.bet.acknowledges)

    @property
    def case(self) -> Case:
        """The values that decide, as far as they are known before measuring."""
        current = self.current
        broken = self.catalogue.broken.get(self.bet.id)
        return Case(
            status=self.bet.status,
            recorded=current.verdict if current is not None else None,
            recorded_bar=current.bar if current is not None else Truth.TRUE,
            tampered=self.changed and not self.amended,
            stale=bool(self.stale) and not self.amended,
            amended=self.amended,
            amended_before=bool(current is not None and current.amended),
            inside=_ids(each for each in self.unnamed if not each.absent),
            undecided=_ids(each for each in self.unnamed if each.absent),
            challenged=_ids(self.challenged),
            mistaken=self.mistaken if broken is None else (broken,),
            placeholders=bool(self.bet.placeholders),
            require_records=self.require_records,
            recording=self.recording,
        )

    @property
    def may_hide_a_door(self) -> bool:
        """Whether a door may be closed to it in a bet file that cannot be read."""
        return self.case.is_newcomer and bool(self.catalogue.unreadable)

    @property
    def changes(self) -> tuple[str, ...]:
        """What the bet says otherwise than when its record was made, a line for each key."""
        return tuple(self.record.changes(self.bet)) if self.record is not None else ()

    def tampering(self) -> str:
        """Return what was changed since the record, a line for each key."""
        assert self.record is not None
        changes = self.changes
        lines = [f"changed since its record ({self.record.digest}):"]
        lines += [f"  {change}" for change in changes[:_DIFFERENCES]]
        if len(changes) > _DIFFERENCES:
            lines.append(f"  and {len(changes) - _DIFFERENCES} more")
        if self.bet.amends is not None:
            lines.append(
                "its amends: names another digest; each change after a result needs its own"
            )
        lines += [
            "to keep the change, put this into the bet, with the reason:",
            "amends:",
            f"  digest: {self.record.digest}",
            "  because:",
        ]
        return "\n".join(lines)

    def staleness(self) -> Iterator[str]:
        """Yield what its record was measured on and is not so any more, a line for each file."""
        if self.stale and not self.amended:
            assert self.record is not None
            head = f"other files than those of its record ({self.record.digest}):"
            yield "\n".join((head, *(f"  {each}" for each in self.stale)))

    def notes(self) -> Iterator[str]:
        """Yield what a reader should know of a bet that was measured."""
        if self.record is not None and self.record.closes not in (None, closes_of(self.bet)):
            yield "closes: was changed since its record"
        if self.bet.placeholders:
            yield f"still placeholders, so that nothing is recorded: {', '.join(self.bet.placeholders)}"


def _ids(found: Iterable[Crossing]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.id for each in found))


def _unmet(
    found: Mapping[str, ChallengeResult], result: BetResult, word: Word, what: str
) -> Iterator[str]:
    """Yield which criteria of falsifications that a bet names decide against it, and by which numbers."""
    if word not in (Word.CROSSED, Word.INCONCLUSIVE):
        return
    for id_, each in found.items():
        if each.truth is not Truth.TRUE:
            yield f"{what} of {id_}: {each.reason}"
        if word is Word.INCONCLUSIVE:
            yield from _straddles(each.straddling, result)


def _missed(
    found: Mapping[str, ChallengeResult], word: Word, *, catastrophic: bool
) -> Iterator[MissedBar]:
    if word in (Word.CROSSED, Word.INCONCLUSIVE):
        for id_, each in found.items():
            if each.truth is not Truth.TRUE and each.decider is not None:
                yield MissedBar(id_, each.decider, catastrophic)


def _with_first_criteria(result: BetResult, recorded: BetResult) -> BetResult:
    """Return a result with what a record says of the criteria that its numbers were first seen under."""
    kept = {key: value for key, value in result.diagnostics.items() if key != FIRST_CRITERIA}
    first = recorded.diagnostics.get(FIRST_CRITERIA)
    return replace(result, diagnostics=kept if first is None else {**kept, FIRST_CRITERIA: first})


def _guessable(bet: Bet, judgement: Judgement, result: BetResult) -> Iterator[str]:
    """Yield the tasks that a claim rests on although a model that guesses would not fail it."""
    if not judgement.verdict.holds:
        return
    level = judgement.decided_by
    expression = getattr(bet.criteria, level)
    for task in result.variants[0].tasks:
        if not any(task in named.prefix for named in expression.references):
            continue
        rows = [
            _guessing(row, task, each)
            for row, each in zip(result.rows(), result.variants, strict=True)
        ]
        if expression.evaluate(rows).truth is not Truth.FALSE:
            chance, base = (
                rows[0].metrics[f"{task}.accuracy"],
                rows[0].metrics[f"{task}.base_accuracy"],
            )
            yield printable(
                f"{level} does not rule out a model that guesses the answers of {task}: guesses are right in {chance} "
                f"of them, and the base in {base}"
            )


def _guessing(row: Row, task: str, variant: VariantResult) -> Row:
    """Return a row with guesses in place of the answers to a task."""
    change = variant.tasks[task]
    found = guesses(row.metrics[f"{task}.base_accuracy"], change.chance)
    return replace(
        row, metrics={**row.metrics, **{f"{task}.{name}": value for name, value in found.items()}}
    )


def _left_out(result: BetResult) -> Iterator[str]:
    """Yield the candidates whose format left their experts as they were."""
    for each in result.candidates():
        if EXPERTS_LEFT_OUT in each.get("facts", ()):
            yield f"{printable(str(each['variant']))}: {EXPERTS_LEFT_OUT}"


def _bars_after(bet: Bet, result: BetResult) -> Iterator[str]:
    """Yield how criteria were changed after their numbers had been seen."""
    first = result.diagnostics.get(FIRST_CRITERIA)
    if first is not None:
        changed = "; ".join(
            f"{name}: {describe_value(old)} -> {describe_value(new)}"
            for name, old, new in differences(json.dumps(first), json.dumps(criteria(bet)))
        )
        yield f"criteria were changed after these numbers had been seen here: {changed}"


def _straddles(straddling: Sequence[Straddle], result: BetResult) -> Iterator[str]:
    first = result.variants[0]
    asked = {name: (each.questions, "questions") for name, each in first.tasks.items()}
    asked |= {name: (count, "documents") for name, count in first.documents.items()}
    for straddle in straddling[:_STRADDLES]:
        of_tasks = (of for name, of in asked.items() if f"{name}." in straddle.metric)
        measured, what = next(of_tasks, (result.tokens, "tokens"))
        clusters = result.windows if what == "tokens" else measured
        size = measured, clusters, len(result.variants)
        needed, fewest = straddle.tokens_to_decide(*size), straddle.fewest_tokens(*size)
        enough = "it is not known how many" if needed is None else f"about {needed:,} {what}"
        if fewest is not None:
            enough = f"no fewer than {fewest:,} {what}"
        at = f" ({straddle.variant})" if straddle.variant else ""
        yield printable(
            f"{straddle.comparison}{at}: {straddle.interval} against {straddle.bar}; "
            f"measured on {measured:,} {what}, {enough} would decide"
        )
    left = len(straddling) - _STRADDLES
    if left > 0:
        yield f"and {left:,} more that straddle a bar"


def _recorded_before(found: CataloguedBet) -> Iterator[str]:
    """Warn if a first record was written although the git history has an earlier one."""
    try:
        known = GitRepository(found.bets).last(path_of(found.bets, found.bet.id))
    except GitError:
        return
    if known is not None:
        yield (
            f"recorded anew, but git knows an earlier record ({known}): the new one forgets what was amended "
            "until then; to keep that, take the earlier one from the history and record over it"
        )


def _keeps(record: Record, verdict: Verdict, *, holds: bool) -> str | None:
    """Return why the record that there is stays, or None if it may be replaced."""
    if not holds:
        return "not recorded: the record that there is says something better; it stays"
    if verdict is Verdict.INCONCLUSIVE and record.verdict is not Verdict.INCONCLUSIVE:
        return f"not recorded: the record that there is was decided ({record.verdict}); it stays"
    return None
