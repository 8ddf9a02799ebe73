"""Write files whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import time
from typing import TYPE_CHECKING, Final

from pytest_layerguard.environment.secrets import without_secrets

if TYPE_CHECKING:
    from pathlib import Path

_SUFFIX: Final = ".tmp"
_ABANDONED: Final = 3600.0
"""Seconds after which a temporary file has no living writer."""


def write_whole(path: Path, text: str) -> None:
    """Replace the file at ``path`` by ``text`` without access tokens; its folder must exist.

    A reader sees the old file or the whole new one, whenever the writer is killed and however many
    write at once; the last one to finish stays. Raises OSError if it cannot be written, and leaves
    the old file as it was.
    """
    text = without_secrets(text)
    _sweep(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}{_SUFFIX}")
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def write_if_possible(path: Path, text: str) -> None:
    """Write what is kept only to save time, as `write_whole`; nothing where the disk is full or read-only."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError:
        return


def _sweep(path: Path) -> None:
    """Remove the temporary files that killed writers of this file left."""
    left = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}{re.escape(_SUFFIX)}")
    for other in path.parent.iterdir():
        if not left.fullmatch(other.name):
            continue
        try:
            if time.time() - other.lstat().st_mtime > _ABANDONED:
                other.unlink()
        except FileNotFoundError:
            continue


def _sync(folder: Path) -> None:
    """Make the rename itself outlast a loss of power, where the system can."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
