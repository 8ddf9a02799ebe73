"""The lines of a run on the terminal: a header, and a table of the bets at the end that says what decided."""

from __future__ import annotations

import math
import textwrap
from importlib import metadata
from itertools import product
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_layerguard import __version__
from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.bet.errors import printable
from pytest_layerguard.catalogue.outcome import NEITHER
from pytest_layerguard.catalogue.wording import cut
from pytest_layerguard.report import failure, text, variant_table
from pytest_layerguard.report.words import lacks, why_skipped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_layerguard.bet.criteria.evaluate import Decider
    from pytest_layerguard.bet.criteria.interval import Interval
    from pytest_layerguard.report.bet_report import BetReport

_HEADINGS: Final = ("", "bet", "status", "word", "decided by", "bar")
_IDS: Final = (60, 30, 24, 20, 17, 14, 8)
"""Widths that ids are cut to, one after the other, until the table fits."""
_ROOMY: Final = 100
"""Columns from which on there are two spaces between the columns of the table."""
_READABLE: Final = 20
"""Columns that an id keeps for as long as what decided can be said in fewer words."""
_ENOUGH: Final = 24
"""Columns that show what decided with its interval; the status goes before these do."""
_LEAST: Final = 8
"""Columns that the cell on what decided is never cut below."""
_ATTEMPTS: Final = (
    (None, True),
    (_ENOUGH, True),
    (_ENOUGH, False),
    (_LEAST, True),
    (_LEAST, False),
)
"""What is tried until the table fits: columns for what decided, None for all that there is to say, and the status."""
_DIGITS: Final = range(3, 7)
"""How many digits a number with an interval may have."""
_ROWS: Final = 20
"""Rows that a table has before bets that came out alike share one."""
_NAMED: Final = 8
"""Bets that are named before one note; the others are counted."""


class Marks(NamedTuple):
    """The signs before a bet that is as expected, that failed, and that was not decided."""

    passed: str
    failed: str
    open: str

    @classmethod
    def of(cls, encoding: str | None) -> Marks:
        """Return the marks that an output in this encoding can show."""
        best, plain = cls("\u2713", "\u2717", "?"), cls("ok", "X", "?")
        try:
            "".join(best).encode(encoding or "ascii")
        except (LookupError, UnicodeEncodeError):
            return plain
        return best


class MarkedLine(NamedTuple):
    """A mark with its markup, and the text after it."""

    mark: str
    text: str
    markup: Mapping[str, bool] = {}


def header(device: str, models: Sequence[str] = ()) -> Iterator[str]:
    """Yield what a reader needs to compare this run with another; imports nothing heavy."""
    versions = (f"{name} {_version(name)}" for name in ("torch", "transformers"))
    yield f"layerguard: {', '.join([__version__, f'device {device}', *versions, *models])}"


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


def title(bets: Sequence[BetReport]) -> str:
    """Return how many bets came out how, and what that took: `bets: 19 as expected (96s, cpu, 0 kept)`."""
    passed = [bet for bet in bets if bet.outcome == "passed"]
    undecided = sum(bet.word == "INCONCLUSIVE" for bet in passed)
    counts = {
        "failed": sum(bet.failed for bet in bets),
        "as expected": len(passed) - undecided,
        "undecided": undecided,
        "not measured": sum(bet.outcome == "skipped" for bet in bets),
    }
    shown = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    measured = [bet for bet in bets if bet.result is not None]
    if not measured:
        return f"bets: {shown}"
    devices = dict.fromkeys(device for bet in measured for device in bet.devices)
    spent = text.seconds(sum(bet.seconds for bet in measured))
    kept = f"{sum(bet.cached for bet in measured)} kept"
    return f"bets: {shown} ({', '.join([spent, *devices, kept])})"


def summary(
    bets: Sequence[BetReport], width: int, marks: Marks, *, verbose: bool = False
) -> Iterator[MarkedLine]:
    """Yield a table of the bets that were judged, no wider than `width`, and below it what to note.

    What failed stands apart, at the end of the table. In a long table the bets that came out alike share a row. With
    `verbose` every bet has a row, its variants and published figures.
    """
    judged = sorted((bet for bet in bets if bet.outcome != "skipped"), key=lambda bet: bet.failed)
    few = verbose or len(judged) <= _ROWS
    rows = [[bet] for bet in judged] if few else _alike(judged)
    if rows:
        yield from _table(rows, width, marks)
        legend = "; ".join(_legend(rows, marks, verbose=verbose))
        yield from _wrapped(legend, width)
    yield from notes(bets, width, verbose=verbose)
    if verbose:
        for bet in bets:
            yield from (MarkedLine("", line) for line in _details(bet))


