"""Read a git history with plumbing commands, so that nothing in a repository is run."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_SETTINGS: Final = ("core.fsmonitor=false", "core.hooksPath=/dev/null", "protocol.allow=never")
_ENVIRONMENT: Final = {
    # A grafted or replaced commit would be a history that others do not have.
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_LITERAL_PATHSPECS": "1",
    "LC_ALL": "C",
}
_FORM: Final = "--format=%x00%H%x00%P%x00%cs%x00%s"
_FOREIGN: Final = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY")


class GitError(Exception):
    """No history can be read here; the text says why."""


@dataclass(frozen=True)
class Commit:
    """A commit and its parents."""

    id: str
    parents: tuple[str, ...]
    date: str
    subject: str

    def __str__(self) -> str:
        """Return ``1a2b3c4d5e 2026-01-31 Loosen the bar``."""
        return f"{self.id[:10]} {self.date} {printable(self.subject)}"


@dataclass(frozen=True)
class PathChange:
    """A path that differs between two commits; a blob is None where the path is not there."""

    path: str
    old: str | None
    new: str | None


class GitRepository:
    """The history that holds a folder."""

    def __init__(self, folder: Path) -> None:
        """Find the repository; raises GitError where there is none, or no git."""
        self._folder = str(folder)
        # Paths are relative to where git runs, and trees to the top.
        self._folder = self.root = self._run("rev-parse", "--show-toplevel").decode().rstrip("\n")

    @property
    def is_shallow(self) -> bool:
        """Whether older commits are missing from this clone."""
        return self._run("rev-parse", "--is-shallow-repository").strip() == b"true"

    def commits(self, under: Sequence[str]) -> Iterator[Commit]:
        """Yield every commit of HEAD's history that touches some paths, and merges, parents first.

        Parents are the nearest such commits, so that the others need not be read.
        """
        text = self._run(
            "rev-list", "--topo-order", "--reverse", "--full-history", "--parents", _FORM,
            "HEAD", "--", *under,
        )  # fmt: skip
        for entry in text.decode("utf-8", "replace").split("\ncommit ") if text else ():
            yield _commit(entry)

    def last(self, path: Path) -> Commit | None:
        """Return the newest commit of HEAD's history that changed a path, or None; the path need not exist."""
        text = self._run("rev-list", "--max-count=1", _FORM, "HEAD", "--", str(path.resolve()))
        return _commit(text.decode("utf-8", "replace")) if text else None

    def changes(
        self, parent: str | None, commit: str, under: Sequence[str]
    ) -> Iterator[PathChange]:
        """Yield what a commit changed below some paths, against one parent or against nothing."""
        against = [parent, commit] if parent is not None else ["--root", commit]
        text = self._run(
            "diff-tree", "-r", "-z", "--raw", "--no-commit-id", "--no-renames", "--no-abbrev",
            "--no-ext-diff", "--no-textconv", *against, "--", *under,
        )  # fmt: skip
        fields = text.decode("utf-8", "surrogateescape").split("\0")
        for place in range(0, len(fields) - 1, 2):
            _, _, old, new, _ = fields[place].split(" ")
            yield PathChange(fields[place + 1], _blob(old), _blob(new))

    def read(self, blob: str, largest: int) -> bytes | None:
        """Return a blob's content, or None where it is missing or has more than `largest` bytes."""
        try:
            if int(self._run("cat-file", "-s", blob)) > largest:
                return None
            return self._run("cat-file", "blob", blob)
        except GitError:
            return None

    def _run(self, *words: str) -> bytes:
        settings = [word for setting in _SETTINGS for word in ("-c", setting)]
        environment = {key: value for key, value in os.environ.items() if key not in _FOREIGN}
        try:
            done = subprocess.run(
                ["git", *settings, "-C", self._folder, *words],
                env={**environment, **_ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        except OSError as error:
            raise GitError(f"git cannot be run: {error.strerror}") from None
        if done.returncode != 0:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            raise GitError(printable(lines[0] if lines else f"git {words[0]} failed"))
        return done.stdout


def _commit(entry: str) -> Commit:
    _, id_, parents, date, subject = entry.rstrip("\n").split("\0")
    return Commit(id_, tuple(parents.split()), date, subject)


def _blob(name: str) -> str | None:
    return None if not name.strip("0") else name
