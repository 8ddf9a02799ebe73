"""The numbers of a measurement as tidy rows: one for each variant, text, checkpoint and metric."""

from __future__ import annotations

import io
from csv import DictWriter
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_layerguard.measurement.results import BetResult, VariantResult
    from pytest_layerguard.report.bet_report import BetReport

COLUMNS: Final = (
    "bet", "arm", "variant", "target", "text", "checkpoint", "metric", "value", "low", "high",
)  # fmt: skip


def target_of(variant: VariantResult) -> int | str | None:
    """Return what a variant touches: a number where it is one layer."""
    return int(variant.target) if variant.target.isdecimal() else variant.target or None


def rows(bet: str, result: BetResult) -> Iterator[dict[str, Any]]:
    """Yield a row for each variant, text, checkpoint and metric."""
    for each in result.variants:
        for metric, number in each.metrics.items():
            cells = (
                *(bet, each.arm, each.name, target_of(each), each.text, each.checkpoint, metric),
                *(number.value, number.low, number.high),
            )
            yield dict(zip(COLUMNS, cells, strict=True))


def csv(bets: Sequence[BetReport]) -> str:
    """Return what `--layerguard-csv` writes, bets in the order of their files and lines."""
    from pytest_layerguard.report.bet_report import by_place

    out = io.StringIO()
    writer = DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for bet in by_place(bets):
        if bet.result is not None:
            writer.writerows(rows(bet.id, bet.result))
    return out.getvalue()
