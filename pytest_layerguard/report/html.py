"""The page: one file that shows every bet of a run, and asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote

from pytest_layerguard import __version__
from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.bet.errors import many
from pytest_layerguard.report import charts, text
from pytest_layerguard.report.facts import facts
from pytest_layerguard.report.side_by_side import Samples, talks
from pytest_layerguard.report.table import Table, table, where_and_name
from pytest_layerguard.report.variants import notes
from pytest_layerguard.report.words import meaning, outranks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import jinja2

    from pytest_layerguard.measurement.results import BetResult
    from pytest_layerguard.report.bet_report import BetReport
    from pytest_layerguard.report.refused import Refused
    from pytest_layerguard.report.story import Published, Story

SIGNS: Final = {"passed": "\u2713", "failed": "\u2717", "skipped": "\u2013"}
LINES: Final = 300
"""Variants in the table of all numbers at the most; the JSON report has all."""


class Part(NamedTuple):
    """A part of the line at the top."""

    outcome: str
    words: str


class Filter(NamedTuple):
    """A choice of bets."""

    id: str
    label: str
    bets: int


@dataclass(frozen=True)
class Section:
    """A bet as the template draws it."""

    anchor: str
    id: str
    status: str
    word: str
    outcome: str
    sign: str
    meaning: str
    model: str
    cached: bool
    judged: bool
    file: str
    line: int
    href: str
    digest: str
    measured: str
    notes: tuple[str, ...]
    story: Story
    strip: charts.Strip | None
    rows: tuple[charts.RowsFigure, ...]
    trajectories: tuple[charts.LinesFigure, ...]
    recoveries: tuple[charts.LinesFigure, ...]
    heat: charts.HeatFigure | None
    talks: tuple[Samples, ...]
    profiles: tuple[tuple[str, charts.ProfileFigure], ...]
    table: Table | None
    provenance: tuple[tuple[str, str], ...]
    anchors: Mapping[str, str]

    @property
    def drawn(self) -> bool:
        """Whether there is a figure for evidence to stand beside."""
        return bool(self.rows or self.trajectories or self.recoveries)

    @staticmethod
    def published_metrics(evidence: Published) -> list[str]:
        """The metrics of published figures, in their order."""
        return list(dict.fromkeys(name for _, values in evidence.figures for name, _ in values))


@dataclass(frozen=True)
class Page:
    """The page as the template draws it."""

    heading: str
    tally: tuple[Part, ...]
    about: str
    filters: tuple[Filter, ...]
    ticks: tuple[charts.Tick, ...]
    bets: tuple[Section, ...]
    refused: tuple[str, ...]
    made: str


class Source:
    """Where a reader finds a bet file: at a web address where one is known, else beside the page."""

    def __init__(self, root: Path, page: Path, address: str | None) -> None:
        self._root = root
        self._page = page
        self._address = address

    def href(self, file: str, line: int) -> str:
        """Return a link to a line of a file that is named from the root."""
        if self._address is not None and not Path(file).is_absolute():
            return f"{self._address}/{quote(file)}#L{line}"
        import os

        try:
            return quote(Path(os.path.relpath(self._root / file, self._page.parent)).as_posix())
        except ValueError:  # another drive of Windows
            return (self._root / file).as_uri()


def render(bets: Sequence[BetReport], refused: Sequence[Refused], source: Source, when: str) -> str:
    """Return the page; `when` says when the run was made."""
    environment = _environment()
    style = resources.files(__package__).joinpath("page/page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    from markupsafe import Markup

    # The style sheet is this package's own file; nothing that a stranger wrote is in it.
    return environment.get_template("page.html").render(
        page=_page(bets, refused, source, when), style=Markup(style), style_hash=f"sha256-{digest}"
    )


def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(resources.files(__package__).joinpath("page"))),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["metric"] = charts.named
    environment.filters["figure"] = _figure
    environment.filters["capitalize_first"] = lambda words: words[:1].upper() + words[1:]
    return environment


def _figure(values: Sequence[tuple[str, float]], metric: str) -> str:
    found = dict(values).get(metric)
    return "" if found is None else short(found)


def _page(bets: Sequence[BetReport], refused: Sequence[Refused], source: Source, when: str) -> Page:
    ranked = sorted(bets, key=outranks)
    strips, ticks = charts.strips([told.story for told in ranked])
    anchors = {told.entry["id"]: f"bet-{at}" for at, told in enumerate(ranked, 1)}
    sections = tuple(
        _section(told, anchors, strip, source) for told, strip in zip(ranked, strips, strict=True)
    )
    tally = _tally(bets, refused)
    versions = _versions(bets)
    return Page(
        heading=", ".join(part.words for part in tally),
        tally=tally,
        about=" \u00b7 ".join(part for part in (when, versions) if part),
        filters=tuple(_filters(ranked)),
        ticks=ticks,
        bets=sections,
        refused=tuple(each.text for each in refused),
        made=f"Made by pytest-layerguard {__version__}",
    )


def _tally(bets: Sequence[BetReport], refused: Sequence[Refused]) -> tuple[Part, ...]:
    counts = Counter(told.entry["outcome"] for told in bets)
    words = []
    if refused:
        words.append(Part("failed", f"{many(len(refused), 'file')} could not be read"))
    if counts["failed"]:
        words.append(Part("failed", f"{many(counts['failed'], 'bet')} failed"))
    if counts["passed"]:
        words.append(Part("passed", f"{counts['passed']} passed"))
    if counts["skipped"]:
        words.append(Part("skipped", f"{counts['skipped']} skipped"))
    return tuple(words) or (Part("skipped", "no bets"),)


def _versions(bets: Sequence[BetReport]) -> str:
    """Return what bets were measured with, where all were measured with the same."""
    told = {
        " \u00b7 ".join(
            [*(f"{name} {versions[name]}" for name in ("torch", "transformers") if name in versions),
             *(f"{made[key]}" for key in ("device", "dtype") if key in made)]
        )
        for each in bets
        if each.story.result is not None
        for made in each.story.result.provenance.get("checkpoints", ())
        if (versions := made.get("versions", {})) is not None
    }  # fmt: skip
    return text.plain(told.pop(), 300) if len(told) == 1 else ""


def _filters(bets: Sequence[BetReport]) -> Iterator[Filter]:
    yield Filter("all", "all", len(bets))
    outcomes = Counter(told.entry["outcome"] for told in bets)
    if len(outcomes) > 1:
        for outcome in ("failed", "passed", "skipped"):
            if outcomes[outcome]:
                yield Filter(outcome, f"{SIGNS[outcome]} {outcome}", outcomes[outcome])
    words = Counter(told.entry["word"] for told in bets)
    if len(words) > 1:
        yield from (Filter(word, word, count) for word, count in words.items())


def _section(
    told: BetReport, anchors: Mapping[str, str], strip: charts.Strip | None, source: Source
) -> Section:
    entry, story = told.entry, told.story
    result = story.result
    heat = charts.heat(result) if result is not None else None
    trajectories = tuple(_figures(story, charts.trajectory))
    return Section(
        anchor=anchors[entry["id"]],
        id=entry["id"],
        status=entry["status"],
        word=entry["word"],
        outcome=entry["outcome"],
        sign=SIGNS[entry["outcome"]],
        meaning=meaning(entry["status"], entry["word"], entry["outcome"]),
        model=text.plain(told.model, 200),
        cached=entry["cached"],
        judged=any(each.truth for each in story.criteria),
        file=text.plain(entry["file"], 500),
        line=entry["line"],
        href=source.href(entry["file"], entry["line"]),
        digest=entry["digest"],
        measured=_measured(result, entry["seconds"]) if result is not None else "",
        notes=tuple(notes(result.variants)) if result is not None else (),
        story=story,
        strip=strip,
        rows=() if heat or trajectories else tuple(_figures(story, charts.rows)),
        trajectories=trajectories,
        recoveries=tuple(_recoveries(story)),
        heat=heat,
        talks=tuple(talks(story)),
        profiles=tuple(_profiles(story)),
        table=table(result, LINES) if result is not None else None,
        provenance=tuple(facts(result)),
        anchors=anchors,
    )


def _figures(story: Story, draw: Any) -> Iterator[Any]:
    """Yield a figure for each metric that the criteria name; the ratio where they draw none."""
    drawn = [figure for metric in story.metrics[:4] if (figure := draw(story, metric)) is not None]
    if not drawn and (figure := draw(story, "perplexity_ratio")) is not None:
        drawn = [figure]
    return iter(drawn)


def _measured(result: BetResult, seconds: float) -> str:
    intervals = (
        "descriptive: fewer than 8 windows, so no intervals"
        if result.descriptive
        else "95 % intervals, clustered by window"
    )
    spent = "from the cache" if result.cached else text.seconds(seconds)
    return f"{result.tokens:,} tokens in {many(result.windows, 'window')}; {intervals}; {spent}"


def _recoveries(story: Story) -> Iterator[charts.LinesFigure]:
    for variant in story.result.variants if story.result is not None else ():
        name, matched = where_and_name(variant), variant.arm in story.matched
        figure = charts.recovery(variant, name, matched=matched)
        if figure is not None:
            yield figure


def _profiles(story: Story) -> Iterator[tuple[str, charts.ProfileFigure]]:
    for variant in story.told_variants:
        figure = charts.profile(variant.profile)
        if figure is not None:
            yield where_and_name(variant), figure


def write(
    path: Path, bets: Sequence[BetReport], refused: Sequence[Refused], source: Source, when: str
) -> None:
    """Write the page; a reader sees the old file or the whole new one, never a part.

    Raises:
        OSError: when the path cannot be written; whatever stood there still does.
    """
    from pytest_layerguard.environment.atomic_write import write_whole

    # A lone surrogate has no place in a file.
    page = render(bets, refused, source, when).encode("utf-8", "replace").decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)
