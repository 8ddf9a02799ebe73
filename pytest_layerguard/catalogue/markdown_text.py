"""Strangers' text in Markdown: shown as it was written, and never obeyed."""

from __future__ import annotations

import re
from typing import Final

from pytest_layerguard.bet.errors import printable

_SIGNS: Final = re.compile(r"([\\`*_{}\[\]<>#|~&@$!])")
_ADDRESS: Final = re.compile(r"(?i)(:)(?=//)|(?<=\bwww)(\.)")
_TICKS: Final = re.compile("`+")


def literal(text: str) -> str:
    """Return text on one line that Markdown shows letter by letter: no link, image, HTML or mention."""
    escaped = _SIGNS.sub(r"\\\1", printable(text))
    return _ADDRESS.sub(lambda match: f"\\{match[0]}", escaped)


def code(text: str) -> str:
    """Return text as a code span, whatever backticks it has."""
    plain = printable(text) or " "
    fence = "`" * (max((len(run) for run in _TICKS.findall(plain)), default=0) + 1)
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{plain}{space}{fence}"
