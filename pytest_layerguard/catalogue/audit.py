"""The audit: which bets were changed after their first record, read from the git history."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.digest import canonical, differences, digest
from pytest_layerguard.bet.errors import BetFileError, many, printable
from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.bet.validation import LIMITS
from pytest_layerguard.catalogue.bet_folders import SUFFIXES
from pytest_layerguard.catalogue.git import Change, Commit, GitError, Repository
from pytest_layerguard.catalogue.records import FOLDER, closes_of, read_strictly

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_layerguard.bet.arguments import Kinds
    from pytest_layerguard.bet.criteria.metrics import Metric

_LARGEST_RECORD: Final = 64 * 1024 * 1024
_SHOWN: Final = 12


@dataclass(frozen=True)
class Finding:
    """Something that was changed after a result: by which commit, and what, line by line."""

    bet: str
    commit: Commit
    what: str
    details: tuple[str, ...] = ()
    openly: bool = False
    """Whether an amendment in the bet says so and why."""

    def lines(self) -> Iterator[str]:
        """Yield the finding for people."""
        yield f"{self.bet}: {self.what}"
        yield f"  {self.commit}"
        yield from (f"  {detail}" for detail in self.details)


@dataclass(frozen=True)
class Audit:
    """What the history says.

    Attributes:
        findings: Everything that was changed after a result, oldest first.
        recorded: How many bets were ever recorded.
        commits: How many commits were read.
        limits: What could not be read, and so may hide a change.
    """

    findings: tuple[Finding, ...]
    recorded: int
    commits: int
    limits: tuple[str, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether every change was made in the open."""
        return all(finding.openly for finding in self.findings)

    def lines(self) -> Iterator[str]:
        """Yield the audit for people."""
        for limit in self.limits:
            yield f"not all could be read: {limit}"
        for finding in self.findings:
            yield from finding.lines()
        bets = len({finding.bet for finding in self.findings})
        yield (
            f"{many(self.commits, 'commit')} of bets, {many(self.recorded, 'bet')} ever recorded, "
            f"{bets} of them changed after the first record"
        )


@dataclass(frozen=True)
class _Seen:
    """What of a bet a commit has: the digest, and what a change of it must not hide behind."""

    digest: str
    canonical: str
    status: str
    closes: str
    amends: str | None


@dataclass
class _State:
    """What a commit's tree has, and which bets any commit up to it had recorded."""

    files: dict[str, dict[str, _Seen]] = field(default_factory=dict)
    records: dict[str, tuple[str, str]] = field(default_factory=dict)
    recorded: frozenset[str] = frozenset()

    @property
    def bets(self) -> dict[str, _Seen]:
        return {id_: seen for found in self.files.values() for id_, seen in found.items()}


