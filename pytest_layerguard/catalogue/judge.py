"""What a bet comes to, from what it says, what is catalogued and what is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import Truth
from pytest_layerguard.bet.errors import printable
from pytest_layerguard.bet.verdict import Verdict, judge
from pytest_layerguard.catalogue import outcome
from pytest_layerguard.catalogue.bet_folders import Catalogue, Entry, folders_for
from pytest_layerguard.catalogue.challenges import Bar, bar, mistakes
from pytest_layerguard.catalogue.doors import Crossing, crossings
from pytest_layerguard.catalogue.git import GitError, Repository
from pytest_layerguard.catalogue.outcome import Case, Decision, Outcome, Word
from pytest_layerguard.catalogue.records import (
    Record,
    RecordError,
    closes_of,
    path_of,
    write_record,
)
from pytest_layerguard.catalogue.wording import describe_record
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError

if TYPE_CHECKING:
    from pathlib import Path, PurePosixPath

    from pytest_layerguard.bet.arguments import Kinds
    from pytest_layerguard.bet.bet import Bet
    from pytest_layerguard.bet.criteria.metrics import Metric
    from pytest_layerguard.bet.criteria.straddle import Straddle
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.catalogue.model_facts import FindsModels
    from pytest_layerguard.measurement.results import BetResult

Measures = Callable[[], "BetResult"]

_DIFFERENCES: Final = 20
_STRADDLES: Final = 6
"""Comparisons left open that are told one by one, the closest to a decision first."""


@dataclass
class Judge:
    """Judges the bets of one run by one catalogue, which is read once for each bet folder.

    Attributes:
        lookup: Finds what is known of the models of bets.
        root: The project's folder; paths are told from here.
        names: What bet folders are called, relative to a folder that holds one.
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

    def judge(self, document: BetDocument, bets: Path, measure: Measures) -> Outcome:
        """Return what a bet of the folder `bets` comes to; `measure` is called only if it must be.

        Whatever is wrong with the bet, its model or its record becomes an outcome; `measure` may
        raise MeasurementError and UnavailableError.
        """
        try:
            file, case, decision = self._opened(document, bets)
        except MeasurementError as error:
            return outcome.error(str(error))
        if decision.word is not None:
            return self._refused(file, decision)
        if self._is_blind(case, bets):
            return outcome.error(_BLIND + "\n" + "\n".join(self.catalogue(bets).unreadable))
        try:
            result = measure()
        except UnavailableError as error:
            return outcome.unavailable(str(error), required="all" in self.require)
        except MeasurementError as error:
            return outcome.error(str(error))
        return self._judged(file, case, result)

    def measures(self, document: BetDocument, bets: Path) -> bool:
        """Return whether `judge` would have the bet measured, as far as can be told before it is."""
        try:
            _, case, decision = self._opened(document, bets)
        except MeasurementError:
            return False
        return decision.word is None and not self._is_blind(case, bets)

    def _opened(self, document: BetDocument, bets: Path) -> tuple[_File, Case, Decision]:
        """Return what the catalogue has on a bet, and what that alone decides; raises MeasurementError."""
        catalogue = self.catalogue(bets)
        crossed = crossings(document, bets, catalogue, self.lookup)
        file = _File.of(document, bets, catalogue, crossed)
        case = file.case(
            require_records="records" in self.require and not self.recording,
            recording=self.recording,
        )
        return file, case, outcome.decide(case)

    def _is_blind(self, case: Case, bets: Path) -> bool:
        """Return whether a door may be closed that nobody can see."""
        return case.is_newcomer and bool(self.catalogue(bets).unreadable)

    def catalogue(self, bets: Path) -> Catalogue:
        """Return the catalogue that counts for the bets of a folder."""
        if bets not in self._catalogues:
            folders = folders_for(bets, self.root, self.names)
            self._catalogues[bets] = Catalogue.load(folders, kinds=self.kinds, metrics=self.metrics)
        return self._catalogues[bets]

    def _refused(self, file: _File, decision: Decision) -> Outcome:
        """Return the outcome of a bet that is not measured."""
        if decision.word is Word.SKIPPED and "all" in self.require:
            required = outcome.unavailable("\n".join(decision.messages), required=True)
            return replace(required, crossed=file.crossed, warnings=decision.warnings)
        told = [*decision.messages]
        if decision.word is Word.TAMPERED:
            told.extend(file.tampering())
        elif decision.word in (Word.CROSSED, Word.SKIPPED) and file.crossed:
            every = [each.id for each in file.crossed]
            told.extend(
                "\n".join(each.lines(self.root, challenge=every)) for each in file.unchallenged
            )
        if file.current is not None:
            told.append(f"its record: {describe_record(file.current)}")
        assert decision.word is not None
        return Outcome(
            decision.word,
            decision.passed,
            crossed=file.crossed if decision.word in (Word.CROSSED, Word.SKIPPED) else (),
            messages=tuple(told),
            warnings=decision.warnings,
        )

    def _judged(self, file: _File, case: Case, result: BetResult) -> Outcome:
        """Return the outcome of a bet that was measured, and record it if that was asked."""
        bet = file.document.bet
        judgement = judge(bet.criteria, result.rows())
        rows = result.rows()
        bars = {each.id: bar(each, rows) for each in file.held_to}
        truths = {name: each.truth for name, each in bars.items()}
        decision = outcome.decide(replace(case, verdict=judgement.verdict, bars=truths))
        assert decision.word is not None
        lost = decision.word is Word.CROSSED
        reached = Outcome(
            decision.word,
            decision.passed,
            verdict=judgement.verdict,
            judgement=judgement,
            result=result,
            crossed=file.challenged if lost else (),
            messages=(
                *decision.messages,
                *_bars_told(bars, result, held=decision.word),
                *_straddles(
                    judgement.straddling if decision.word is not Word.CROSSED else (), result
                ),
                *("\n".join(each.lines(self.root)) for each in file.challenged if lost),
            ),
            warnings=(*decision.warnings, *file.notes(), *_conditions(file, result, decision)),
        )
        return self._recorded(file, reached, truths) if self.recording else reached

    def _recorded(self, file: _File, reached: Outcome, bars: Mapping[str, Truth]) -> Outcome:
        """Write the record of a bet that was measured, unless that would hide that it got worse."""
        assert reached.result is not None
        assert reached.verdict is not None
        if file.current is not None and (reason := _keeps(file.current, reached)):
            return replace(reached, warnings=(*reached.warnings, reason))
        try:
            record = Record.of(
                file.document.bet,
                reached.verdict,
                reached.result,
                bars=bars,
                facts={
                    name or "": model.to_record()
                    for name, model in self.lookup.checkpoints(file.document, file.bets).items()
                },
                before=file.record,
            )
            write_record(file.bets, record)
        except (RecordError, MeasurementError) as error:
            return replace(
                reached, word=Word.ERROR, passed=False, messages=(*reached.messages, str(error))
            )
        warnings = tuple(
            each for each in reached.warnings if not each.startswith(outcome.UNRECORDED)
        )
        if file.record is None:
            warnings = (*warnings, *_recorded_before(file))
        reached = replace(reached, warnings=warnings)
        return self._admitted(file, reached) if file.is_new and file.unchallenged else reached

    def _admitted(self, file: _File, reached: Outcome) -> Outcome:
        """Fail a bet that was recorded inside a closed door: the record admits it, not the recording.

        Otherwise a run that always records would let it pass with no record in any diff.
        """
        doors = ", ".join(_ids(iter(file.unchallenged)))
        return replace(
            reached,
            word=Word.CROSSED,
            passed=False,
            crossed=file.unchallenged,
            messages=(
                *reached.messages,
                f"recorded inside a door that {doors} closed; the next run measures it as a bet of "
                f"the catalogue: commit {path_of(file.bets, file.bet.id).relative_to(file.bets.parent)} "
                f"for review, or name {doors} in challenges:",
                *("\n".join(each.lines(self.root)) for each in file.unchallenged),
            ),
        )


