"""Where a measurement comes from, as names and values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.report import text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_layerguard.measurement.results import BetResult

FACTS: Final = 120


def facts(result: BetResult | None) -> Iterator[tuple[str, str]]:
    """Yield what a measurement was made with, and what it noted, by name."""
    if result is None:
        return
    several = len(result.provenance.get("checkpoints", ())) > 1
    found: list[tuple[str, str]] = []
    for key, value in result.provenance.items():
        if key == "checkpoints" and isinstance(value, list | tuple):
            for made in value:
                prefix = f"{made.get('checkpoint')}: " if several else ""
                found += [(prefix + name, said) for name, said in _flat("", made)]
        else:
            found += _flat(key, value)
    for key, value in result.diagnostics.items():
        found += _flat(key, value)
    for name, said in found[:FACTS]:
        yield text.plain(name, 80), text.plain(said, 300)


def _flat(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested data with their dotted names; what is not there is left out."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _flat(f"{key} {name}".strip().replace("_", " "), each)
    elif isinstance(value, list | tuple):
        for at, each in enumerate(value):
            yield from _flat(f"{key} {at}" if len(value) > 1 else key, each)
    elif value is not None:
        number = isinstance(value, float) and math.isfinite(value)
        yield key, short(value) if number else str(value)
