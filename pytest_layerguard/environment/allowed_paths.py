"""Find files that a bet names: those of its own tree, and those below folders that the user allows."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_layerguard.environment.conditions import ROOT_FLAG, Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

_LONGEST_SHOWN: Final = 200


@dataclass(frozen=True)
class AllowedPaths:
    """The folders that one bet file may read.

    Attributes:
        folder: The bet file's folder; relative paths start here.
        allowed: Resolved folders; every file that the bet names must lie below one of them.
    """

    folder: Path
    allowed: tuple[Path, ...]

    @classmethod
    def of(cls, bet_file: Path, bets: Path, conditions: Conditions) -> AllowedPaths:
        """Return the folders that a bet file may read.

        Args:
            bet_file: The bet file.
            bets: Its bet folder; the bet's tree is the parent of this folder.
            conditions: Name further folders that the user allows.
        """
        # Were the bet folder itself a link, its target must not decide what may be read.
        tree = bets.absolute().parent.resolve()
        return cls(
            bet_file.parent.resolve(), (tree, *(root.resolve() for root in conditions.roots))
        )

    def file(self, written: str, key: str, *, largest: int | None = None) -> Path:
        """Return the resolved path of a regular file.

        Args:
            written: The path as it stands in the bet.
            key: The bet's key, for messages.
            largest: The largest size allowed, in bytes.

        Raises:
            MeasurementError: If it is outside, missing, not a regular file, or too large.
        """
        path, status = self._existing(written, key, stat.S_ISREG, "a file")
        if largest is not None and status.st_size > largest:
            raise MeasurementError(
                f"{key}: {quoted(written)} has {status.st_size:,} bytes; allowed: at most {largest:,}"
            )
        return path

    def directory(self, written: str, key: str) -> Path:
        """Return the resolved path of a folder; see :meth:`file`."""
        return self._existing(written, key, stat.S_ISDIR, "a folder")[0]

    def resolve(self, written: str, key: str) -> Path:
        """Return a path with symbolic links resolved.

        Raises:
            MeasurementError: If it leads outside the allowed folders, whether it exists or not, or if it
                is not a path.
        """
        try:
            path = (self.folder / written).resolve()
        except (OSError, RuntimeError, ValueError):
            raise MeasurementError(
                f"{key}: {quoted(written)} cannot be followed to a file"
            ) from None
        if not self.holds(path):
            raise MeasurementError(
                f"{key}: {quoted(written)} leads outside the tree that holds the bet folder "
                f"({self.allowed[0]}){_of_one_machine(written)}. If bets may read there, allow it with "
                f"{ROOT_FLAG}=DIR, or in Python with roots=[DIR]."
            )
        return path

    def _existing(
        self, written: str, key: str, wanted: Callable[[int], bool], what: str
    ) -> tuple[Path, os.stat_result]:
        path = self.resolve(written, key)
        try:
            status = path.stat()
        except FileNotFoundError:
            raise MeasurementError(
                f"{key}: {quoted(written)} does not exist (looked at {path}){_of_one_machine(written)}"
            ) from None
        except OSError as error:
            raise MeasurementError(
                f"{key}: {quoted(written)} cannot be read: {error.strerror}"
            ) from None
        if not wanted(status.st_mode):
            raise MeasurementError(
                f"{key}: {quoted(written)} is {_kind(status.st_mode)}, not {what}"
            )
        return path, status

    def holds(self, path: Path) -> bool:
        """Return whether a resolved path lies below an allowed folder."""
        return any(path.is_relative_to(folder) for folder in self.allowed)


def expanded(written: str | os.PathLike[str]) -> Path:
    """Return a path with a home folder for its ``~``; as it is where there is no such user."""
    try:
        return Path(written).expanduser()
    except RuntimeError:
        return Path(written)


def quoted(written: str) -> str:
    """Return untrusted text in quotes for a message: short, printable and on one line."""
    cut = written if len(written) <= _LONGEST_SHOWN else f"{written[:_LONGEST_SHOWN]}..."
    return ascii(cut) if not cut.isprintable() else f"'{cut}'"


def _of_one_machine(written: str) -> str:
    if not Path(written).is_absolute():
        return ""
    return "; an absolute path is that of one machine, one from the bet file goes with the project"


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISREG(mode):
        return "a file"
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        return "a device"
    return "a pipe or socket"
