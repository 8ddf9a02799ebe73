"""Published figures, always told apart from what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.report import text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_layerguard.bet.bet import Evidence

LENGTH: Final = 1000
"""Characters of one piece of evidence that are shown at the most."""


def published(evidence: Sequence[Evidence]) -> Iterator[str]:
    """One line for each piece of evidence."""
    for each in evidence:
        yield f"published, not measured here: {text.plain(cited(each), LENGTH)}"


def cited(evidence: Evidence) -> str:
    """Source, model, verdict and figures, as the bet file has them."""
    figures = {"base": evidence.base or {}, **(evidence.variants or {})}
    told = "; ".join(
        f"{name} " + ", ".join(f"{metric} {short(value)}" for metric, value in each.items())
        for name, each in figures.items()
        if each
    )
    where = f"{evidence.source} ({evidence.model})" if evidence.model else evidence.source
    return ": ".join(part for part in (where, evidence.verdict, told, evidence.note) if part)
