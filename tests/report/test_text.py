"""Strangers' words made harmless, columns lined up."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_layerguard.catalogue.wording import cut
from pytest_layerguard.report import text


@pytest.mark.parametrize(
    ("hostile", "harmless"),
    [
        ("\x1b[2Jgone", "\\u001b[2Jgone"),
        ("one\n::error::two", "one\\u000a::error::two"),
        ("abc\u202edef", "abc\\u202edef"),
        ("##[error]no", "## [error]no"),
        ("a\ud800b", "a\\ud800b"),
        ("café 日本", "café 日本"),
    ],
)
def test_what_moves_the_cursor_is_written_out(hostile: str, harmless: str) -> None:
    assert cut(hostile, 100) == harmless


@given(st.text())
def test_whatever_is_printed_stays_on_one_line_and_can_be_encoded(said: str) -> None:
    reported = cut(said, 40)
    assert not any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in reported)
    assert len(reported.splitlines()) <= 1
    reported.encode("utf-8")


@given(st.text())
def test_whatever_a_model_says_stays_on_one_line(said: str) -> None:
    reported = text.one_line(said, 40)
    assert not any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in reported)
    assert "\\u000a" not in reported or "\\u000a" in said


def test_a_line_break_of_a_model_is_a_sign_that_people_read() -> None:
    assert text.one_line("one\ntwo\r\n\x1b[2J", 100) == "one\u21b5two\u21b5\\u001b[2J"


def test_a_long_text_is_cut_and_says_so() -> None:
    assert cut("x" * 50, 10) == "x" * 10 + "..."


@pytest.mark.parametrize(
    ("width", "expected"), [(9, "日本語abc"), (8, "日本..."), (3, "..."), (2, ".."), (0, "")]
)
def test_clipping_counts_columns_not_characters(width: int, expected: str) -> None:
    assert text.clip("日本語abc", width) == expected


@given(st.text(), st.integers(0, 30))
def test_what_is_clipped_fits(said: str, width: int) -> None:
    assert text.columns(text.clip(said, width)) <= width


def test_columns_line_up_whatever_is_in_them() -> None:
    rows = [["bet", "n"], ["日本", "10"], ["e\u0301", "5"]]
    assert text.aligned(rows, frozenset({1})) == ["bet    n", "日本  10", "e\u0301      5"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.04, "0.0s"), (9.96, "10.0s"), (12.4, "12s"), (59.7, "60s"), (200, "3m 20s")],
)
def test_durations(value: float, expected: str) -> None:
    assert text.seconds(value) == expected


@pytest.mark.parametrize(
    ("path", "width", "expected"),
    [
        ("../models/stories260k", 30, "../models/stories260k"),
        ("../models/stories260k", 20, ".../stories260k"),
        ("../../data/models/stories260k/", 24, ".../models/stories260k"),
        ("../models/stories260k", 14, "stories260k"),
        ("../models/stories260k", 9, "storie..."),
        ("org/Some-Model-8B", 14, "Some-Model-8B"),
        ("reference-wide", 14, "reference-wide"),
    ],
)
def test_a_path_is_shortened_to_its_end(path: str, width: int, expected: str) -> None:
    assert text.clip_path(path, width) == expected
