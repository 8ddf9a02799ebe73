"""Data that is small on a disk and large in memory."""

from __future__ import annotations

import bz2
import gzip
import lzma
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pytest_layerguard.bet.texts import LocalDatasetText
from pytest_layerguard.lab.bombs import rows_at_a_time
from pytest_layerguard.lab.errors import LabError
from pytest_layerguard.lab.rows import of_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MANY = b"a" * 5_000_000 + b"\n"


def rows(path: Path, kind: str, largest: int) -> list[str]:
    source = LocalDatasetText.model_validate({"dataset": kind, "file": path.name})
    return list(of_file(source, path, largest))


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_file_counts_for_what_it_holds(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "rows.txt.gz"
    path.write_bytes(compress(MANY))
    assert path.stat().st_size < 10_000
    with pytest.raises(LabError, match=r"holds more than 1,000,000 bytes when it is decompressed"):
        rows(path, "text", 1_000_000)


def test_a_compressed_file_that_is_small_enough(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt.gz"
    path.write_bytes(gzip.compress(b"a\nb\n"))
    assert rows(path, "text", 4) == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (gzip.compress(MANY)[:-20], "cannot be decompressed"),
        (b"\x1f\x8bnothing", "cannot be decompressed"),
        (b"\x28\xb5\x2f\xfd" + bytes(9), "allowed: gzip, bzip2, xz or none"),
        (b"PK\x03\x04" + bytes(9), "allowed: gzip, bzip2, xz or none"),
    ],
)
def test_what_cannot_be_counted(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes(content)
    with pytest.raises(LabError, match=told):
        rows(path, "text", 10**9)


def test_one_long_row_many_times(tmp_path: Path) -> None:
    """A thousand rows of it at once would take three terabytes where there are three million."""
    path = tmp_path / "rows.parquet"
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 5_000, pa.int32()), ["a" * 4_000_000])
    pq.write_table(pa.table({"text": text}), path)
    assert path.stat().st_size < 1_000_000
    assert 200 <= rows_at_a_time(path, 1_000) <= 2**30 // 4_000_000


def test_usual_rows_come_as_usual(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["a", "b", "c"]}), path)
    assert rows_at_a_time(path, 1_000) == 1_000
    assert rows(path, "parquet", 10**9) == ["a", "b", "c"]
