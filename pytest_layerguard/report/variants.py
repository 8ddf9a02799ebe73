"""How variants are named, and what was noted of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_layerguard.report import text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_layerguard.measurement.results import BaseResult, VariantResult

_NAMED: Final = 4
"""Variants that are named before one note; the others are counted."""
_LENGTH: Final = 600


def name_of(result: BaseResult | VariantResult) -> str:
    """A base or a variant, with its text and checkpoint where there are several."""
    parts = [getattr(result, "name", "base"), result.text, result.checkpoint]
    return ", ".join(text.plain(part, 60) for part in parts if part is not None)


def notes(variants: Sequence[VariantResult]) -> Iterator[str]:
    """Yield each note once, after the names of the variants that have it."""
    noted: dict[str, list[str]] = {}
    for variant in variants:
        if variant.note:
            noted.setdefault(variant.note, []).append(name_of(variant))
    for note, names in noted.items():
        left = len(names) - _NAMED
        # "and 1 more" would be no shorter than the name.
        told = ", ".join(names if left <= 1 else names[:_NAMED])
        more = f" and {left} more" if left > 1 else ""
        yield f"{told}{more}: {text.plain(note, _LENGTH)}"
