"""Files of data that are small on a disk and need not be so in memory."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from typing import TYPE_CHECKING, Final

from pytest_layerguard.lab.budget import LIMIT_FLAG
from pytest_layerguard.lab.errors import LabError
from pytest_layerguard.lab.quiet import first_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import IO

_OPENERS: Final[dict[bytes, Callable[[Path], IO[bytes]]]] = {
    b"\x1f\x8b": gzip.open,  # type: ignore[dict-item]
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_OTHERS: Final = (
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"PK\x07\x08",
    b"\x28\xb5\x2f\xfd",
    b"\x04\x22\x4d\x18",
)
"""Zip, Zstandard and LZ4: what they hold cannot be counted without packages that may not be here."""
_PIECE: Final = 2**20
_MOST_AT_A_TIME: Final = 2**30


def refuse_bomb(path: Path, what: str, largest: int, *, fetched: bool) -> None:
    """Refuse a compressed file that holds more than a text may have; a line of it is read whole.

    Args:
        path: The file.
        what: What messages call it.
        largest: Bytes of the largest text.
        fetched: Whether it comes from a hub, where other ways to compress are usual.

    Raises:
        LabError: If it holds more, or cannot be decompressed.
    """
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(_OTHERS) and not fetched:
        raise LabError(
            f"{what}: how much it holds cannot be told; allowed: gzip, bzip2, xz or none"
        )
    opener = next((each for magic, each in _OPENERS.items() if start.startswith(magic)), None)
    if opener is None:
        return
    held = 0
    try:
        with opener(path) as file:
            while piece := file.read(_PIECE):
                held += len(piece)
                if held > largest:
                    raise LabError(
                        f"{what}: holds more than {largest:,} bytes when it is decompressed; take a "
                        f"smaller one, or allow more with {LIMIT_FLAG} text_bytes=NUMBER"
                    )
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise LabError(f"{what}: cannot be decompressed: {first_line(error)}") from None


def rows_at_a_time(path: Path, usual: int) -> int:
    """Return how many rows of a Parquet file may be in memory at once.

    A row that says the same as the last one takes a few bits of the file, and all of its length in
    memory; it is at most as long as all that its column holds before it is compressed.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    try:
        found = read_metadata(path)
        longest = max(
            (
                found.row_group(group).column(column).total_uncompressed_size
                for group in range(found.num_row_groups)
                for column in range(found.num_columns)
            ),
            default=0,
        )
    except (ArrowException, OSError):
        # Told when it is read.
        return usual
    return max(1, min(usual, _MOST_AT_A_TIME // max(longest, 1)))
