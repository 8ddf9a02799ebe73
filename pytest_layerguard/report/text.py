"""Text for people: untrusted text made harmless, numbers made short, columns lined up."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.errors import printable
from pytest_layerguard.catalogue.wording import cut

if TYPE_CHECKING:
    from collections.abc import Sequence

CUT: Final = "..."
LINE_END: Final = "\u21b5"
"""Stands for a line break where there must be none."""


def one_line(text: str, limit: int) -> str:
    """Make a continuation safe as `cut` does, with a sign in place of each line break."""
    return cut(text.replace("\r\n", "\n").replace("\n", LINE_END), limit)


def block(text: str, limit: int) -> str:
    """Make text safe as `cut` does, but keep its line breaks."""
    lines = text[:limit].replace("\r\n", "\n").split("\n")
    return "\n".join(map(printable, lines)) + (CUT if len(text) > limit else "")


def columns(text: str) -> int:
    """Return the columns that the text takes on a terminal: two for a wide character, none for an accent."""
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def clip(text: str, width: int) -> str:
    """Shorten text to at most `width` columns, with dots where something was cut."""
    if columns(text) <= width:
        return text
    kept = ""
    for char in text:
        if columns(kept + char) > width - len(CUT):
            break
        kept += char
    return (kept + CUT)[:width] if width < len(CUT) else kept + CUT


def clip_middle(text: str, width: int) -> str:
    """Shorten text to at most `width` columns in its middle: names that begin alike often end otherwise."""
    if columns(text) <= width or width <= 2 * len(CUT):
        return clip(text, width)
    kept = width - len(CUT)
    # From characters of one column each, as all names of bets are.
    return f"{text[: kept - kept // 2]}{CUT}{text[len(text) - kept // 2 :]}"


def clip_path(path: str, width: int) -> str:
    """Shorten a path or a name of the hub to its last parts: they show which one it is."""
    if columns(path) <= width:
        return path
    parts = path.rstrip("/").split("/")
    for at in range(1, len(parts)):
        kept = "/".join([CUT, *parts[at:]])
        if columns(kept) <= width:
            return kept
    return clip(parts[-1], width)


def seconds(value: float) -> str:
    """Return a duration as people write it: `0.4s`, `12s`, `3m 20s`."""
    if value < 10:
        return f"{value:.1f}s"
    if value < 60:
        return f"{value:.0f}s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes}m {rest:02d}s"


def aligned(
    rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset(), gap: int = 2
) -> list[str]:
    """Line up rows of cells, `gap` spaces between columns; the columns in `right` to the right."""
    widths = [max(columns(row[at]) for row in rows) for at in range(len(rows[0]))] if rows else []
    lines = []
    for row in rows:
        cells = [
            " " * (width - columns(cell)) + cell
            if at in right
            else cell + " " * (width - columns(cell))
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((" " * gap).join(cells).rstrip())
    return lines
