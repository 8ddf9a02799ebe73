from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from pytest_layerguard.bet.errors import BetFileError, printable
from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.bet.yaml import read_documents


def value(text: str) -> object:
    (document,), fault = read_documents(f"a: {text}")
    assert fault is None
    assert not document.faults, document.faults
    return document.data["a"]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("1e-5", 1e-5),
        ("1E3", 1000.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("+1", 1),
        ("-0", 0),
        ("012", 12),
        ("0o14", 12),
        ("0x1F", 31),
        ("0b1", "0b1"),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("190:20:30", "190:20:30"),
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z"),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("y", "y"),
        ("true", True),
        ("FALSE", False),
        ("tRue", "tRue"),
        ("null", None),
        ("~", None),
        ("", None),
        ("none", "none"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("!!str 1", "1"),
        ("! 1", "1"),
        ("!!int '12'", 12),
        ("!!float 3", 3.0),
        ("!!float 1e3", 1000.0),
        ("!!bool 'true'", True),
        ("!!null ''", None),
        ("!!seq [1]", [1]),
        ("!!map {b: 1}", {"b": 1}),
        ("|\n  x\n  y", "x\ny"),
        (">-\n  x\n  y", "x y"),
        ("&x [1]\nb: *x", [1]),
        ("e5", "e5"),
        ("1e", "1e"),
        (".", "."),
        ("+", "+"),
        ("=", "="),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text, meant):
    found = value(text)
    assert found == meant
    assert type(found) is type(meant)


@pytest.mark.parametrize(
    "text",
    ["!!binary aGk=", "!!timestamp 2026-01-01", "!!set {a}", "!!omap [a: 1]", "!mine 1",
     "!!python/object/apply:os.system [ls]", "!!python/name:os.system ''", "!!int x", "!!bool maybe",
     ".inf", "-.INF", ".NaN", "1e400", "9" * 30, "0x" + "f" * 30, "!!float .inf"],
)  # fmt: skip
def test_what_is_refused(text):
    (document,), fault = read_documents(f"a: {text}")
    assert fault is None
    assert [found.key for found in document.faults] == [("a",)]


def test_pyyaml_itself_is_left_as_it_was():
    read_documents("a: 1e-5")
    assert yaml.safe_load("a: on") == {"a": True}
    assert yaml.safe_load("a: 012") == {"a": 10}


def test_places_are_those_of_keys_values_and_items():
    (document,), _ = read_documents("a: 1\nb:\n  - x\n  - {c: d}\n")
    assert document.keys == {("a",): (1, 1), ("b",): (2, 1), ("b", 1, "c"): (4, 6)}
    assert document.values[("b", 1, "c")] == (4, 9)
    assert document.values[("b", 0)] == (3, 5)
    assert document.values[()] == (1, 1)


def test_aliases_are_counted_each_time():
    anchored = f"a: &a [{'1, ' * 4_900}1]"
    (document,), _ = read_documents(f"{anchored}\nb: [*a, *a]")
    assert not document.faults
    (document,), _ = read_documents(f"{anchored}\nb: [*a, *a, *a, *a]")
    assert "aliases expanded" in document.faults[0].message


def refused(content: str | bytes) -> bool:
    with pytest.raises(BetFileError) as caught:
        parse_bets(content, Path("a.yaml"))
    for problem in caught.value.problems:
        assert problem.line >= 1
        assert problem.column >= 1
        head, *shown = str(problem).split("\n")
        assert printable(head) == head
        assert all(line.startswith(" ") for line in shown)
    return bool(caught.value.problems)


PIECES = [
    "id: a", "\n", "  ", "- ", "[", "]", "{", "}", ", ", ": ", "? ", "&a ", "*a", "!!str ", "!x ",
    "|\n", ">\n", "'", '"', "\\u", "\\x00", "#", "---\n", "...\n", "%YAML 1.2\n", "<<: ", "criteria:",
    " lenient: any(kl < 1)", "measure:", "model: reference", "intervention:", "skip_layers: 3", "~",
    "1e999", "\t", "\u2028", "\x85", "\ufeff", "arms:", "evidence:", "tokens: 1e3",
]  # fmt: skip


@given(st.binary(max_size=400))
@example(b"\xef\xbb\xbf")
@example(b"\xff\xfe\x00")
@example(b'"\\U00110000"')
@example(b"? ? ? ?")
@example(b"!<tag:%ff> x")
@example(b"%TAG ! tag:x\n--- !y z")
def test_no_bytes_raise_anything_but_a_bet_file_error(content):
    assert refused(content)


@given(st.text(max_size=300))
def test_no_text_raises_anything_but_a_bet_file_error(text):
    assert refused(text)


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_no_yaml_raises_anything_but_a_bet_file_error(text):
    assert refused(text)
