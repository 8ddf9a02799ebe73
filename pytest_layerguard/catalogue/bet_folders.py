"""Read the catalogue from disk: every bet of the bet folders, with its record."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.bet import Closes
from pytest_layerguard.bet.criteria.evaluate import Expression
from pytest_layerguard.bet.errors import BetFileError, printable
from pytest_layerguard.bet.reader import BetDocument, duplicate_ids, read_bets
from pytest_layerguard.catalogue.records import FOLDER, Record, Records, load_records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from pytest_layerguard.bet.arguments import Kinds
    from pytest_layerguard.bet.criteria.metrics import Metric

SUFFIXES: Final = frozenset({".yaml", ".yml"})
NAMES: Final = (PurePosixPath("bets"),)
"""Names of bet folders where no ini file gives others."""


@dataclass(frozen=True)
class Entry:
    """A bet of the catalogue, the folder that it belongs to, and its record if it has one."""

    document: BetDocument
    bets: Path
    record: Record | None = None

    @property
    def id(self) -> str:
        """The bet's id."""
        return self.document.bet.id

    @property
    def closes(self) -> Closes | None:
        """The door that this bet closes.

        A falsified bet whose status was changed later still closes the door of its record. To open
        it, the record must be deleted too, which shows in a diff.
        """
        bet, record = self.document.bet, self.record
        if bet.closes is not None:
            return bet.closes
        if record is None or record.closes is None or bet.status == "falsified":
            return None
        # The kinds were checked when the bet was read; those of a plugin are not known here.
        kinds = dict.fromkeys(record.closes["interventions"])
        return Closes.model_validate(dict(record.closes), context={"kinds": kinds})

    def place(self, root: Path) -> str:
        """Return ``bets/bet-40.yaml:1``, relative to `root` where it lies below."""
        return f"{shown(self.document.path, root)}:{self.document.line}"

    @property
    def bars(self) -> tuple[Expression, ...]:
        """The criteria that a challenge must meet: the lenient one of the bet, and that of its record.

        If they differ, both apply: a changed falsification keeps its bar until it is measured and
        recorded again.
        """
        return self._criteria("lenient")

    @property
    def catastrophes(self) -> tuple[Expression, ...]:
        """What a bet that acknowledges it must stay clear of: likewise, if there is any."""
        return self._criteria("catastrophic")

    def _criteria(self, name: str) -> tuple[Expression, ...]:
        given = getattr(self.document.bet.criteria, name)
        found = [] if given is None else [given]
        if self.record is not None and (recorded := self.record.bet["criteria"].get(name)):
            found.append(Expression.parse(recorded))
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Catalogue:
    """The bets of all folders that apply to a bet.

    Attributes:
        entries: The bets that could be read, by file and line.
        unreadable: Errors of bets that could not be read or that share an id. They may hide a
            closed door.
        broken: Errors of records, by the id of the bet.
        orphans: Records without a bet.
    """

    entries: tuple[Entry, ...]
    unreadable: tuple[str, ...] = ()
    broken: Mapping[str, str] = field(default_factory=dict)
    orphans: tuple[Path, ...] = ()

    @classmethod
    def load(
        cls,
        folders: Iterable[Path],
        *,
        kinds: Kinds | None = None,
        metrics: Mapping[str, Metric] | None = None,
    ) -> Catalogue:
        """Read bet folders whole, even if a run collects only some of their files."""
        entries: list[Entry] = []
        unreadable: list[str] = []
        broken: dict[str, str] = {}
        orphans: list[Path] = []
        for bets in dict.fromkeys(folders):
            records = load_records(bets)
            unreadable.extend(records.refused)
            read: list[BetDocument] = []
            whole = True
            for path in bet_files(bets):
                try:
                    documents = read_bets(path, kinds=kinds, metrics=metrics)
                except BetFileError as error:
                    unreadable.append(str(error.problems[0]).splitlines()[0])
                    whole = False
                    continue
                read.extend(documents)
                entries.extend(
                    Entry(document, bets, records.found.get(document.bet.id))
                    for document in documents
                )
            unreadable.extend(str(each).splitlines()[0] for each in duplicate_ids(read))
            broken.update(records.broken)
            if whole:
                known = {document.bet.id for document in read}
                orphans.extend(_orphans(bets, records, known))
        return cls(tuple(entries), tuple(unreadable), broken, tuple(orphans))

    def of(self, id_: str) -> tuple[Entry, ...]:
        """Return the bets of an id: one, or one in each of several folders."""
        return tuple(entry for entry in self.entries if entry.id == id_)

    @property
    def doors(self) -> tuple[Entry, ...]:
        """The bets that close a door."""
        return tuple(entry for entry in self.entries if entry.closes is not None)


def bet_files(bets: Path) -> Iterator[Path]:
    """Yield the bet files below a folder, in one order on every machine.

    Links to folders are followed, as pytest does when it collects, but into no folder twice.
    """
    visited: set[str] = set()
    for folder, names, files in os.walk(bets, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            names.clear()
            continue
        visited.add(real)
        names[:] = sorted(name for name in names if name not in (FOLDER, "__pycache__"))
        yield from (
            Path(folder, name) for name in sorted(files) if Path(name).suffix.lower() in SUFFIXES
        )


def folders_for(bets: Path, root: Path, names: Sequence[PurePosixPath]) -> tuple[Path, ...]:
    """Return the bet folders whose doors apply to a bet of `bets`: its own, and those above it.

    A folder counts where it lies in a directory that also holds `bets`, up to `root` or to the top of
    the git checkout, whichever is higher: a bet does not leave the catalogue of a project by lying
    deeper in it, nor by a link or a root directory that is chosen for one run.
    """
    found = {bets.resolve(): bets}
    for place in dict.fromkeys((bets, bets.resolve())):
        top = next((folder for folder in place.parents if (folder / ".git").exists()), root)
        for folder in place.parents:
            if folder.is_relative_to(root) or folder.is_relative_to(top):
                for beside in (folder / name for name in names):
                    if beside.is_dir():
                        found.setdefault(beside.resolve(), beside)
    return tuple(found.values())


def bets_of(path: Path) -> Path:
    """Return the bet folder of a file outside a pytest run: the outermost `bets` above it, or its own folder."""
    path = path.absolute()
    named = [folder for folder in path.parents if folder.name == str(NAMES[0])]
    return named[-1] if named else path.parent


def root_of(bets: Path) -> Path:
    """Return the folder whose bet folders count for those of `bets`: here, or what holds `bets`."""
    here = Path.cwd()
    return here if bets.parent.is_relative_to(here) else bets.parent


def shown(path: Path, root: Path) -> str:
    """Return a path as a reader can open it: relative to `root` where it lies below."""
    return printable(str(path.relative_to(root) if path.is_relative_to(root) else path))


def _orphans(bets: Path, records: Records, known: set[str]) -> Iterator[Path]:
    for id_ in sorted({*records.found, *records.broken} - known):
        yield bets / FOLDER / f"{id_}.json"
