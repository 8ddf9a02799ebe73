"""The audit: which bets were changed after their first record, read from the git history."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.digest import canonical, differences, digest, unplaced
from pytest_layerguard.bet.errors import BetFileError, many, printable
from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.bet.validation import LIMITS
from pytest_layerguard.catalogue.bet_folders import SUFFIXES
from pytest_layerguard.catalogue.git import Commit, GitError, GitRepository
from pytest_layerguard.catalogue.records import FOLDER, closes_of, read_strictly
from pytest_layerguard.catalogue.staleness import changed_digests, digests_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_layerguard.bet.arguments import Kinds
    from pytest_layerguard.bet.criteria.metrics import Metric

_LARGEST_RECORD: Final = 64 * 1024 * 1024
_SHOWN: Final = 12


@dataclass(frozen=True)
class Finding:
    """A change after a result: which bet, by which commit, and what in detail."""

    bet: str
    commit: Commit
    what: str
    details: tuple[str, ...] = ()
    openly: bool = False
    """Whether an amendment in the bet declares the change."""

    def lines(self) -> Iterator[str]:
        """Yield the finding as text."""
        yield f"{self.bet}: {self.what}"
        yield f"  {self.commit}"
        yield from (f"  {detail}" for detail in self.details)


@dataclass(frozen=True)
class Audit:
    """All changes after a result in the history.

    Attributes:
        findings: The changes, oldest first.
        recorded: How many bets were ever recorded.
        commits: How many commits were read.
        limits: Parts of the history that could not be read and may hide a change.
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
        """Yield the audit as text."""
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
class _Version:
    """A bet as one commit has it."""

    digest: str
    canonical: str
    status: str
    closes: str
    amends: str | None

    @property
    def unplaced(self) -> dict[str, Any]:
        """The bet without where its files lie."""
        return unplaced(json.loads(self.canonical))


@dataclass(frozen=True)
class _Record:
    """A record as one commit has it; `files` are the digests of what was measured on."""

    digest: str
    verdict: str
    files: Mapping[str, str]


@dataclass
class _Tree:
    """The bets and records of a commit, and the ids of bets that it or any before it has recorded."""

    files: dict[str, dict[str, _Version]] = field(default_factory=dict)
    records: dict[str, _Record] = field(default_factory=dict)
    recorded: frozenset[str] = frozenset()

    @property
    def bets(self) -> dict[str, _Version]:
        return {id_: bet for bets in self.files.values() for id_, bet in bets.items()}


