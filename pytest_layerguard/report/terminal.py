"""The lines of a run on the terminal: a header, and a table of every bet at the end."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_layerguard import __version__
from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.catalogue.wording import cut
from pytest_layerguard.report import text
from pytest_layerguard.report.words import why_skipped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_layerguard.report.bet_report import BetReport

HEADINGS: Final = (
    "bet", "model", "done", "base", "variant", "ratio", "interval", "unique", "time", "verdict",
)  # fmt: skip
NUMBERS: Final = frozenset({"base", "variant", "ratio", "unique", "time"})
ELASTIC: Final = frozenset({"bet", "model", "done"})
LIMITS: Final = (60, 30, 20, 14)
"""Widths that the elastic columns are cut to, one after the other, until the table fits."""
EXPENDABLE: Final = ("time", "done", "interval", "base", "unique", "model", "variant", "ratio")
"""Columns that a narrow terminal goes without, the first to go first."""


class MarkedLine(NamedTuple):
    """A line, and a word at its end that is marked up."""

    text: str
    word: str = ""
    markup: Mapping[str, bool] = {}


def header(device: str, models: str) -> Iterator[str]:
    """Yield what a reader needs to compare this run with another; imports nothing heavy."""
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", "transformers"))
    yield f"layerguard: {__version__}, device {device}, {versions}, {models}"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def markup(word: str, outcome: str) -> dict[str, bool]:
    """Return green for what stands, red for what fails the build, yellow for what was not decided."""
    if outcome == "failed":
        return {"red": True}
    if outcome == "skipped" or word in {"INCONCLUSIVE", "SKIPPED"}:
        return {"yellow": True}
    return {"green": True}


def summary(bets: Sequence[BetReport], width: int) -> Iterator[MarkedLine]:
    """Yield a table with a line for each bet, no wider than `width` columns, and notes below it."""
    rows = [dict(zip(HEADINGS, HEADINGS, strict=True)), *(_row(bet) for bet in bets)]
    table = _fit(rows, width)
    yield MarkedLine(table[0])
    for line, bet in zip(table[1:], bets, strict=True):
        yield MarkedLine(line.removesuffix(bet.word), bet.word, markup(bet.word, bet.outcome))
    for bet in bets:
        for note in [*bet.warnings, *(why_skipped(bet) if bet.word == "SKIPPED" else ())]:
            # The first line says what it is about; the reports have the rest.
            first, _, further = note.partition("\n")
            shown = cut(first, 600) + (" ..." if further else "")
            yield MarkedLine(f"{bet.id}: {shown}")


def _fit(rows: Sequence[Mapping[str, str]], width: int) -> list[str]:
    """Cut the elastic columns, then leave columns out, until the table is narrow enough.

    Bets that can be distinguished come before columns: a table of equal beginnings is of no use.
    """
    lines: list[str] = []
    alike: list[str] = []
    for gone in range(len(EXPENDABLE) + 1):
        kept = [name for name in HEADINGS if name not in EXPENDABLE[:gone]]
        numbers = frozenset(at for at, name in enumerate(kept) if name in NUMBERS)
        for limit in LIMITS:
            cells = [
                [
                    _clipped(name, row[name], limit) if name in ELASTIC else row[name]
                    for name in kept
                ]
                for row in rows
            ]
            lines = text.aligned(cells, numbers)
            if max(map(text.columns, lines)) > width:
                continue
            if len({row[0] for row in cells}) == len({row["bet"] for row in rows}):
                return lines
            alike = alike or lines
    return alike or lines


def _clipped(heading: str, cell: str, limit: int) -> str:
    return text.clip_path(cell, limit) if heading == "model" else text.clip(cell, limit)


def _row(bet: BetReport) -> dict[str, str]:
    ratios = [
        each.metrics["perplexity_ratio"]
        for each in bet.variants
        if "perplexity_ratio" in each.metrics
    ]
    ends = [end for each in ratios if not each.is_point for end in (each.low, each.high)]
    return {
        "bet": bet.id,
        "model": bet.model,
        "done": bet.intervention,
        "base": _spread(
            [each.metrics["perplexity"].value for each in bet.bases if "perplexity" in each.metrics]
        ),
        "variant": _spread(bet.points("perplexity")),
        "ratio": _spread(bet.points("perplexity_ratio")),
        # The outermost ends over the variants.
        "interval": f"[{short(min(ends))}, {short(max(ends))}]" if ends else "-",
        "unique": _spread(bet.points("unique_tokens")),
        "time": "cached" if bet.cached else text.seconds(bet.seconds),
        "verdict": bet.word,
    }


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    low, high = short(min(values)), short(max(values))
    return low if low == high else f"{low}..{high}"
