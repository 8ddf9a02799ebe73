"""Errors in a bet file, with line, column and excerpt, and helpers for messages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_WIDEST_EXCERPT: Final = 100
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufff9-\ufffb]"
)


def printable(text: str) -> str:
    """Return text on one line, with everything escaped that a terminal or a CI runner would execute."""
    escaped = _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text.replace("\t", " "))
    # GitHub's runner obeys this older form of a workflow command anywhere in a line.
    return escaped.replace("##[", "## [")


def many(count: int, what: str) -> str:
    """Return a count with its noun: ``1 bet``, ``2 bets``, ``1,000 bets``."""
    return f"{count:,} {what}" + ("s" if count != 1 else "")


def listed(words: Iterable[str]) -> str:
    """Return words in a sentence, each once: ``a, b and c``."""
    unique = list(dict.fromkeys(words))
    return " and ".join([", ".join(unique[:-1]), unique[-1]] if unique[1:] else unique)


def suggestion(word: object, allowed: Iterable[str]) -> str:
    """Return ", did you mean 'x'?" for a misspelt word, or the empty string."""
    close = closest(word, allowed)
    return f", did you mean '{close[0]}'?" if close else ""


def closest(word: object, allowed: Iterable[str]) -> list[str]:
    """Return the allowed word closest to a misspelt one, in a list that is empty if none is close."""
    if not isinstance(word, str):
        return []
    return get_close_matches(word[:100], list(allowed), n=1, cutoff=0.6)


def excerpt(line_text: str, line: int, column: int) -> str:
    """Return a line, cut to a readable width, and a caret under the 1-based column."""
    start = max(0, column - 1 - _WIDEST_EXCERPT // 2) if len(line_text) > _WIDEST_EXCERPT else 0
    before = printable(line_text[start : column - 1])
    after = printable(line_text[column - 1 : start + _WIDEST_EXCERPT])
    lead = "..." if start else ""
    tail = "..." if len(line_text) > start + _WIDEST_EXCERPT else ""
    gutter = f"{line:>5} | "
    caret = " " * (len(gutter) - 2) + "| " + " " * (len(lead) + len(before)) + "^"
    return f"{gutter}{lead}{before}{after}{tail}\n{caret}"


@dataclass(frozen=True)
class Problem:
    """One error with its place, whose path is None for a mapping in Python. Line and column count from 1."""

    path: Path | None
    line: int
    column: int
    key: str
    message: str
    excerpt: str = ""

    def __str__(self) -> str:
        """Return ``path:line:column: key.path: what is wrong; what is allowed``, the line and a caret."""
        key = f"{printable(self.key)}: " if self.key else ""
        place = (
            "the mapping"
            if self.path is None
            else f"{printable(str(self.path))}:{self.line}:{self.column}"
        )
        head = f"{place}: {key}{printable(self.message)}"
        return f"{head}\n{self.excerpt}" if self.excerpt else head


class BetFileError(Exception):
    """An invalid bet file, with every error in it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        """Return every problem, one after the other."""
        return "\n".join(str(problem) for problem in self.problems)