def _legend(rows: Sequence[Sequence[BetReport]], marks: Marks, *, verbose: bool) -> Iterator[str]:
    if any(len(alike) > 1 for alike in rows):
        yield "+N: so many more alike, farther from their bars (-v has all)"
    if not verbose and any(_undecided(alike[0]) for alike in rows):
        yield f"{marks.open} neither confirmed nor overturned (-v has how much more would decide)"
    if any(_all_kept(alike) for alike in rows):
        yield "* kept from an earlier run; --layerguard-fresh measures anew"


def notes(bets: Sequence[BetReport], width: int, *, verbose: bool = False) -> Iterator[MarkedLine]:
    """Yield what was not measured and for want of what, what was recorded, and what to look at.

    Remarks, which ask for nothing, and the names of all bets are for `verbose`.
    """
    if skipped := [bet for bet in bets if bet.outcome == "skipped"]:
        hint = "" if verbose else "; -v names them"
        yield from _wrapped(f"not measured: {', '.join(lacks(skipped))}{hint}", width)
    for bet in bets:
        if bet.recorded is not None:
            yield from _wrapped(f"recorded: {bet.id}: {bet.recorded}", width)
    noted: dict[str, list[str]] = {}
    for bet in bets:
        for note in (*bet.warnings, *(bet.remarks if verbose else ())):
            if note != NEITHER:  # The table has a row for each of them.
                noted.setdefault(note, []).append(bet.id)
    for note, ids in noted.items():
        # The first line says what it is about; the reports have the rest.
        first, _, further = note.partition("\n")
        text = cut(first, 600) + (" ..." if further else "")
        named = ids if verbose or len(ids) <= _NAMED else ids[: _NAMED - 1]
        more = f" and {len(ids) - len(named)} more" if len(named) < len(ids) else ""
        yield from _wrapped(f"noted: {', '.join(named)}{more}: {text}", width)


def _wrapped(line: str, width: int) -> Iterator[MarkedLine]:
    for each in textwrap.wrap(line, max(width, 20), subsequent_indent="  ", break_on_hyphens=False):
        yield MarkedLine("", each)


def _details(bet: BetReport) -> Iterator[str]:
    """Yield a paragraph on a bet: why it was skipped or what was measured, and what is published."""
    yield ""
    took = "kept" if bet.cached else text.seconds(bet.seconds)
    said = "not measured" if bet.outcome == "skipped" else f"{bet.word}, {took}"
    yield f"{bet.id} ({cut(bet.title, 100)}): {bet.intervention} on {bet.model}: {said}"
    details = [*why_skipped(bet)] if not bet.failed else []
    if bet.result is not None and not bet.failed:
        details = [*variant_table.lines(bet.result), *details]
    for detail in details:
        yield from (f"  {printable(line)}" for line in detail.split("\n"))


def _alike(judged: Sequence[BetReport]) -> list[list[BetReport]]:
    """Return the bets of each row, the one nearest to its bar first.

    Bets of the catalogue that are as expected share a row by status and word, undecided ones by file. A bet that
    failed, a proposal, and one whose verdict is not that of its record have a row of their own.
    """
    rows: dict[tuple[str, ...], list[BetReport]] = {}
    for bet in judged:
        key = (bet.file, bet.word) if _undecided(bet) else (bet.status, bet.word)
        alone = bet.failed or bet.changed or bet.status == "proposed"
        rows.setdefault((*key, bet.id) if alone else key, []).append(bet)
    return [sorted(alike, key=_margin) for alike in rows.values()]


def _undecided(bet: BetReport) -> bool:
    return bet.word == "INCONCLUSIVE" and not bet.failed


def _all_kept(alike: Sequence[BetReport]) -> bool:
    return all(bet.cached for bet in alike)


def _margin(bet: BetReport) -> float:
    return bet.decider.margin if bet.decider is not None else math.inf


def _table(
    together: Sequence[Sequence[BetReport]], width: int, marks: Marks
) -> Iterator[MarkedLine]:
    bets = [alike[0] for alike in together]
    rows = [_row(alike, marks) for alike in together]
    heading, *lines = _fit(rows, width)
    yield MarkedLine("", heading)
    apart = any(bet.failed for bet in bets) and not bets[0].failed
    for bet, row, line in zip(bets, rows, lines, strict=True):
        if bet.failed and apart:
            yield MarkedLine("", "")
            apart = False
        after = len(row.mark)
        yield MarkedLine(line[:after], line[after:], markup(bet.word, bet.outcome))


