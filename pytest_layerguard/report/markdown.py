"""A run in Markdown: for a pull request, a step's summary, or any other place that reads it."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from pytest_layerguard.bet.errors import many
from pytest_layerguard.catalogue.wording import code, cut, literal
from pytest_layerguard.report import charts, failure, text
from pytest_layerguard.report.bet_report import OUTCOMES, by_urgency
from pytest_layerguard.report.words import meaning, metric_name, notes, task_changes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pytest_layerguard.report.bet_report import (
        BetReport,
        Criterion,
        PublishedEvidence,
        UnreadableFile,
    )

COMMENT: Final = 65_000
"""Bytes of a file: GitHub takes 65,536 characters as a comment."""
_ROOM: Final = 400
"""Bytes kept free for the note that something was left out."""
_SIGNS: Final = {"passed": "\u2705", "failed": "\u274c", "skipped": "\u23ed\ufe0f"}
_HEAD: Final = "|   | bet | on | word | what decided |\n|---|---|---|---|---|\n"
_CELL: Final = 220
_CONTINUATION: Final = 280
_LINES: Final = 16
_WIDTH: Final = 36
_TICKS: Final = re.compile("`+")
_NO_WIDTH: Final = "\u200b"
_CALLS: Final = re.compile(rf"@(?!{_NO_WIDTH})|\\#(?=\d)|(?<![\w/-])(?i:gh-)(?=\d)")


def render(
    bets: Sequence[BetReport],
    unreadable: Sequence[UnreadableFile],
    *,
    address: str | None = None,
    limit: int = COMMENT,
) -> str:
    """Return the run as Markdown, in no more than `limit` bytes.

    What fails the build comes first, so that the least important parts are left out if there is no
    room. `address` is the web address of the files of the repository, if it is known.
    """
    sheet = Sheet(limit)
    sheet.add(heading(bets, unreadable))
    add_failed(sheet, bets, unreadable, address)
    if any(bet.failed for bet in bets) and not all(bet.failed for bet in bets):
        sheet.add("### What did not fail\n")
    add_rest(sheet, bets, address)
    return sheet.text


def heading(bets: Sequence[BetReport], unreadable: Sequence[UnreadableFile]) -> str:
    """Return the heading, which counts the bets by their outcome."""
    return f"## layerguard: {_tally(bets, unreadable)}\n"


def add_failed(
    sheet: Sheet,
    bets: Sequence[BetReport],
    unreadable: Sequence[UnreadableFile],
    address: str | None,
) -> None:
    """Add what fails the build: files that could not be read, a table of bets, and each in full."""
    failed = [bet for bet in by_urgency(bets) if bet.failed]
    sheet.add(*_unreadable(unreadable, address))
    sheet.table([_row(bet, address) for bet in failed])
    for bet in failed:
        sheet.add("\n\n".join(_failure(bet, address)) + "\n\n")


def add_rest(sheet: Sheet, bets: Sequence[BetReport], address: str | None) -> None:
    """Add a table of the other bets, and each that was measured, folded."""
    rest = [bet for bet in by_urgency(bets) if not bet.failed]
    sheet.table([_row(bet, address) for bet in rest])
    for bet in rest:
        if bet.result is not None:
            sheet.add("\n\n".join(_folded(bet)) + "\n")


class Sheet:
    """Blocks of Markdown, as many as there is room for."""

    def __init__(self, limit: int) -> None:
        self._left = limit - _ROOM
        self._blocks: list[str] = []
        self._dropped = 0

    def add(self, *blocks: str) -> bool:
        """Add blocks, each whole or not at all; return whether all had room."""
        dropped = self._dropped
        for block in map(_silent, blocks):
            size = len(block.encode("utf-8", "replace")) + 1
            if size > self._left:
                self._dropped += 1
                continue
            self._left -= size
            self._blocks.append(block)
        return self._dropped == dropped

    def table(self, rows: Sequence[str]) -> None:
        """Add as many rows as fit in half of the room, which leaves the other half to details."""
        kept, room = "", self._left // 2
        for at, row in enumerate(map(_silent, rows)):
            if len((kept + row).encode("utf-8", "replace")) > room:
                self.add(f"{_HEAD}{kept}\n_and {len(rows) - at} more bets_\n")
                return
            kept += row
        if kept:
            self.add(_HEAD + kept)

    @property
    def text(self) -> str:
        """Every block that had room."""
        if self._dropped:
            parts = "part was" if self._dropped == 1 else "parts were"
            left_out = f"_{self._dropped} {parts} left out for want of room here._\n"
            return "\n".join([*self._blocks, left_out])
        return "\n".join(self._blocks)


def _silent(block: str) -> str:
    """Return the block with a space of no width in all that GitHub takes for a mention or a reference.

    It looks for them in what Markdown has come to, where a backslash before the sign is gone.
    """
    return _CALLS.sub(f"\\g<0>{_NO_WIDTH}", block)


def _tally(bets: Sequence[BetReport], unreadable: Sequence[UnreadableFile]) -> str:
    counts = Counter(bet.outcome for bet in bets)
    parts = []
    if unreadable:
        parts.append(f"{many(len(unreadable), 'file')} could not be read")
    parts += [f"{counts[each]} {each}" for each in OUTCOMES if counts[each]]
    return ", ".join(parts) or "no bets"


def _unreadable(unreadable: Sequence[UnreadableFile], address: str | None) -> Iterator[str]:
    for each in unreadable:
        first = next(each.faults())
        place = _place(each.file, first.line, address)
        yield f"### {_SIGNS['failed']} {place} could not be read\n\n{_fenced(each.text[:6_000])}\n"


def _row(bet: BetReport, address: str | None) -> str:
    title = literal(cut(bet.title or bet.id, 80))
    cells = (
        _SIGNS[bet.outcome],
        f"{_linked(literal(bet.id), bet.file, bet.line, address)}<br>{title}",
        literal(cut(bet.model, 60)),
        f"**{bet.word}**<br>{bet.status}",
        literal(cut(_decided(bet), _CELL)),
    )
    return _line(cells) + "\n"


def _decided(bet: BetReport) -> str:
    """Return what decided, in a line: the number and its bar, or the first message."""
    # It is not known whether a skipped bet stands in the door.
    if bet.doors and bet.outcome != "skipped":
        return "; ".join(f"closed by {door.id}: {door.claim}" for door in bet.doors)
    if bet.deciding is not None and bet.word == bet.verdict:
        return failure.brief(bet)
    lines = [line for message in bet.own_messages for line in message.splitlines() if line.strip()]
    return lines[0] if lines else ""


def _failure(bet: BetReport, address: str | None) -> Iterator[str]:
    """Yield the paragraphs on a bet that fails the build."""
    yield f"### {_SIGNS['failed']} {bet.id}: {bet.word}"
    title = literal(cut(bet.title, _CELL))
    yield f"{title}, {bet.status}, {_place(bet.file, bet.line, address)}"
    if bet.claim:
        yield f"> **Claim:** {literal(cut(bet.claim, 600))}"
    yield meaning(bet.status, bet.word, bet.outcome)
    if bet.own_messages:
        yield _fenced("\n".join(bet.own_messages)[:6_000])
    for door in bet.doors:
        closed_by = _linked(literal(door.id), door.file, door.line, address)
        yield f"**{closed_by} closed this door.** Its claim failed: {literal(door.claim[:600])}"
        lines = (*door.numbers, f"you stand in it with: {door.standing}", door.instead)
        yield "\n".join(f"- {literal(line[:600])}" for line in lines if line)
    yield from _details(bet)


def _folded(bet: BetReport) -> Iterator[str]:
    """Yield the paragraphs on any other bet, folded until a click."""
    yield f"<details><summary>{_SIGNS[bet.outcome]} {bet.id}: {bet.word}</summary>"
    if bet.claim:
        yield f"> **Claim:** {literal(cut(bet.claim, 600))}"
    yield from _details(bet)
    yield "</details>"


def _details(bet: BetReport) -> Iterator[str]:
    judged = [each for each in bet.criteria if each.truth]
    if judged:
        yield _table(("bar", "as written", "as measured"), map(_criterion, judged))
    for metric in bet.metrics[:2]:
        figure = charts.bar_chart(bet, metric)
        if figure is not None:
            yield _fenced("\n".join(drawn(figure)))
    for candidate in bet.candidates:
        yield "\n".join(f"- {literal(line)}" for line in candidate.lines())
    changes = list(task_changes(bet.shown_variants))
    if changes:
        yield "\n".join(f"- {literal(line)}" for line in changes)
    yield from map(literal, notes(bet.variants))
    yield from _continuations(bet)
    for note in (*bet.warnings, *bet.remarks):
        yield f"**Note:** {literal(cut(note, 600))}"
    yield from _evidence(bet.evidence)


def _criterion(criterion: Criterion) -> tuple[str, str, str]:
    level = f"**{criterion.level}**" if criterion.decided else criterion.level
    return level, literal(criterion.written[:300]), literal((criterion.filled or "")[:400])


def _table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = "|" + "---|" * len(heading)
    return "\n".join([_line(heading), rule, *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def drawn(figure: charts.BarChart) -> Iterator[str]:
    """Yield a figure as text: a bar for each variant, crossed by the thresholds."""
    scale = "log scale, " if figure.log else ""
    yield f"{figure.title} ({scale}{figure.note})"
    rows = figure.rows[:_LINES]
    cells = []
    for row in rows:
        line = [" "] * _WIDTH
        first, last = _letter(row.start), _letter(row.start + row.width)
        line[first : last + 1] = "\u2588" * (last + 1 - first)
        for mark in row.marks:
            at = _letter(mark.at)
            line[at] = "\u2506" if mark.level == "catastrophic" else "\u2502"
        name = " ".join(part for part in (row.group, row.label) if part)
        interval = f"[{row.interval}]" if row.interval else ""
        cells.append((cut(name, 40), "".join(line), row.value, interval))
    yield from text.aligned(cells, frozenset({2}))
    if len(figure.rows) + figure.more > len(rows):
        yield f"and {len(figure.rows) + figure.more - len(rows)} more variants"
    if figure.marks:
        yield "bars, from left to right: " + ", ".join(mark.label for mark in figure.marks)


def _letter(per_cent: float) -> int:
    return min(_WIDTH - 1, max(0, round(per_cent / 100 * (_WIDTH - 1))))


def _continuations(bet: BetReport) -> Iterator[str]:
    for field, until in (("samples", ""), ("generated", ", until the end of text")):
        sampled = [each for each in bet.shown_variants if getattr(each, field)][:2]
        base = next((base for base in bet.bases if getattr(base, field)), None)
        if base is None or not sampled:
            continue
        first = [getattr(each, field)[0] for each in (base, *sampled)]
        yield f"What the model says after {code(cut(first[0].prompt, 120))}{until}:"
        texts = (each.text.replace("\n", f" {text.LINE_END} ") for each in first)
        names = ["before", *(literal(each.name) for each in sampled)]
        yield _table(names, [[literal(cut(each, _CONTINUATION)) for each in texts]])


def _evidence(evidence: Iterable[PublishedEvidence]) -> Iterator[str]:
    for each in evidence:
        figures = "; ".join(
            f"{name} "
            + ", ".join(f"{metric_name(metric)} {value:.6g}" for metric, value in values.items())
            for name, values in islice(each.figures.items(), _LINES)
        )
        parts = (each.source, each.model, each.verdict, figures, each.note)
        cited = literal(cut(". ".join(part for part in parts if part), 900))
        yield f"_Published, not measured here:_ {cited}"


def _place(file: str, line: int, address: str | None) -> str:
    return _linked(code(cut(f"{file}:{line}", 300)), file, line, address)


def _linked(label: str, file: str, line: int, address: str | None) -> str:
    """Return a link to a line of a file, if an address of the file is known."""
    if address is None or file.startswith("/"):
        return label
    return f"[{label}]({address}/{quote(file)}#L{line})"


def _fenced(lines: str) -> str:
    """Return lines as a code block that no line of it can end."""
    lines = text.block(lines, len(lines))
    fence = "`" * max(3, *(len(run) + 1 for run in _TICKS.findall(lines)), 3)
    return f"{fence}text\n{lines}\n{fence}"
