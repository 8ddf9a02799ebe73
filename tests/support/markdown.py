"""The fenced blocks of a page, and what is to be done with each.

A comment right above a block says what it is: `<!-- file: PATH -->` is written to that path,
`<!-- edit: PATH -->` above a diff replaces its `-` lines by its `+` lines, `<!-- says -->` holds lines
that the last command must have printed (`...` stands for anything), `<!-- example: PATH -->` is a file
of the example package, and `<!-- not run: WHY -->` is only looked at. `sh` and `python` blocks are
otherwise run, in order, in one folder for each page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[a-z ]+?)(?:: (?P<reported>[^\n]*?))? -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block: its language, its text, and the comment above it."""

    page: Path
    line: int
    language: str
    text: str
    mark: str
    reported: str

    @property
    def place(self) -> str:
        """Where it stands."""
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        indent = found["indent"]
        inner = "".join(row.removeprefix(indent) for row in found["text"].splitlines(True))
        yield Block(
            page, line, found["language"], inner, found["mark"] or "", found["reported"] or ""
        )