class _Row(NamedTuple):
    """The cells of a bet; `decided` is what decided in several forms, the longest first."""

    mark: str
    bet: str
    more: str
    status: str
    word: str
    decided: Sequence[str]
    bar: str


def _row(alike: Sequence[BetReport], marks: Marks) -> _Row:
    bet, count = alike[0], len(alike)
    mark = (
        marks.failed if bet.failed else marks.open if bet.word == "INCONCLUSIVE" else marks.passed
    )
    decider = bet.decider if failure.by_numbers(bet) else None
    forms, bar = (_decided(decider), decider.bar) if decider else (failure.reasons(bet), "")
    more = f" +{count - 1}" if count > 1 else ""
    return _Row(mark + "*" * _all_kept(alike), bet.id, more, bet.status, bet.word, forms, bar)


def _decided(decider: Decider) -> list[str]:
    """Return what was compared in several forms, the longest first."""
    name = decider.metric.rpartition(".")[2]
    ratio = name == "perplexity_ratio"
    number = decider.interval
    value, low, high = _figures(number, decider.bar)
    value += "x" * ratio
    what = value if ratio else f"{decider.metric} {value}"
    ends = "" if number.is_point else f" [{low}, {high}]"
    who = ", ".join(part for part in (decider.variant, decider.among) if part)
    few = decider.among or decider.variant
    forms = [
        f"{who} {what}{ends}",
        f"{few} {what}{ends}",
        f"{few} {value}{ends}",
        f"{value}{ends}",
        f"{few} {value}",
        value,
    ]
    return [printable(form).strip() for form in forms]


def _figures(number: Interval, bar: str) -> list[str]:
    """Return value, low and high end with three digits, or with more where three would make the ends equal."""
    digits = next(
        (more for more in _DIGITS if f"{number.low:.{more}g}" != f"{number.high:.{more}g}"),
        _DIGITS[0],
    )
    return [_figure(each, digits, bar) for each in (number.value, number.low, number.high)]


def _figure(value: float, digits: int, bar: str) -> str:
    """Return a number with as many digits, or with four where they would make it equal to the bar."""
    few = f"{value:.{digits}g}" if abs(value) < 1_000 else short(value)
    return short(value) if few in bar.split() else few


def _bar(row: _Row) -> str:
    return row.bar


def _short_bar(row: _Row) -> str:
    """Return the bar with `~` for the interval of one that was measured, and not whose it is."""
    number, measured, _ = row.bar.partition(" (")[0].partition(" [")
    return number.replace(" ", " ~") if measured else number


def _wanted(row: _Row) -> int:
    """Return the columns that show what decided with its interval, or the beginning of a reason."""
    columns = text.columns(row.decided[0])
    return max(_LEAST, columns if row.bar else min(columns, _ENOUGH))


def _fit(rows: Sequence[_Row], width: int) -> list[str]:
    """Return heading and lines: ids, the status and what decided are cut as little as the width allows.

    Bets that can be distinguished come before columns: a table of equal beginnings is of no use.
    """
    gap = 2 if width >= _ROOMY else 1
    for (enough, status), limit in product(_ATTEMPTS, _IDS):
        bar = _bar if enough is None else _short_bar
        ids = [text.clip_middle(row.bet, limit) for row in rows]
        if len(set(ids)) < len({row.bet for row in rows}) and limit != _IDS[-1]:
            continue
        ids = [id_ + row.more for id_, row in zip(ids, rows, strict=True)]
        names = [name for name in _HEADINGS if status or name != "status"]
        cells = [names] + [
            [row.mark, id_, *([row.status] if status else []), row.word, "", bar(row)]
            for row, id_ in zip(rows, ids, strict=True)
        ]
        at = names.index("decided by")
        cells[0][at] = ""
        room = width - max(map(text.columns, text.aligned(cells, gap=gap)))
        if enough is not None:
            wanted = enough
        elif limit >= _READABLE:
            wanted = max(map(_wanted, rows))
        else:
            continue
        if room >= wanted:
            break
    room = max(room, _LEAST)
    cells[0][at] = text.clip(_HEADINGS[4], room)
    for row, line in zip(rows, cells[1:], strict=True):
        fitting = (each for each in row.decided if text.columns(each) <= room)
        line[at] = next(fitting, text.clip(row.decided[-1], room))
    return text.aligned(cells, gap=gap)
