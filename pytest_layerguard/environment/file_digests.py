"""Digests of files, texts and token ids, which bind a result to what it was measured on."""

from __future__ import annotations

import hashlib
import os
import sys
from array import array
from typing import TYPE_CHECKING

from pytest_layerguard.environment.measurement_errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_known: dict[tuple[Path, int, int, int], str] = {}


def of_file(path: Path) -> str:
    """Return ``sha256:`` and 64 hex digits of a file's content, read in pieces.

    A file whose size and time are those of the last call is not read again.
    """
    resolved = path.resolve()
    with resolved.open("rb") as file:
        status = os.fstat(file.fileno())
        key = (resolved, status.st_ino, status.st_size, status.st_mtime_ns)
        if key not in _known:
            _known[key] = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    return _known[key]


def check(digest: str, stated: str | None, what: str) -> None:
    """Raise MeasurementError if a file's digest is not the one that a bet states.

    Args:
        digest: The digest, with ``sha256:`` before it.
        stated: The 64 hex digits in the bet, or None if it states none.
        what: The bet's key and the file, for the message.
    """
    found = digest.removeprefix("sha256:")
    if stated not in (None, found):
        raise MeasurementError(
            f"{what} has changed: its sha256 is {found}, and the bet says {stated}. Bring the old file back, or make a "
            "new bet on the new one."
        )


def of_files(files: Mapping[str, Path]) -> str:
    """Return the digest of one file as it is, or of several by name and content."""
    if len(files) == 1:
        return of_file(next(iter(files.values())))
    lines = "".join(f"{of_file(files[name])} {name}\n" for name in sorted(files))
    return of_text(lines)


def of_bytes(content: bytes) -> str:
    """Return the digest of bytes."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def of_text(text: str) -> str:
    """Return the digest of a text in UTF-8."""
    return of_bytes(text.encode("utf-8", "surrogatepass"))


def of_ids(ids: Sequence[int]) -> str:
    """Return the digest of token ids as little-endian 64-bit integers."""
    numbers = array("q", ids)
    if sys.byteorder == "big":
        numbers.byteswap()
    return of_bytes(numbers.tobytes())
