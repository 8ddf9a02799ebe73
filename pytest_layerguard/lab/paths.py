"""Which files a bet may read: those of its own tree, and those below folders that the user allows."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.lab.conditions import ROOT_FLAG, Conditions
from pytest_layerguard.lab.errors import LabError

if TYPE_CHECKING:
    import os
    from pathlib import Path

_LONGEST_SHOWN: Final = 200


@dataclass(frozen=True)
class Reach:
    """What one bet file may read.

    Attributes:
        folder: Where the bet file lies; its paths start here.
        allowed: Folders, resolved, below which everything it names must lie.
    """

    folder: Path
    allowed: tuple[Path, ...]

    @classmethod
    def of(cls, bet_file: Path, bets: Path, conditions: Conditions) -> Reach:
        """Say what a bet file may read.

        Args:
            bet_file: The file.
            bets: The bet folder that it belongs to; the bet's tree is this folder's parent.
            conditions: The user's say.
        """
        # Were the bet folder itself a link, its target must not decide what may be read.
        tree = bets.absolute().parent.resolve()
        return cls(
            bet_file.parent.resolve(), (tree, *(root.resolve() for root in conditions.roots))
        )

    def file(self, written: str, key: str, *, largest: int | None = None) -> Path:
        """Find a regular file.

        Args:
            written: The path as the bet has it.
            key: The bet's key, for messages.
            largest: Bytes of the largest file that is accepted.

        Raises:
            LabError: If it is outside, missing, not a regular file, or too large.
        """
        path = self.resolve(written, key)
        status = _status(path, written, key)
        if not stat.S_ISREG(status.st_mode):
            raise LabError(f"{key}: {quoted(written)} is {_kind(status.st_mode)}, not a file")
        if largest is not None and status.st_size > largest:
            raise LabError(
                f"{key}: {quoted(written)} has {status.st_size:,} bytes; allowed: at most {largest:,}"
            )
        return path

    def directory(self, written: str, key: str) -> Path:
        """Find a folder; see :meth:`file`."""
        path = self.resolve(written, key)
        status = _status(path, written, key)
        if not stat.S_ISDIR(status.st_mode):
            raise LabError(f"{key}: {quoted(written)} is {_kind(status.st_mode)}, not a folder")
        return path

    def resolve(self, written: str, key: str) -> Path:
        """Follow a path, symbolic links too, and refuse one that leads outside.

        Nothing is said about whether a path outside exists.

        Raises:
            LabError: If it leads outside, or is no path.
        """
        if not written or any(ord(character) < 32 for character in written):
            raise LabError(f"{key}: {quoted(written)} is not a path; allowed: one line of text")
        try:
            path = (self.folder / written).resolve()
        except (OSError, RuntimeError, ValueError):
            raise LabError(f"{key}: {quoted(written)} cannot be followed to a file") from None
        if not self.holds(path):
            raise LabError(
                f"{key}: {quoted(written)} leads outside the tree that holds the bet folder "
                f"({self.allowed[0]}). If bets may read there, allow it with {ROOT_FLAG}=DIR."
            )
        return path

    def holds(self, path: Path) -> bool:
        """Whether a resolved path lies below an allowed folder."""
        return any(path.is_relative_to(folder) for folder in self.allowed)


def quoted(written: str) -> str:
    """Return text of a bet so that it can stand in a message: short, on one line, printable."""
    cut = written if len(written) <= _LONGEST_SHOWN else f"{written[:_LONGEST_SHOWN]}..."
    return ascii(cut) if not cut.isprintable() else f"'{cut}'"


def _status(path: Path, written: str, key: str) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        raise LabError(f"{key}: {quoted(written)} does not exist (looked at {path})") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise LabError(f"{key}: {quoted(written)} cannot be read: {reason}") from None


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISREG(mode):
        return "a file"
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "a device"
    return "a pipe or socket"
