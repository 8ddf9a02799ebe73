"""Write `SUMMARY.md` of a bet folder: every door, who closed or opened it, with what numbers."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from pytest_layerguard.catalogue.crossing.doors import crossings
from pytest_layerguard.catalogue.model_facts import KnownModel, ModelFacts
from pytest_layerguard.catalogue.outcome import Case, decide
from pytest_layerguard.catalogue.recognised import Recognised, recorded
from pytest_layerguard.catalogue.records import closes_of, path_of
from pytest_layerguard.catalogue.wording import code, cut, describe_numbers, literal
from pytest_layerguard.environment.atomic_write import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.catalogue.bet_folders import Catalogue, Entry
    from pytest_layerguard.catalogue.model_facts import KnownModels
    from pytest_layerguard.catalogue.records import Record

NAME: Final = "SUMMARY.md"
_HEAD: Final = (
    "# What is known",
    "",
    "Written from the bets and their records by `--layerguard-summary`; nothing here is "
    "written by hand, and `--layerguard-check-summary` fails where it is stale.",
)
_SECTIONS: Final = (
    ("falsified", True, "Closed doors"),
    ("falsified", False, "Lost, closing no door"),
    ("upheld", False, "Open doors"),
    ("proposed", False, "Proposed"),
)


class SummaryError(Exception):
    """A summary that cannot be made, cannot be written, or is stale; the text says what to do."""


def summary(bets: Path, catalogue: Catalogue) -> str:
    """Return what `SUMMARY.md` of the folder must say; the same for the same files everywhere.

    Raises SummaryError where a bet file cannot be read: a summary without it would be false.
    """
    if catalogue.unreadable:
        raise SummaryError("no summary of unreadable bets:\n" + "\n".join(catalogue.unreadable))
    entries = [entry for entry in catalogue.entries if entry.bets == bets]
    lines = [*_HEAD]
    for status, closing, heading in _SECTIONS:
        chosen = [
            entry
            for entry in entries
            if entry.document.bet.status == status
            and (status != "falsified" or (entry.closes is not None) == closing)
        ]
        if chosen:
            lines += ["", f"## {heading}"]
            for entry in chosen:
                lines += ["", *_lines(entry)]
    wrong = sorted({*_wrong(bets, entries, catalogue)})
    if wrong:
        lines += ["", "## To be put right", "", *(f"- {each}" for each in wrong)]
    return "\n".join(lines) + "\n"


def write_summary(bets: Path, catalogue: Catalogue) -> Path:
    """Write `SUMMARY.md` whole or not at all; raises SummaryError."""
    path = bets / NAME
    text = summary(bets, catalogue)
    try:
        write_whole(path, text)
    except OSError as error:
        raise SummaryError(f"{path}: cannot be written: {error.strerror}") from None
    return path


def check_summary(bets: Path, catalogue: Catalogue) -> None:
    """Raise SummaryError, with the lines that differ, where `SUMMARY.md` is missing or stale."""
    path = bets / NAME
    wanted = summary(bets, catalogue)
    try:
        found = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        found = ""
    if found == wanted:
        return
    differ = difflib.unified_diff(
        found.splitlines(), wanted.splitlines(), str(path), "as it must be", n=0, lineterm=""
    )
    shown = [cut(line) for line in list(differ)[:20]]
    raise SummaryError(
        f"{path}: is {'stale' if found else 'missing'}; run with --layerguard-summary and commit "
        "it:\n" + "\n".join(shown)
    )


def _lines(entry: Entry) -> Iterator[str]:
    bet = entry.document.bet
    file = entry.document.path.relative_to(entry.bets).as_posix()
    yield f"### {literal(bet.title)}"
    yield ""
    yield f"- [{bet.id}]({quote(file)}#L{entry.document.line}), on {code(bet.model.name)}"
    claims = {"falsified": "claim that failed", "upheld": "claim that holds"}
    yield f"- {claims.get(bet.status, 'claim')}: {literal(bet.claim_line)}"
    done = dict.fromkeys(each.kind for each in bet.interventions)
    yield f"- done: {', '.join(map(code, done))}"
    if entry.closes is not None:
        kinds = ", ".join(map(code, entry.closes.interventions))
        yield f"- closes: {kinds} on models with {code(str(entry.closes.models))}"
    if bet.challenges:
        yield f"- challenges: {', '.join(bet.challenges)}"
    if bet.acknowledges:
        yield f"- acknowledges: {', '.join(bet.acknowledges)}"
    yield from (f"- {literal(line)}" for line in describe_numbers(entry))
    if entry.record is not None:
        for amendment in entry.record.amended:
            yield (
                f"- amended after the result, which was {amendment.verdict}: "
                f"{literal(amendment.because)}"
            )


def _wrong(bets: Path, entries: list[Entry], catalogue: Catalogue) -> Iterator[str]:
    """Yield what must be put right, from the files alone."""
    for orphan in catalogue.orphans:
        if orphan.is_relative_to(bets):
            yield f"{code(orphan.relative_to(bets).as_posix())} is the record of no bet"
    for entry in entries:
        bet, record = entry.document.bet, entry.record
        if bet.id in catalogue.broken:
            yield f"{bet.id}: {code(path_of(bets, bet.id).name)} is no sound record"
            continue
        if record is None:
            # What rests on published figures of a model that few machines hold is shown as that.
            if bet.status != "proposed" and not (bet.evidence and bet.needs):
                yield f"{bet.id}: {bet.status}, but unrecorded"
            continue
        if not record.is_of(bet):
            yield f"{bet.id}: was changed after its record"
            continue
        if record.closes not in (None, closes_of(bet)):
            yield f"{bet.id}: {code('closes')} was changed after its record"
        contradiction = decide(Case(bet.status, recorded=record.verdict, recorded_bar=record.bar))
        yield from (f"{bet.id}: {literal(each)}" for each in contradiction.messages)
        if bet.status == "upheld":
            for crossing in crossings(entry.document, bets, catalogue, _Recorded(record)):
                if crossing.id not in (*bet.challenges, *bet.acknowledges):
                    yield f"{bet.id}: upheld inside the door that {crossing.id} closed"


class _Recorded:
    """Knows the models of a recorded bet from its record: the same on every machine."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def checkpoints(self, _document: BetDocument, _bets: Path) -> KnownModels:
        """Return what the record has of every checkpoint."""
        return {
            checkpoint or None: KnownModel(name, name, ModelFacts.of(facts))
            for checkpoint, facts in self._record.facts.items()
            for name in (str(facts.get("name")),)
        }

    def recognised(self, document: BetDocument, _bets: Path) -> Recognised:
        """Return what the record has of every candidate."""
        return recorded(document.bet, self._record.result)

    def named(self, name: str) -> KnownModel:
        """Return that nothing is known of any other model."""
        return KnownModel(name, name, missing="not looked up", absent=True)
