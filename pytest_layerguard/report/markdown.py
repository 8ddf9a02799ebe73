"""A run in Markdown: for a pull request, a step's summary, or any other place that reads it."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from pytest_layerguard.catalogue.wording import code, literal
from pytest_layerguard.report import charts, text
from pytest_layerguard.report.variants import notes
from pytest_layerguard.report.words import meaning, outranks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from pytest_layerguard.report.bet_report import BetReport
    from pytest_layerguard.report.refused import Refused
    from pytest_layerguard.report.story import Criterion, Published

COMMENT: Final = 65_000
"""Bytes of a file: GitHub takes 65,536 characters as a comment."""
_ROOM: Final = 400
"""Bytes kept free for what says that something was left out."""
_SIGNS: Final = {"passed": "\u2705", "failed": "\u274c", "skipped": "\u23ed\ufe0f"}
_HEAD: Final = "|   | bet | on | word | what decided |\n|---|---|---|---|---|\n"
_CELL: Final = 220
_SAID: Final = 280
_LINES: Final = 16
_WIDTH: Final = 36
_TICKS: Final = re.compile("`+")


def render(
    bets: Sequence[BetReport], refused: Sequence[Refused], *, address: str | None = None, limit: int
) -> str:
    """Return the run as Markdown, in no more than `limit` bytes.

    What fails the build comes first, so that what is left out for want of room is what matters
    least. `address` is where the files of the repository can be seen, if that is known.
    """
    ranked = sorted(bets, key=outranks)
    blocks = [f"## layerguard: {_tally(bets, refused)}\n", *_refused(refused, address)]
    sheet = _Sheet(limit)
    sheet.add(*blocks)
    failed = [told for told in ranked if told.entry["outcome"] == "failed"]
    rest = [told for told in ranked if told.entry["outcome"] != "failed"]
    sheet.table([_row(told, address) for told in failed])
    for told in failed:
        sheet.add("\n".join(_failure(told, address)) + "\n")
    if failed and rest:
        sheet.add("### What did not fail\n")
    sheet.table([_row(told, address) for told in rest])
    for told in rest:
        if told.story.result is not None:
            sheet.add("\n".join(_folded(told)) + "\n")
    return sheet.text


class _Sheet:
    """Blocks of Markdown, as many as there is room for."""

    def __init__(self, limit: int) -> None:
        self._left = limit - _ROOM
        self._blocks: list[str] = []
        self._dropped = 0

    def add(self, *blocks: str) -> None:
        """Add blocks that are worth nothing in parts."""
        for block in blocks:
            size = len(block.encode("utf-8", "replace")) + 1
            if size > self._left:
                self._dropped += 1
                continue
            self._left -= size
            self._blocks.append(block)

    def table(self, rows: Sequence[str]) -> None:
        """Add as many rows as fit in half of the room, which leaves the other half to details."""
        kept, room = "", self._left // 2
        for at, row in enumerate(rows):
            if len((kept + row).encode("utf-8", "replace")) > room:
                self.add(f"{_HEAD}{kept}\n_and {len(rows) - at} more bets_\n")
                return
            kept += row
        if kept:
            self.add(_HEAD + kept)

    @property
    def text(self) -> str:
        """All that had room."""
        blocks = list(self._blocks)
        if self._dropped:
            parts = "part was" if self._dropped == 1 else "parts were"
            blocks.append(f"_{self._dropped} {parts} left out for want of room here._\n")
        return "\n".join(blocks)


def _tally(bets: Sequence[BetReport], refused: Sequence[Refused]) -> str:
    counts = Counter(told.entry["outcome"] for told in bets)
    parts = []
    if refused:
        parts.append(f"{len(refused)} file{'s' if len(refused) != 1 else ''} could not be read")
    parts += [f"{counts[each]} {each}" for each in ("failed", "passed", "skipped") if counts[each]]
    return ", ".join(parts) or "no bets"


def _refused(refused: Sequence[Refused], address: str | None) -> Iterator[str]:
    for each in refused:
        first = next(each.faults())
        place = _place(each.file, first.line, address)
        yield f"### {_SIGNS['failed']} {place} could not be read\n\n{_fenced(each.text[:6_000])}\n"


def _row(told: BetReport, address: str | None) -> str:
    entry, story = told.entry, told.story
    title = literal(text.plain(story.title or entry["id"], 80))
    cells = (
        _SIGNS[entry["outcome"]],
        f"{_linked(literal(entry['id']), entry['file'], entry['line'], address)}<br>{title}",
        literal(text.plain(told.model, 60)),
        f"**{entry['word']}**<br>{entry['status']}",
        literal(text.plain(_decided(told), _CELL)),
    )
    return f"| {' | '.join(cells)} |\n"


def _decided(told: BetReport) -> str:
    """What decided, in a line: the criterion with its numbers, or the first message."""
    story = told.story
    # What was skipped may stand behind a door, but nobody has found that it does.
    if story.crossed and told.entry["outcome"] != "skipped":
        return "; ".join(f"closed by {door.id}: {door.claim}" for door in story.crossed)
    deciding = next((each for each in story.criteria if each.decided and each.filled), None)
    if deciding is not None and told.entry["word"] == told.entry["verdict"]:
        return f"{deciding.level}: {deciding.filled}"
    lines = [line for message in story.messages for line in message.splitlines() if line.strip()]
    return lines[0] if lines else ""


def _failure(told: BetReport, address: str | None) -> Iterator[str]:
    entry, story = told.entry, told.story
    yield f"### {_SIGNS['failed']} {entry['id']}: {entry['word']}"
    yield ""
    title = literal(text.plain(story.title, _CELL))
    yield f"{title}, {entry['status']}, {_place(entry['file'], entry['line'], address)}"
    yield ""
    if story.claim:
        yield f"> **Claim:** {literal(text.plain(story.claim, 600))}"
        yield ""
    yield meaning(entry["status"], entry["word"], entry["outcome"])
    yield ""
    if story.messages:
        yield _fenced("\n".join(story.messages)[:6_000])
        yield ""
    for door in story.crossed:
        closed_by = _linked(literal(door.id), door.file, door.line, address)
        yield f"**{closed_by} closed this door.** Its claim failed: {literal(door.claim[:600])}"
        yield ""
        lines = (*door.numbers, f"you stand in it with: {door.standing}", door.instead)
        yield from (f"- {literal(line[:600])}" for line in lines if line)
        yield ""
    yield from _details(told)


def _folded(told: BetReport) -> Iterator[str]:
    entry = told.entry
    yield f"<details><summary>{_SIGNS[entry['outcome']]} {entry['id']}: {entry['word']}</summary>"
    yield ""
    if told.story.claim:
        yield f"> **Claim:** {literal(text.plain(told.story.claim, 600))}"
        yield ""
    yield from _details(told)
    yield "</details>"


def _details(told: BetReport) -> Iterator[str]:
    story = told.story
    yield from _criteria(story.criteria)
    for metric in story.metrics[:2]:
        figure = charts.rows(story, metric)
        if figure is not None:
            yield _fenced("\n".join(drawn(figure)))
            yield ""
    if story.result is not None:
        for note in notes(story.result.variants):
            yield literal(note)
            yield ""
        yield from _said(told)
    for warning in story.warnings:
        first, _, further = warning.partition("\n")
        yield f"**Note:** {literal(text.plain(first, 600))}"
        yield ""
        if further:
            yield _fenced(further.strip())
            yield ""
    yield from _evidence(story.evidence)


def _criteria(criteria: Sequence[Criterion]) -> Iterator[str]:
    judged = [each for each in criteria if each.truth]
    if not judged:
        return
    yield "| bar | as written | as measured |"
    yield "|---|---|---|"
    for each in judged:
        level = f"**{each.level}**" if each.decided else each.level
        cells = (level, literal(each.written[:300]), f"{literal((each.filled or '')[:400])}")
        yield f"| {' | '.join(cells)} |"
    yield ""


def drawn(figure: charts.RowsFigure) -> Iterator[str]:
    """A figure in letters: a bar for each variant, crossed by the bars of the criteria."""
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
        cells.append((text.plain(name, 40), "".join(line), row.value, interval))
    yield from text.aligned(cells, frozenset({2}))
    if len(figure.rows) + figure.more > len(rows):
        yield f"and {len(figure.rows) + figure.more - len(rows)} more variants"
    if figure.marks:
        yield "bars, from left to right: " + ", ".join(mark.label for mark in figure.marks)


def _letter(per_cent: float) -> int:
    return min(_WIDTH - 1, max(0, round(per_cent / 100 * (_WIDTH - 1))))


def _said(told: BetReport) -> Iterator[str]:
    result = told.story.result
    assert result is not None
    speakers = [each for each in told.story.told_variants if each.samples][:2]
    base = next((base for base in result.bases if base.samples), None)
    if base is None or not speakers:
        return
    names = ["before", *(literal(each.name) for each in speakers)]
    yield f"What the model says after {code(text.plain(base.samples[0].prompt, 120))}:"
    yield ""
    yield f"| {' | '.join(names)} |"
    yield "|" + "---|" * len(names)
    words = [base.samples[0].text, *(each.samples[0].text for each in speakers)]
    yield f"| {' | '.join(literal(_oneline(each)) for each in words)} |"
    yield ""


def _oneline(said: str) -> str:
    return text.plain(said.replace("\n", f" {text.LINE_END} "), _SAID)


def _evidence(evidence: Iterable[Published]) -> Iterator[str]:
    for each in evidence:
        figures = "; ".join(
            f"{name} "
            + ", ".join(f"{charts.named(metric)} {value:.6g}" for metric, value in values)
            for name, values in each.figures[:_LINES]
        )
        parts = (each.source, each.model, each.verdict, figures, each.note)
        said = literal(text.plain(". ".join(part for part in parts if part), 900))
        yield f"_Published, not measured here:_ {said}"
        yield ""


def _place(file: str, line: int, address: str | None) -> str:
    return _linked(code(text.plain(f"{file}:{line}", 300)), file, line, address)


def _linked(said: str, file: str, line: int, address: str | None) -> str:
    """Return words that lead to a line of a file, if it is known where that can be seen."""
    if address is None or file.startswith("/"):
        return said
    return f"[{said}]({address}/{quote(file)}#L{line})"


def _fenced(words: str) -> str:
    """Return lines as a code block that no line of it can end."""
    lines = text.block(words, len(words))
    fence = "`" * max(3, *(len(run) + 1 for run in _TICKS.findall(lines)), 3)
    return f"{fence}text\n{lines}\n{fence}"


def write(
    path: Path, bets: Sequence[BetReport], refused: Sequence[Refused], address: str | None
) -> None:
    """Write the run as a file that fits a comment.

    Raises:
        OSError: when the path cannot be written; whatever stood there still does.
    """
    from pytest_layerguard.environment.atomic_write import write_whole

    words = render(bets, refused, address=address, limit=COMMENT)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, words.encode("utf-8", "replace").decode())