_BLIND: Final = (
    "the catalogue cannot be read whole, so it cannot be told that no door is closed; repair:"
)


@dataclass(frozen=True)
class _File:
    """A bet with all that the catalogue has on it."""

    document: BetDocument
    bets: Path
    record: Record | None
    broken: str | None
    crossed: tuple[Crossing, ...]
    mistaken: tuple[str, ...]

    @classmethod
    def of(
        cls,
        document: BetDocument,
        bets: Path,
        catalogue: Catalogue,
        crossed: tuple[Crossing, ...],
    ) -> _File:
        id_ = document.bet.id
        own = (entry for entry in catalogue.of(id_) if entry.bets == bets)
        entry = next(own, Entry(document, bets))
        return cls(
            document,
            bets,
            entry.record,
            catalogue.broken.get(id_),
            crossed,
            tuple(mistakes(document, catalogue, crossed)),
        )

    @property
    def bet(self) -> Bet:
        """The bet."""
        return self.document.bet

    @property
    def changed(self) -> bool:
        """Whether the bet's digest is not its record's."""
        return self.record is not None and not self.record.is_of(self.bet)

    @property
    def amended(self) -> bool:
        """Whether an amendment accounts for that."""
        return self.record is not None and self.record.is_amended_by(self.bet)

    @property
    def current(self) -> Record | None:
        """The record, if it is of this very text."""
        return None if self.changed else self.record

    @property
    def is_new(self) -> bool:
        """Whether it says upheld and has no record of its present text."""
        return self.bet.status == "upheld" and self.current is None

    @property
    def unchallenged(self) -> tuple[Crossing, ...]:
        """The doors that the bet stands in without a word."""
        return tuple(each for each in self.crossed if each.id not in self.bet.challenges)

    @property
    def challenged(self) -> tuple[Crossing, ...]:
        """The doors that the bet bets against."""
        return tuple(each for each in self.crossed if each.id in self.bet.challenges)

    @property
    def held_to(self) -> tuple[Crossing, ...]:
        """The doors whose bar the bet is compared with once it is measured."""
        if self.bet.status == "upheld":
            return self.crossed
        return self.challenged

    def case(self, *, require_records: bool, recording: bool) -> Case:
        """Return what decides, as far as it is known before measuring."""
        current = self.current
        return Case(
            status=self.bet.status,
            recorded=current.verdict if current is not None else None,
            recorded_bar=current.bar if current is not None else Truth.TRUE,
            tampered=self.changed and not self.amended,
            amended=self.amended,
            amended_before=bool(current is not None and current.amended),
            inside=_ids(each for each in self.unchallenged if not each.absent),
            undecided=_ids(each for each in self.unchallenged if each.absent),
            challenged=_ids(iter(self.challenged)),
            mistaken=(self.broken,) if self.broken else self.mistaken,
            require_records=require_records,
            recording=recording,
        )

    def tampering(self) -> Iterator[str]:
        """Yield what was changed since the record, key by key."""
        assert self.record is not None
        changes = self.record.changes(self.bet)
        lines = [f"changed since its record ({self.record.digest}):"]
        lines += [f"  {change}" for change in changes[:_DIFFERENCES]]
        if len(changes) > _DIFFERENCES:
            lines.append(f"  and {len(changes) - _DIFFERENCES} more")
        yield "\n".join(lines)
        if self.bet.amends is not None:
            yield "its amends: names another digest; each change after a result needs its own"

    def notes(self) -> Iterator[str]:
        """Yield what a reader should know of a bet that was measured."""
        if self.record is not None and self.record.closes not in (None, closes_of(self.bet)):
            yield "closes: was changed since its record"