def audit(
    folders: Sequence[Path],
    *,
    kinds: Kinds | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> Audit:
    """Read the history of bet folders; raises GitError where there is none to be read.

    A change counts where a commit has another digest of a bet than every parent of it in whose
    history the bet was recorded. So a merge counts only for what it changed itself or brought to a
    recorded bet from where that was not recorded, and a bet may move from file to file.
    """
    repository = Repository(folders[0])
    return _Reader(repository, folders, kinds, metrics).read()


class _Reader:
    def __init__(
        self,
        repository: Repository,
        folders: Sequence[Path],
        kinds: Kinds | None,
        metrics: Mapping[str, Metric] | None,
    ) -> None:
        self.repository = repository
        root = Path(repository.root)
        self.under = [folder.resolve().relative_to(root.resolve()).as_posix() for folder in folders]
        self.kinds = kinds
        self.metrics = metrics
        self.limits: dict[str, None] = {}
        self.blobs: dict[str, dict[str, _Seen]] = {}

    def read(self) -> Audit:
        if self.repository.is_shallow:
            self.limits[
                "this is a shallow clone; fetch the whole history (git fetch --unshallow)"
            ] = None
        findings: list[Finding] = []
        states: dict[str, _State] = {}
        recorded: set[str] = set()
        count = 0
        for commit in self.repository.commits(self.under):
            count += 1
            parents = [states[parent] for parent in commit.parents]
            states[commit.id] = state = self._state(commit, parents)
            recorded |= state.recorded
            findings.extend(_findings(commit, parents, state))
        return Audit(tuple(findings), len(recorded), count, tuple(self.limits))

    def _state(self, commit: Commit, parents: Sequence[_State]) -> _State:
        """Return what a commit's tree has: its first parent's, with what it changed."""
        first = parents[0] if parents else _State()
        against = commit.parents[0] if parents else None
        changes = list(self.repository.changes(against, commit.id, self.under))
        files, records = first.files, first.records
        if changes:
            files, records = dict(files), dict(records)
        for change in changes:
            self._apply(change, commit, files, records)
        before = [parent.recorded for parent in parents]
        return _State(files, records, frozenset(records).union(*before))

    def _apply(
        self,
        change: Change,
        commit: Commit,
        files: dict[str, dict[str, _Seen]],
        records: dict[str, tuple[str, str]],
    ) -> None:
        path = PurePosixPath(change.path)
        if path.suffix == ".json" and path.parent.name == FOLDER:
            if change.new is None:
                records.pop(path.stem, None)
            else:
                records[path.stem] = self._record(change.new)
        elif path.suffix in SUFFIXES and FOLDER not in path.parts:
            if change.new is None:
                files.pop(change.path, None)
            else:
                files[change.path] = self._bets(change.new, path, commit)

    def _record(self, blob: str) -> tuple[str, str]:
        """Return the digest and the verdict in a record, whatever else it has become."""
        content = self.repository.read(blob, _LARGEST_RECORD)
        try:
            data = read_strictly((content or b"").decode("utf-8"))
        except ValueError:
            data = None
        found: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
        return str(found.get("digest", "?")), str(found.get("verdict", "?"))

    def _bets(self, blob: str, path: PurePosixPath, commit: Commit) -> dict[str, _Seen]:
        if blob in self.blobs:
            return self.blobs[blob]
        content = self.repository.read(blob, LIMITS.file_bytes)
        found: dict[str, _Seen] = {}
        try:
            if content is None:
                raise ValueError("its content is missing here, or too large")
            documents = parse_bets(content, Path(path), kinds=self.kinds, metrics=self.metrics)
        except (BetFileError, ValueError) as error:
            reason = str(error).splitlines()[0]
            self.limits[f"{printable(str(path))} at {commit.id[:10]}: {printable(reason)}"] = None
        else:
            for document in documents:
                bet = document.bet
                found[bet.id] = _Seen(
                    digest(bet),
                    canonical(bet),
                    bet.status,
                    json.dumps(closes_of(bet), sort_keys=True),
                    bet.amends.digest if bet.amends is not None else None,
                )
        self.blobs[blob] = found
        return found


def _findings(commit: Commit, parents: Sequence[_State], state: _State) -> Iterator[Finding]:
    """Yield what a commit changed of bets that were recorded before it."""
    if (
        parents
        and all(state.files is parent.files for parent in parents)
        and all(state.records is parent.records for parent in parents)
    ):
        return
    known = frozenset[str]().union(*(parent.recorded for parent in parents))
    bets = state.bets
    for id_ in sorted(known):
        bound = [parent for parent in parents if id_ in parent.recorded]
        before = [parent.bets[id_] for parent in bound if id_ in parent.bets]
        yield from _of_bet(id_, commit, before, bets.get(id_))
        records = [parent.records.get(id_) for parent in parents]
        yield from _of_record(id_, commit, records, state.records.get(id_))


def _of_bet(
    id_: str, commit: Commit, before: Sequence[_Seen], now: _Seen | None
) -> Iterator[Finding]:
    if not before:
        return
    if now is None:
        yield Finding(id_, commit, "the bet was removed after its result")
        return
    if all(seen.digest != now.digest for seen in before):
        old = before[0]
        openly = now.amends is not None and now.amends in {seen.digest for seen in before}
        what = "criteria or conditions were changed after the result"
        changed = differences(old.canonical, now.canonical)
        yield Finding(
            id_,
            commit,
            f"{what}{', by an amendment' if openly else ''}",
            tuple(
                printable(f"{key}: {json.dumps(was)} -> {json.dumps(new)}")[:300]
                for key, was, new in changed[:_SHOWN]
            ),
            openly,
        )
    for name in ("status", "closes"):
        value, was = getattr(now, name), getattr(before[0], name)
        earned = name == "status" and was == "proposed"
        if all(getattr(seen, name) != value for seen in before) and not earned:
            yield Finding(
                id_,
                commit,
                f"{name} was changed after the result",
                (printable(f"{name}: {was} -> {value}")[:300],),
            )


def _of_record(
    id_: str,
    commit: Commit,
    before: Sequence[tuple[str, str] | None],
    now: tuple[str, str] | None,
) -> Iterator[Finding]:
    if not before or now in before or None in before:
        return
    if now is None:
        yield Finding(id_, commit, "the record was removed")
    elif all(seen is not None and seen[1] != now[1] for seen in before):
        was = before[0][1] if before[0] is not None else "?"
        yield Finding(
            id_, commit, "the recorded verdict was changed", (printable(f"{was} -> {now[1]}"),)
        )


__all__ = ["Audit", "Finding", "GitError", "audit"]
