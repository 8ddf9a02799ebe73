"""Texts of this machine: what a bet may read, and whether it is what the bet says."""

from __future__ import annotations

import gzip
import hashlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hub.tiny import tokenizer
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from pytest_layerguard import reference
from pytest_layerguard.bet.text_sources import TextSource
from pytest_layerguard.environment.budget import Budget
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.texts.sources import Texts, joined

if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[..., str]

SOURCE: TypeAdapter[TextSource] = TypeAdapter(TextSource)


@pytest.fixture
def bets(tmp_path: Path) -> Path:
    """A bet folder in a tree of its own."""
    folder = tmp_path / "tree" / "bets"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def read(bets: Path) -> Read:
    def read(written: dict[str, Any], tokens: int | None = None, **conditions: Any) -> str:
        texts = Texts(Conditions(**conditions), bets / "bet.yaml", bets)
        return texts.read(SOURCE.validate_python(written), tokenizer(), tokens)

    return read


class TestReference:
    def test_heldout_is_what_was_shipped(self, read: Read) -> None:
        assert read({"reference": "heldout"}) == reference.HELDOUT.read_text(encoding="utf-8")

    def test_training_begins_as_training_did(self, read: Read) -> None:
        text = read({"reference": "training"}, tokens=10)

        assert 2**18 < len(text) < 2**19
        assert text.split("\n\n")[0] not in read({"reference": "heldout"})
        assert read({"reference": "training"}, tokens=10) == text

    def test_a_held_out_text_that_was_changed(
        self, read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        changed = tmp_path / "heldout.txt"
        changed.write_bytes(reference.HELDOUT.read_bytes() + b"!")
        monkeypatch.setattr(reference, "HELDOUT", changed)

        with pytest.raises(MeasurementError, match="not the text that was shipped"):
            read({"reference": "heldout"})


class TestFile:
    def test_a_file_beside_the_bet(self, read: Read, bets: Path) -> None:
        content = "a b\r\nc\u2028d\n\n".encode()
        (bets / "text.txt").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()

        assert read({"file": "text.txt", "sha256": digest}) == content.decode()

    def test_a_changed_digest(self, read: Read, bets: Path) -> None:
        (bets / "text.txt").write_text("new")
        old, new = (hashlib.sha256(content).hexdigest() for content in (b"old", b"new"))

        with pytest.raises(MeasurementError) as caught:
            read({"file": "text.txt", "sha256": old})

        assert old in str(caught.value)
        assert new in str(caught.value)

    def test_a_byte_order_mark_is_not_of_the_text(self, read: Read, bets: Path) -> None:
        marked = b"\xef\xbb\xbfonce upon a time"
        (bets / "text.txt").write_bytes(marked)

        assert read({"file": "text.txt"}) == "once upon a time"
        digest = hashlib.sha256(marked).hexdigest()
        assert read({"file": "text.txt", "sha256": digest}) == "once upon a time"

    def test_the_digest_of_what_a_name_does_not_fix(self, bets: Path) -> None:
        (bets / "text.txt").write_text("a")
        texts = Texts(Conditions(), bets / "bet.yaml", bets)

        digest = f"sha256:{hashlib.sha256(b'a').hexdigest()}"
        for written in ({"file": "text.txt"}, {"dataset": "text", "file": "text.txt"}):
            assert texts.digest(SOURCE.validate_python(written)) == digest
        assert texts.digest(SOURCE.validate_python({"reference": "training"})) is None

    def test_what_is_not_utf_8(self, read: Read, bets: Path) -> None:
        (bets / "text.txt").write_bytes("abc".encode("utf-16"))

        with pytest.raises(MeasurementError, match=r"not UTF-8: byte 0 is 0xff"):
            read({"file": "text.txt"})

    def test_no_more_is_read_than_is_needed(self, read: Read, bets: Path) -> None:
        (bets / "text.txt").write_text("a b c d\n" * 200_000)

        text = read({"file": "text.txt"}, tokens=100)

        assert 2**18 < len(text) < 2**19
        assert text.endswith("d\n")
        assert len(read({"file": "text.txt"})) == 1_600_000

    def test_as_much_is_read_as_is_needed(self, read: Read, bets: Path) -> None:
        (bets / "text.txt").write_text(f"{'x' * 100_000}\n" * 20)

        assert len(read({"file": "text.txt"}, tokens=3)) == 20 * 100_001

    def test_a_file_that_is_too_large(self, read: Read, bets: Path) -> None:
        (bets / "text.txt").write_text("a" * 11)

        with pytest.raises(MeasurementError, match="has 11 bytes; allowed: at most 10"):
            read({"file": "text.txt"}, budget=Budget(text_bytes=10))

    def test_a_missing_file(self, read: Read) -> None:
        with pytest.raises(MeasurementError, match=r"'nowhere\.txt' does not exist"):
            read({"file": "nowhere.txt"})


class TestPaths:
    @pytest.mark.parametrize("written", ["../../secret.txt", "a/../../../secret.txt"])
    def test_outside_the_tree(self, read: Read, bets: Path, written: str) -> None:
        (bets.parents[1] / "secret.txt").write_text("secret")

        with pytest.raises(MeasurementError, match="leads outside") as caught:
            read({"file": written})

        assert "--layerguard-root" in str(caught.value)

    def test_an_absolute_path_is_said_to_be_of_one_machine(self, read: Read, bets: Path) -> None:
        for missing in (bets / "moved.txt", bets.parents[1] / "secret.txt"):
            with pytest.raises(MeasurementError, match="an absolute path is that of one machine"):
                read({"file": str(missing)})
        with pytest.raises(MeasurementError) as caught:
            read({"file": "moved.txt"})
        assert "of one machine" not in str(caught.value)

    def test_whether_something_outside_exists_is_not_revealed(self, read: Read, bets: Path) -> None:
        (bets.parents[1] / "known.txt").write_text("secret")
        reported = []
        for name in ("known", "unheard"):
            with pytest.raises(MeasurementError) as caught:
                read({"file": f"../../{name}.txt"})
            reported.append(str(caught.value).replace(name, ""))

        assert reported[0] == reported[1]

    def test_inside_the_tree_but_above_the_bets(self, read: Read, bets: Path) -> None:
        (bets.parent / "text.txt").write_text("a")

        assert read({"file": "../text.txt"}) == "a"

    def test_under_a_root(self, read: Read, bets: Path) -> None:
        root = bets.parents[1] / "root"
        root.mkdir()
        (root / "text.txt").write_text("a")

        assert read({"file": str(root / "text.txt")}, roots=(root,)) == "a"
        with pytest.raises(MeasurementError, match="leads outside"):
            read({"file": str(root / "text.txt")})

    def test_a_link_that_leads_outside(self, read: Read, bets: Path) -> None:
        secret = bets.parents[1] / "secret.txt"
        secret.write_text("secret")
        (bets / "link.txt").symlink_to(secret)

        with pytest.raises(MeasurementError, match="leads outside"):
            read({"file": "link.txt"})

    def test_a_folder_that_is_a_link(self, read: Read, bets: Path) -> None:
        (bets / "out").symlink_to(bets.parents[1])
        (bets.parents[1] / "secret.txt").write_text("secret")

        with pytest.raises(MeasurementError, match="leads outside"):
            read({"file": "out/secret.txt"})

    def test_a_bet_folder_that_is_a_link(self, bets: Path) -> None:
        secrets = bets.parents[1] / "secrets"
        (secrets / "bets").mkdir(parents=True)
        (secrets / "text.txt").write_text("secret")
        linked = bets.parent / "linked"
        linked.symlink_to(secrets / "bets")

        with pytest.raises(MeasurementError, match="leads outside"):
            Texts(Conditions(), linked / "bet.yaml", linked).read(
                SOURCE.validate_python({"file": "../text.txt"})
            )

    def test_a_link_that_leads_to_itself(self, read: Read, bets: Path) -> None:
        (bets / "loop").symlink_to(bets / "loop")

        with pytest.raises(MeasurementError):
            read({"file": "loop"})

    def test_a_folder_is_no_text(self, read: Read) -> None:
        with pytest.raises(MeasurementError, match="is a folder, not a file"):
            read({"file": "."})

    def test_a_device(self, read: Read) -> None:
        with pytest.raises(MeasurementError, match="is a device, not a file"):
            read({"file": os.devnull}, roots=(Path(os.devnull).parent,))

    def test_a_pipe_that_nobody_writes_to(self, read: Read, bets: Path) -> None:
        os.mkfifo(bets / "pipe")

        with pytest.raises(MeasurementError, match="is a pipe or socket, not a file"):
            read({"file": "pipe"})

    def test_a_name_that_is_too_long(self, read: Read) -> None:
        with pytest.raises(MeasurementError):
            read({"file": "x" * 900})

    @pytest.mark.parametrize("name", ["with space.txt", "ümlaut.txt", "-rf.txt", "'quoted'.txt"])
    def test_odd_names(self, read: Read, bets: Path, name: str) -> None:
        (bets / name).write_text("a")

        assert read({"file": name}) == "a"


class TestDataset:
    @pytest.mark.parametrize(
        ("kind", "content"),
        [
            (
                "json",
                b'{"text": "a\\n"}\n{"text": ""}\n{"text": null}\n{"text": "b"}\n{"text": "c"}\n',
            ),
            ("csv", b'text,n\n"a\n",1\n"",2\n,3\nb,4\nc,5\n'),
        ],
    )
    def test_rows_keep_their_own_newlines(
        self, read: Read, bets: Path, kind: str, content: bytes
    ) -> None:
        (bets / "rows.data").write_bytes(content)

        assert read({"dataset": kind, "file": "rows.data"}) == "a\nb\nc"

    def test_paragraphs(self, bets: Path) -> None:
        (bets / "rows.json").write_text(
            "".join(f'{{"text": "{row}"}}\n' for row in ("", " a\\n", " ", "b")), encoding="utf-8"
        )
        texts = Texts(Conditions(), bets / "bet.yaml", bets)
        rows = {"dataset": "json", "file": "rows.json"}

        assert texts.read(SOURCE.validate_python(rows), paragraphs=True) == " a\n\n\nb"
        stated = SOURCE.validate_python(rows | {"join": "-"})
        assert texts.read(stated, paragraphs=True) == "- a\n- -b"

    def test_join(self, read: Read, bets: Path) -> None:
        (bets / "rows.txt").write_text("a\n\nb\n")

        assert read({"dataset": "text", "file": "rows.txt", "join": "--"}) == "a----b"

    @pytest.mark.parametrize(
        ("kind", "content"),
        [("text", b"a\nb\n"), ("csv", b"text\na\nb\n"), ("json", b'{"text": "a"}\n{"text": "b"}')],
    )
    def test_a_byte_order_mark_is_not_of_the_first_row(
        self, read: Read, bets: Path, kind: str, content: bytes
    ) -> None:
        (bets / "rows.data").write_bytes(b"\xef\xbb\xbf" + content)

        assert read({"dataset": kind, "file": "rows.data"}) == "a\nb"

    def test_a_missing_column(self, read: Read, bets: Path) -> None:
        (bets / "rows.json").write_text('{"words": "a", "n": 1}\n')

        with pytest.raises(MeasurementError, match="has no column 'text'; there are: 'words', 'n'"):
            read({"dataset": "json", "file": "rows.json"})

    def test_a_compressed_file_counts_for_what_it_holds(self, read: Read, bets: Path) -> None:
        (bets / "rows.txt.gz").write_bytes(gzip.compress(b"a" * 5_000_000 + b"\n"))

        with pytest.raises(MeasurementError, match="has more than 1,000,000 characters"):
            read({"dataset": "text", "file": "rows.txt.gz"}, budget=Budget(text_bytes=1_000_000))

    def test_another_format(self, read: Read, bets: Path) -> None:
        (bets / "rows.parquet").write_text("no parquet")

        with pytest.raises(MeasurementError, match="cannot be read as parquet"):
            read({"dataset": "parquet", "file": "rows.parquet"})

    def test_a_changed_digest(self, read: Read, bets: Path) -> None:
        (bets / "rows.txt").write_text("a")

        with pytest.raises(MeasurementError, match="has changed"):
            read({"dataset": "text", "file": "rows.txt", "sha256": "0" * 64})

    @pytest.mark.parametrize("name", ["*.txt", "x/a::b.txt", "[ab].txt"])
    def test_a_name_is_never_a_pattern(self, read: Read, bets: Path, name: str) -> None:
        (bets / "x").mkdir()
        (bets / name).write_text("a")
        (bets / "b.txt").write_text("another")

        with pytest.raises(MeasurementError, match="stand for patterns"):
            read({"dataset": "text", "file": name})

    def test_without_the_package(
        self, read: Read, bets: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (bets / "rows.txt").write_text("a")
        monkeypatch.setitem(sys.modules, "datasets", None)

        with pytest.raises(UnavailableError, match=r"pip install 'pytest-layerguard\[datasets\]'"):
            read({"dataset": "text", "file": "rows.txt"})


@given(st.lists(st.text(alphabet="a\n", max_size=4), max_size=6))
def test_joining_by_their_own_newlines(rows: list[str]) -> None:
    text = "".join(joined(rows, None))

    assert text.replace("\n", "") == "".join(rows).replace("\n", "")
    if all(row.endswith("\n") or not row for row in rows):
        assert text == "".join(rows)
    # No two rows run into one line.
    assert text.splitlines() == [line for row in rows for line in row.splitlines()]


@given(st.lists(st.text(max_size=4), max_size=6), st.text(max_size=2))
def test_joining_by_a_text(rows: list[str], join: str) -> None:
    assert "".join(joined(rows, join)) == join.join(rows)
