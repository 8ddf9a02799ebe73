"""Every number of a measurement as one table: base and variants by metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.report import text, words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_layerguard.measurement.results import BaseResult, BetResult, VariantResult

_FIRST: Final = ("perplexity", "perplexity_ratio", "kl", "swap_kl", "unique_tokens")
"""Metrics that come first; the others follow in their own order."""
_IN_TEXT: Final = 40
"""Variants of a table in text; the JSON report has all."""


@dataclass(frozen=True)
class VariantTable:
    """Columns by metric, a row for each base and variant; `more` variants were left out."""

    columns: tuple[str, ...]
    rows: tuple[BaseResult | VariantResult, ...]
    more: int


def variant_table(result: BetResult, limit: int) -> VariantTable:
    """Return bases and variants with all their metrics, `limit` variants at most."""
    rows: list[BaseResult | VariantResult] = [*result.bases, *result.variants]
    names = dict.fromkeys(name for each in rows for name in each.metrics)
    # A base's metric stands in the row of the base.
    names = {name: None for name in names if (own := _of_variant(name)) == name or own not in names}
    columns: list[str] = [name for name in _FIRST if name in names]
    columns += [name for name in names if name not in columns]
    shown = rows[: len(result.bases) + limit]
    return VariantTable(tuple(columns), tuple(shown), len(rows) - len(shown))


def _of_variant(metric: str) -> str:
    """Return ``task.accuracy`` of ``task.base_accuracy``: the name without what marks the base's."""
    task, dot, name = metric.rpartition(".")
    return f"{task}{dot}{name.removeprefix('base_')}"


def lines(result: BetResult) -> Iterator[str]:
    """Yield the table as text, each metric with its interval, and notes below it."""
    table = variant_table(result, _IN_TEXT)
    rows = [["", *(name.replace("_", " ") for name in table.columns)]]
    for each in table.rows:
        cells = (each.metrics.get(name, "-") for name in table.columns)
        rows.append([words.name_of(each), *map(str, cells)])
    yield from text.aligned(rows)
    if table.more:
        yield f"and {table.more} more variants, see --layerguard-json"
    yield from words.task_changes(result.variants[:_IN_TEXT])
    yield from words.notes(result.variants)
    yield words.how_measured(result)
