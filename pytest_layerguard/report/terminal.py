"""What the terminal shows of a run: a header, and a table of every bet at the end, as lines."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_layerguard import __version__
from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.report import text

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
LONGEST_MODEL: Final = 1_000
"""Characters of a model's path that are looked at, to show its end."""
EXPENDABLE: Final = ("time", "done", "interval", "base", "unique", "model", "variant", "ratio")
"""Columns that a narrow terminal goes without, the first to go first."""


class Line(NamedTuple):
    """A line, and a word at its end that is marked up."""

    text: str
    word: str = ""
    markup: Mapping[str, bool] = {}


def header(device: str, models: str) -> Iterator[str]:
    """What a reader needs to know to compare this run with another; imports nothing heavy."""
    versions = ", ".join(f"{name} {_version(name)}" for name in ("torch", "transformers"))
    yield f"layerguard: {__version__}, device {device}, {versions}, {models}"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def markup(word: str, outcome: str) -> dict[str, bool]:
    """Green for what stands, red for what fails the build, yellow for what was not decided."""
    if outcome == "failed":
        return {"red": True}
    if outcome == "skipped" or word in {"INCONCLUSIVE", "SKIPPED"}:
        return {"yellow": True}
    return {"green": True}


def summary(bets: Sequence[BetReport], width: int) -> Iterator[Line]:
    """A table with one line per bet, no wider than `width` columns, and what is to be noted."""
    rows = [dict(zip(HEADINGS, HEADINGS, strict=True)), *(_row(told) for told in bets)]
    table = _fit(rows, width)
    yield Line(table[0])
    for line, told in zip(table[1:], bets, strict=True):
        word = told.entry["word"]
        yield Line(line.removesuffix(word), word, markup(word, told.entry["outcome"]))
    for told in bets:
        for note in told.notes:
            # The first line says what; the reports say the whole.
            first, _, further = note.partition("\n")
            shown = text.plain(first, 600) + (" ..." if further else "")
            yield Line(f"{told.entry['id']}: {shown}")


def _fit(rows: Sequence[Mapping[str, str]], width: int) -> list[str]:
    """Cut the elastic columns, then leave columns out, until the table is narrow enough.

    Bets that can be told apart come before columns: a table of beginnings tells nobody anything.
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


def _row(told: BetReport) -> dict[str, str]:
    entry = told.entry
    return {
        "bet": entry["id"],
        "model": text.plain(told.model, LONGEST_MODEL),
        "done": text.plain(told.intervention, LIMITS[0]),
        "base": _bases(told),
        "variant": _spread(told.points("perplexity")),
        "ratio": _spread(told.points("perplexity_ratio")),
        "interval": _interval(told),
        "unique": _spread(told.points("unique_tokens")),
        "time": "cached" if entry["cached"] else text.seconds(entry["seconds"]),
        "verdict": entry["word"],
    }


def _bases(told: BetReport) -> str:
    base = told.entry["base"]
    bases = [base] if base is not None else [each.get("base") for each in told.entry["variants"]]
    return _spread([float(each["perplexity"]) for each in bases if each and "perplexity" in each])


def _interval(told: BetReport) -> str:
    """The outermost ends of the ratio's intervals over the variants."""
    found = [each["metrics"].get("perplexity_ratio", {}) for each in told.entry["variants"]]
    ends = [float(ratio[end]) for ratio in found for end in ("low", "high") if end in ratio]
    return f"[{short(min(ends))}, {short(max(ends))}]" if ends else "-"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    low, high = short(min(values)), short(max(values))
    return low if low == high else f"{low}..{high}"
