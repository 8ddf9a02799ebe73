"""JSON that people review: one line where a line is enough, ASCII only, no number that JSON lacks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

_WIDTH: Final = 100


def laid_out(value: object) -> str:
    """Return the value as JSON with a line break at the end.

    What is short, or a list of plain values, stands on one line, so that a diff shows a metric and
    not its braces. Raises ValueError for NaN and infinity.
    """
    return _laid_out(value, 0, 0) + "\n"


def _laid_out(value: object, indent: int, taken: int) -> str:
    line = json.dumps(value, allow_nan=False)
    if not isinstance(value, Mapping | list | tuple) or not value:
        return line
    if indent and (indent + taken + len(line) < _WIDTH or _is_plain(value)):
        return line
    deeper = indent + 1
    if isinstance(value, Mapping):
        keys = [f"{json.dumps(str(key))}: " for key in value]
        parts = [
            f"{key}{_laid_out(each, deeper, len(key))}"
            for key, each in zip(keys, value.values(), strict=True)
        ]
        opening, closing = "{", "}"
    else:
        parts = [_laid_out(each, deeper, 0) for each in value]
        opening, closing = "[", "]"
    inner = f",\n{' ' * deeper}".join(parts)
    return f"{opening}\n{' ' * deeper}{inner}\n{' ' * indent}{closing}"


def _is_plain(value: Mapping[Any, Any] | Sequence[Any]) -> bool:
    return isinstance(value, list | tuple) and not any(
        isinstance(each, Mapping | list | tuple) for each in value
    )


def read_strictly(text: str) -> Any:
    """Return what JSON says; raises ValueError for duplicate keys, NaN, infinity and deep nesting."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refused)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"has the key {twice!r} twice")
    return found


def _refused(constant: str) -> Any:
    raise ValueError(f"has the number {constant}, which JSON lacks")