def _ids(found: Iterator[Crossing]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each.id for each in found))


def _bars_told(bars: Mapping[str, Bar], result: BetResult, *, held: Word) -> Iterator[str]:
    if held not in (Word.CROSSED, Word.INCONCLUSIVE):
        return
    for id_, each in bars.items():
        if each.truth is not Truth.TRUE:
            yield f"the bar of {id_}: {each.told}"
        if held is Word.INCONCLUSIVE:
            yield from _straddles(each.straddling, result)


def _straddles(straddling: Sequence[Straddle], result: BetResult) -> Iterator[str]:
    ground = (result.tokens, result.windows, len(result.variants))
    for straddle in straddling[:_STRADDLES]:
        tokens = straddle.tokens_to_decide(*ground)
        enough = "no number of tokens can be told" if tokens is None else f"about {tokens:,} tokens"
        at = f" ({straddle.variant})" if straddle.variant else ""
        yield printable(
            f"{straddle.comparison}{at}: {straddle.interval} against {straddle.bar}; "
            f"measured on {result.tokens:,} tokens, {enough} would decide"
        )
    left = len(straddling) - _STRADDLES
    if left > 0:
        yield f"and {left:,} more that straddle a bar"


def _conditions(file: _File, result: BetResult, decision: Decision) -> Iterator[str]:
    """Say where a challenge that won was measured under easier conditions than what it challenges."""
    if not decision.passed or file.bet.status == "falsified":
        return
    for each in file.held_to:
        other = each.entry.document.bet
        differ = []
        if other.measure.tokens is not None and result.tokens < other.measure.tokens:
            differ.append(f"on {result.tokens:,} tokens instead of {other.measure.tokens:,}")
        if result.descriptive:
            differ.append("without intervals, because of fewer than 8 windows")
        if file.bet.measure.named_texts != other.measure.named_texts:
            differ.append("on another text")
        if file.bet.measure.max_base_perplexity == "none":
            differ.append("with no bound on the base's perplexity")
        if file.bet.model != other.model:
            differ.append(f"on {file.bet.model.name} instead of {other.model.name}")
        if differ:
            yield printable(f"compared with {each.id} it was measured {', '.join(differ)}")


def _recorded_before(file: _File) -> Iterator[str]:
    """Say that a record that follows none was written where the history has an earlier one."""
    try:
        known = Repository(file.bets).last(path_of(file.bets, file.bet.id))
    except GitError:
        return
    if known is not None:
        yield (
            f"recorded anew, but git knows an earlier record ({known}): the new one forgets what was amended "
            "until then; to keep that, take the earlier one from the history and record over it"
        )


def _keeps(record: Record, reached: Outcome) -> str | None:
    """Return why the record that there is stays, or None if it may be replaced."""
    if not reached.passed:
        return "not recorded: the record that there is says something better; it stays"
    if reached.verdict is Verdict.INCONCLUSIVE and record.verdict is not Verdict.INCONCLUSIVE:
        return f"not recorded: the record that there is was decided ({record.verdict}); it stays"
    return None
