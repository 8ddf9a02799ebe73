"""Every number of a bet as one table, for whoever draws it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.report.charts.marks import between

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_layerguard.bet.criteria.interval import Interval
    from pytest_layerguard.measurement.results import BaseResult, BetResult, VariantResult

FIRST: Final = ("perplexity", "perplexity_ratio", "kl", "swap_kl", "unique_tokens")


@dataclass(frozen=True)
class Cell:
    """A number and its interval as people write them."""

    value: str
    interval: str | None = None


@dataclass(frozen=True)
class Line:
    """A base or a variant; a cell is None where a metric was not measured."""

    name: str
    where: str
    base: bool
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Table:
    """Columns by metric, a line for each base and variant; `more` lines were left out."""

    columns: tuple[str, ...]
    lines: tuple[Line, ...]
    more: int


def table(result: BetResult, limit: int) -> Table:
    """Return bases and variants with all their metrics, `limit` variants at the most."""
    everyone: list[BaseResult | VariantResult] = [*result.bases, *result.variants]
    names = dict.fromkeys(name for each in everyone for name in each.metrics)
    columns: list[str] = [name for name in FIRST if name in names]
    # What a base has is in its own line.
    columns += [
        name
        for name in names
        if name not in columns and not (name.startswith("base_") and name[5:] in names)
    ]
    lines = [_line("base", base, columns, base=True) for base in result.bases]
    lines += [
        _line(variant.name, variant, columns, base=False) for variant in result.variants[:limit]
    ]
    return Table(tuple(columns), tuple(lines), max(0, len(result.variants) - limit))


def _line(
    name: str, each: BaseResult | VariantResult, columns: Sequence[str], *, base: bool
) -> Line:
    return Line(name, where(each), base, tuple(_cell(each.metrics, column) for column in columns))


def where(each: BaseResult | VariantResult) -> str:
    """Arm, text and checkpoint of a measurement, as far as the bet has several."""
    parts = (getattr(each, "arm", None), each.text, each.checkpoint)
    return " \u00b7 ".join(part for part in parts if part is not None)


def where_and_name(variant: VariantResult) -> str:
    """A variant with its arm, text and checkpoint."""
    return " \u00b7 ".join(part for part in (where(variant), variant.name) if part)


def _cell(metrics: Mapping[str, Interval], column: str) -> Cell | None:
    interval = metrics.get(column)
    if interval is None:
        return None
    return Cell(short(interval.value), between(interval))
