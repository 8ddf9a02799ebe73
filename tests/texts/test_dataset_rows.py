"""Datasets from a hub: configurations, splits, revisions, and only as many files as are needed."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub.server import TOKEN, Hub, Trouble

if TYPE_CHECKING:
    from pathlib import Path

    from hub.visitor import Visitor

README = b"""---
configs:
- config_name: letters
  data_files:
  - {split: test, path: letters/test-*}
  - {split: train, path: letters/train-*}
- config_name: other
  data_files:
  - {split: test, path: other/test-*}
---
# A dataset
"""
FILE = r"\.parquet$"
API = r"^/api/datasets/"


def parquet(*rows: str | None, column: str = "text") -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({column: pa.array(rows, pa.string())}), stream)
    return stream.getvalue()


def put(
    hub: Hub, name: str, letters: tuple[str, ...] = ("a b\n", "", "c d\n"), **more: bytes
) -> str:
    content = {
        "README.md": README,
        "letters/test-00000-of-00001.parquet": parquet(*letters),
        "letters/train-00000-of-00001.parquet": parquet("not this"),
        "other/test-00000-of-00001.parquet": parquet("e f"),
    }
    return hub.add("datasets", name, content | more)


def named(name: str, revision: str, **more: Any) -> dict[str, Any]:
    return {"dataset": name, "config": "letters", "split": "test", "revision": revision} | more


def test_a_split_of_a_configuration_at_a_revision(hub: Hub, visitor: Visitor) -> None:
    first = put(hub, "acme/letters")
    second = put(hub, "acme/letters", ("x y\n",))

    assert visitor.ask(text=named("acme/letters", first))["text"] == "a b\nc d\n"
    assert visitor.ask(text=named("acme/letters", second))["text"] == "x y\n"
    assert visitor.ask(text=named("acme/letters", first, config="other"))["text"] == "e f"
    assert visitor.ask(text=named("acme/letters", first, join="|"))["text"] == "a b\n||c d\n"
    assert not [seen for seen in hub.seen if "train" in seen.path]


def test_only_the_files_that_are_needed_are_fetched(hub: Hub, visitor: Visitor) -> None:
    long = "a b c d " * 40_000
    commit = hub.add(
        "datasets", "acme/long", {f"train-{n:05}-of-00003.parquet": parquet(long) for n in range(3)}
    )

    found = visitor.ask(text=named("acme/long", commit, config=None, split="train"), tokens=100)

    assert found["text"] == long
    assert [seen.path[-22:-14] for seen in hub.seen if seen.origin == "cdn"] == ["00000-of"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("train.jsonl", b'{"text": "a b\\n"}\n{"text": "c"}\n'),
        ("train.csv", b'text,n\n"a b\n",1\nc,2\n'),
        ("train.txt", b"a b\nc\n"),
    ],
)
def test_other_formats(hub: Hub, visitor: Visitor, file: str, content: bytes) -> None:
    name = f"acme/format-{file[-3:]}"
    commit = hub.add("datasets", name, {file: content})

    found = visitor.ask(text=named(name, commit, config=None, split="train"))

    assert found["text"] == "a b\nc"


def test_a_separator_that_the_readme_names(hub: Hub, visitor: Visitor) -> None:
    readme = b"---\nconfigs:\n- config_name: default\n  data_files: rows.csv\n  sep: ';'\n---\n"
    commit = hub.add("datasets", "acme/sep", {"README.md": readme, "rows.csv": b"n;text\n1;a b\n"})

    assert visitor.ask(text=named("acme/sep", commit, config=None, split="train"))["text"] == "a b"


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        ({"column": "words"}, "has no column 'words'; there are: 'text'"),
        ({"split": "validation"}, "has no split 'validation'; there are: test, train"),
        ({"config": "third"}, "'third' not found"),
        ({"config": None}, "Config name is missing"),
        ({"revision": "0" * 40}, "no such revision"),
    ],
)
def test_what_is_not_there(
    hub: Hub, visitor: Visitor, change: dict[str, Any], reported: str
) -> None:
    commit = put(hub, "acme/lacking")

    found = visitor.ask(text=named("acme/lacking", commit) | change)

    assert found["error"] == "MeasurementError"
    assert reported in found["message"]


def test_a_column_that_is_no_text(hub: Hub, visitor: Visitor) -> None:
    commit = hub.add("datasets", "acme/numbers", {"train.jsonl": b'{"text": 3}\n'})

    found = visitor.ask(text=named("acme/numbers", commit, config=None, split="train"))

    assert found["error"] == "MeasurementError"
    assert "holds int, not text" in found["message"]


def test_formats_that_may_run_code_are_refused(hub: Hub, visitor: Visitor) -> None:
    commit = hub.add("datasets", "acme/script", {"script.py": b"raise SystemExit(1)"})

    found = visitor.ask(text=named("acme/script", commit, config=None, split="train"))

    assert found["error"] == "MeasurementError"
    assert not [seen for seen in hub.seen if seen.path.endswith(".py")]


@pytest.mark.parametrize("place", ["https://evil.example/x.csv", "zip://x::y", "{}/secret.txt"])
def test_a_readme_that_names_files_elsewhere(
    hub: Hub, visitor: Visitor, place: str, tmp_path: Path
) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    place = place.format(tmp_path)
    readme = f"---\nconfigs:\n- config_name: x\n  data_files: ['{place}']\n---\n".encode()
    name = f"acme/elsewhere-{len(place)}"
    commit = hub.add("datasets", name, {"README.md": readme, "train.txt": b"a"})

    found = visitor.ask(text=named(name, commit, config=None, split="train"))

    assert found["error"] == "MeasurementError"
    assert "allowed: files of its own" in found["message"]


def test_a_readme_whose_head_is_no_yaml(hub: Hub, visitor: Visitor) -> None:
    commit = hub.add("datasets", "acme/head", {"README.md": b"---\n[\n---\n", "train.txt": b"a"})

    found = visitor.ask(text=named("acme/head", commit, config=None, split="train"))

    assert "the head of its README.md cannot be read" in found["message"]


def test_a_damaged_file(hub: Hub, visitor: Visitor) -> None:
    commit = hub.add("datasets", "acme/damaged", {"train.parquet": parquet("a b")[:-20]})

    found = visitor.ask(text=named("acme/damaged", commit, config=None, split="train"))

    assert found["error"] == "MeasurementError"
    assert "cannot be read as parquet" in found["message"]


def test_an_unpinned_revision_needs_the_users_leave(hub: Hub, visitor: Visitor) -> None:
    put(hub, "acme/moving-text")

    refused = visitor.ask(text=named("acme/moving-text", "unpinned"))
    allowed = visitor.ask(
        text=named("acme/moving-text", "unpinned"), conditions={"allow_unpinned": True}
    )
    put(hub, "acme/moving-text", ("new\n",))
    moved = visitor.ask(
        text=named("acme/moving-text", "unpinned"), conditions={"allow_unpinned": True}
    )

    assert "--layerguard-allow-unpinned" in refused["message"]
    assert allowed["text"] == "a b\nc d\n"
    assert moved["text"] == "new\n"


def test_gated(hub: Hub, visitor: Visitor) -> None:
    commit = put(hub, "acme/gated-text")
    repository = hub.repositories["datasets", "acme/gated-text"]
    repository.gated = True

    refused = visitor.ask(text=named("acme/gated-text", commit), environment={"HF_TOKEN": ""})
    repository.granted = True
    allowed = visitor.ask(text=named("acme/gated-text", commit), environment={"HF_TOKEN": TOKEN})

    assert refused["error"] == "UnavailableError"
    assert "is gated" in refused["message"]
    assert allowed["text"] == "a b\nc d\n"
    assert TOKEN not in json.dumps(allowed)
    assert {seen.authorized for seen in hub.seen if seen.origin == "cdn"} == {False}


@pytest.mark.parametrize(
    ("path", "trouble"),
    [
        *((path, {"status": 500}) for path in (API, "README", FILE)),
        (API, {"stall": 0}),
        ("README", {"status": 429}),
        (FILE, {"drop_after": 0}),
    ],
)
def test_a_hub_that_fails(hub: Hub, visitor: Visitor, path: str, trouble: dict[str, Any]) -> None:
    name = f"acme/failing-{len(path)}-{'-'.join(trouble)}-{trouble.get('status', 0)}"
    commit = put(hub, name)
    hub.troubles.append(Trouble(path, **trouble))

    assert visitor.ask(text=named(name, commit))["error"] == "UnavailableError"


def test_offline(hub: Hub, visitor: Visitor, offline_visitor: Visitor) -> None:
    commit = put(hub, "acme/offline-text")

    never = offline_visitor.ask(text=named("acme/offline-text", commit))
    before = visitor.ask(text=named("acme/offline-text", commit))
    hub.seen.clear()
    after = offline_visitor.ask(text=named("acme/offline-text", commit))
    other = offline_visitor.ask(text=named("acme/offline-text", "0" * 40))

    assert never["error"] == other["error"] == "UnavailableError"
    assert "HF_HUB_OFFLINE" in never["message"]
    assert after["text"] == before["text"]
    assert hub.seen == []
