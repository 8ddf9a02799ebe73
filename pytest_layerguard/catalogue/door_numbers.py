"""The numbers that closed a door: measured ones first, published ones labelled as such."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.bet.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_layerguard.bet.bet import Evidence
    from pytest_layerguard.catalogue.bet_folders import Entry
    from pytest_layerguard.catalogue.records import Record

_LONGEST: Final = 400
_VARIANTS: Final = 6


def numbers(entry: Entry) -> Iterator[str]:
    """Yield lines with what decided a bet, or with what was published, or with that there is neither."""
    bet, record = entry.document.bet, entry.record
    if record is not None:
        yield f"its record: {measured(record)}"
    elif bet.evidence:
        for each in bet.evidence:
            yield f"its evidence (published, not measured here): {published(each)}"
    else:
        yield "it has neither a record nor evidence"


def measured(record: Record) -> str:
    """Return the verdict of a record with the criterion that decided, numbers filled in."""
    judgement = record.judgement
    ground = f"on {record.result.tokens:,} tokens"
    if record.result.descriptive:
        ground += ", descriptive"
    return cut(f"{record.verdict}: {judgement.deciding.filled} ({ground})")


def published(evidence: Evidence) -> str:
    """Return published figures in one line."""
    told = evidence.source if evidence.model is None else f"{evidence.source}, {evidence.model}"
    parts = [told] if evidence.verdict is None else [f"{told}: {evidence.verdict}"]
    if evidence.base:
        parts.append(f"base {_figures(evidence.base)}")
    variants = list((evidence.variants or {}).items())
    parts.extend(f"{name} {_figures(figures)}" for name, figures in variants[:_VARIANTS])
    if len(variants) > _VARIANTS:
        parts.append(f"and {len(variants) - _VARIANTS} more")
    return cut("; ".join(parts))


def cut(text: str) -> str:
    """Return a stranger's text on one line, harmless and not too long."""
    whole = printable(text)
    return whole if len(whole) <= _LONGEST else f"{whole[:_LONGEST]}..."


def _figures(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {short(value)}" for name, value in figures.items())