def audit(
    folders: Sequence[Path],
    *,
    kinds: Kinds | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> Audit:
    """Read the history of bet folders; raises GitError if there is none.

    A commit changes a bet if the bet's digest differs from that in every parent whose history has
    recorded the bet. So a merge counts only for changes of its own and for those that it brings from
    a branch without the record, and a bet may move from file to file.
    """
    reader = _HistoryReader(GitRepository(folders[0]), folders, kinds, metrics)
    findings: list[Finding] = []
    trees: dict[str, _Tree] = {}
    for commit in reader.commits():
        parents = [trees[parent] for parent in commit.parents]
        trees[commit.id] = tree = reader.tree(commit, parents)
        findings.extend(_findings(commit, parents, tree))
    recorded = frozenset[str]().union(*(tree.recorded for tree in trees.values()))
    return Audit(tuple(findings), len(recorded), len(trees), tuple(reader.limits))


class _HistoryReader:
    """Reads bets and records at every commit; `limits` has what could not be read."""

    def __init__(
        self,
        repository: GitRepository,
        folders: Sequence[Path],
        kinds: Kinds | None,
        metrics: Mapping[str, Metric] | None,
    ) -> None:
        root = Path(repository.root).resolve()
        for folder in folders:
            if not folder.resolve().is_relative_to(root):
                raise GitError(
                    f"{folder} is not in the checkout of {folders[0]}; audit one after the other"
                )
        self._repository = repository
        self._under = [folder.resolve().relative_to(root).as_posix() for folder in folders]
        self._kinds = kinds
        self._metrics = metrics
        self._blobs: dict[str, dict[str, _Version]] = {}
        self.limits: dict[str, None] = {}

    def commits(self) -> Iterator[Commit]:
        if self._repository.is_shallow:
            shallow = "this is a shallow clone; fetch the whole history (git fetch --unshallow)"
            self.limits[shallow] = None
        return self._repository.commits(self._under)

    def tree(self, commit: Commit, parents: Sequence[_Tree]) -> _Tree:
        """Return the tree of the first parent, with what the commit changed."""
        first = parents[0] if parents else _Tree()
        against = commit.parents[0] if parents else None
        changes = list(self._repository.changes(against, commit.id, self._under))
        files, records = first.files, first.records
        if changes:
            files, records = dict(files), dict(records)
        for change in changes:
            path = PurePosixPath(change.path)
            if path.suffix == ".json" and path.parent.name == FOLDER:
                records.pop(path.stem, None)
                if change.new is not None:
                    records[path.stem] = self._record(change.new)
            elif path.suffix.lower() in SUFFIXES and FOLDER not in path.parts:
                files.pop(change.path, None)
                if change.new is not None:
                    files[change.path] = self._bets(change.new, path, commit)
        before = (parent.recorded for parent in parents)
        return _Tree(files, records, frozenset(records).union(*before))

    def _record(self, blob: str) -> _Record:
        """Return what a record holds of digests and verdict, whatever else it has become."""
        content = self._repository.read(blob, _LARGEST_RECORD)
        try:
            data = read_strictly((content or b"").decode("utf-8"))
        except ValueError:
            data = None
        found: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
        try:
            files = digests_of(found["result"]["provenance"])
        except (KeyError, TypeError, AttributeError):
            files = {}
        return _Record(str(found.get("digest", "?")), str(found.get("verdict", "?")), files)

    def _bets(self, blob: str, path: PurePosixPath, commit: Commit) -> dict[str, _Version]:
        if blob in self._blobs:
            return self._blobs[blob]
        content = self._repository.read(blob, LIMITS.file_bytes)
        found: dict[str, _Version] = {}
        try:
            if content is None:
                raise ValueError("its content is missing here, or too large")
            documents = parse_bets(content, Path(path), kinds=self._kinds, metrics=self._metrics)
        except (BetFileError, ValueError) as error:
            reason = str(error).splitlines()[0]
            self.limits[f"{printable(str(path))} at {commit.id[:10]}: {printable(reason)}"] = None
        else:
            for document in documents:
                bet = document.bet
                found[bet.id] = _Version(
                    digest(bet),
                    canonical(bet),
                    bet.status,
                    json.dumps(closes_of(bet), sort_keys=True),
                    bet.amends.digest if bet.amends is not None else None,
                )
        self._blobs[blob] = found
        return found


def _findings(commit: Commit, parents: Sequence[_Tree], tree: _Tree) -> Iterator[Finding]:
    """Yield what a commit changed of bets that were recorded before it."""
    if parents and all(
        tree.files is parent.files and tree.records is parent.records for parent in parents
    ):
        return
    bets = tree.bets
    for id_ in sorted(frozenset[str]().union(*(parent.recorded for parent in parents))):
        bound = [parent.bets for parent in parents if id_ in parent.recorded]
        before = [found[id_] for found in bound if id_ in found]
        if before:
            yield from _of_bet(id_, commit, before, bets.get(id_))
        records = [parent.records[id_] for parent in parents if id_ in parent.records]
        if len(records) == len(parents):
            yield from _of_record(id_, commit, records, tree.records.get(id_))


def _of_bet(
    id_: str, commit: Commit, before: Sequence[_Version], now: _Version | None
) -> Iterator[Finding]:
    if now is None:
        yield Finding(id_, commit, "the bet was removed after its result")
        return
    changes = all(bet.digest != now.digest for bet in before)
    if changes and any(bet.unplaced == now.unplaced for bet in before):
        what = "files were moved after the result, or their digests written down"
        yield Finding(id_, commit, what, openly=True)
    elif changes:
        openly = now.amends in {bet.digest for bet in before}
        what = "criteria or conditions were changed after the result"
        changed = differences(before[0].canonical, now.canonical)
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
        if all(getattr(bet, name) != value for bet in before) and not earned:
            change = printable(f"{name}: {was} -> {value}")[:300]
            yield Finding(id_, commit, f"{name} was changed after the result", (change,))


def _of_record(
    id_: str, commit: Commit, before: Sequence[_Record], now: _Record | None
) -> Iterator[Finding]:
    if now is None:
        yield Finding(id_, commit, "the record was removed")
        return
    if all(each.verdict != now.verdict for each in before):
        change = printable(f"{before[0].verdict} -> {now.verdict}")
        yield Finding(id_, commit, "the recorded verdict was changed", (change,))
    if all(each.files != now.files for each in before):
        changed = changed_digests(before[0].files, now.files)
        # The run that recorded it failed as STALE, and the record shows it.
        yield Finding(id_, commit, "recorded anew on other files", changed, openly=True)
