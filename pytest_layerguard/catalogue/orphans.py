"""Records whose bet is gone, and the bets that measure the same under another id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.digest import measured, measured_of
from pytest_layerguard.catalogue.bet_folders import shown
from pytest_layerguard.catalogue.records import RecordError, read_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_layerguard.catalogue.bet_folders import Catalogue, Entry
    from pytest_layerguard.catalogue.records import Record

_CHANGES: Final = 4


def orphaned_records(catalogue: Catalogue, root: Path) -> Iterator[str]:
    """Yield a line for each record of a catalogue whose bet is gone, with what to do."""
    for path in catalogue.orphans:
        head = f"{shown(path, root)} is the record of no bet"
        try:
            record = read_record(path)
        except RecordError:
            yield f"{head}, and cannot be read; take it from the history, or remove it"
            continue
        heirs = [entry for entry in catalogue.entries if _measures_the_same(entry, record)]
        if not heirs:
            yield (
                f"{head}: bring {record.id} back; a bet that is withdrawn takes its record with it, "
                "in a change that a reviewer sees"
            )
        for heir in heirs:
            changes = record.changes(heir.document.bet)
            other = f", with {'; '.join(changes[:_CHANGES])}" if changes else ""
            yield (
                f"{head}: {heir.id} ({heir.place(root)}) measures the same{other}. Give it the id "
                f"{record.id} again; to rename it, rename its record and the id in that too"
            )


def _measures_the_same(entry: Entry, record: Record) -> bool:
    return measured(entry.document.bet) == measured_of(record.bet)
