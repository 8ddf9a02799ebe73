"""The page: one file that shows every bet of a run, and asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar
from urllib.parse import quote

from pytest_layerguard import __version__
from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.bet.errors import many
from pytest_layerguard.catalogue.wording import cut
from pytest_layerguard.report import charts, text, words
from pytest_layerguard.report.bet_report import OUTCOMES, by_urgency
from pytest_layerguard.report.side_by_side import SideBySide, side_by_side
from pytest_layerguard.report.variant_table import VariantTable, variant_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import jinja2

    from pytest_layerguard.report.bet_report import BetReport, PublishedEvidence, UnreadableFile

    Figure = TypeVar("Figure")

SIGNS: Final = {"passed": "\u2713", "failed": "\u2717", "skipped": "\u2013"}
_VARIANTS: Final = 300
"""Variants in the table of all numbers; the JSON report has all."""


class TallyPart(NamedTuple):
    """A part of the line at the top."""

    outcome: str
    words: str


class BetFilter(NamedTuple):
    """A choice of bets; `id` is the class of those that it shows."""

    id: str
    label: str
    bets: int


class FilterGroup(NamedTuple):
    """Choices that exclude each other, the first of which shows all bets."""

    name: str
    label: str
    filters: tuple[BetFilter, ...]


@dataclass(frozen=True)
class BetSection:
    """A bet, for the template."""

    report: BetReport
    anchor: str
    sign: str
    meaning: str
    href: str
    measured: str
    spent: str
    notes: tuple[str, ...]
    strip: charts.OverviewStrip | None
    rows: tuple[charts.BarChart, ...]
    lines: tuple[charts.LineChart, ...]
    trainings: tuple[charts.LineChart, ...]
    heat: charts.HeatMap | None
    answers: tuple[charts.AnswersChart, ...]
    continuations: tuple[SideBySide, ...]
    tail: charts.LineChart | None
    profiles: tuple[tuple[str, charts.LossProfileChart], ...]
    table: VariantTable | None

    @property
    def kinds(self) -> str:
        """Its classes, by which filters know it."""
        return " ".join(_kinds(self.report))

    @property
    def judged(self) -> bool:
        """Whether its criteria were judged."""
        return any(each.truth for each in self.report.criteria)

    @property
    def drawn(self) -> bool:
        """Whether there is a figure to show published evidence beside."""
        return bool(self.rows or self.lines or self.trainings)


@dataclass(frozen=True)
class Page:
    """The page, for the template."""

    heading: str
    tally: tuple[TallyPart, ...]
    about: str
    filters: tuple[FilterGroup, ...]
    ticks: tuple[charts.Tick, ...]
    bets: tuple[BetSection, ...]
    anchors: Mapping[str, str]
    unreadable: tuple[str, ...]
    made: str


class FileLinks:
    """Links to bet files: at a web address where one is known, else beside the page."""

    def __init__(self, root: Path, page: Path, address: str | None) -> None:
        self._root = root
        self._page = page
        self._address = address

    def href(self, file: str, line: int) -> str:
        """Return a link to a line of a file that is named from the root."""
        if self._address is not None and not Path(file).is_absolute():
            return f"{self._address}/{quote(file)}#L{line}"
        try:
            return quote(Path(os.path.relpath(self._root / file, self._page.parent)).as_posix())
        except ValueError:  # another drive of Windows
            return (self._root / file).as_uri()


def render(
    bets: Sequence[BetReport], unreadable: Sequence[UnreadableFile], links: FileLinks, when: str
) -> str:
    """Return the page; `when` is the time of the run."""
    from markupsafe import Markup

    style = f":root {{\n{_part('colors.css')}}}\n{_part('figures.css')}{_part('page.css')}"
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return (
        _environment()
        .get_template("page.html")
        .render(
            page=_page(bets, unreadable, links, when),
            style=Markup(style),
            style_hash=f"sha256-{digest}",
        )
    )


def notebook(bet: BetReport) -> str:
    """Return a bet that was measured as a piece of a notebook, with a style sheet that touches nothing else."""
    from markupsafe import Markup

    anchor = f"layerguard-{bet.digest.removeprefix('sha256:')[:12]}"
    style = _part("colors.css") + _part("notebook.css") + _part("figures.css")
    template = _environment().get_template("notebook.html")
    return template.render(bet=_section(bet, anchor, None, ""), style=Markup(style))


def _part(name: str) -> str:
    """Return a part of the style sheet: this package's own file, without untrusted text."""
    return resources.files(__package__).joinpath("page", name).read_text(encoding="utf-8")


def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(resources.files(__package__).joinpath("page"))),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        metric=words.metric_name,
        number=short,
        interval=charts.between,
        where=words.where,
        cut=cut,
        published_metrics=_published_metrics,
        capitalize_first=lambda line: line[:1].upper() + line[1:],
    )
    return environment


def _published_metrics(evidence: PublishedEvidence) -> list[str]:
    """Return the metrics of published figures, in their order."""
    return list(dict.fromkeys(name for values in evidence.figures.values() for name in values))


def _page(
    bets: Sequence[BetReport], unreadable: Sequence[UnreadableFile], links: FileLinks, when: str
) -> Page:
    ranked = by_urgency(bets)
    strips, ticks = charts.overview_strips(ranked)
    anchors = {bet.id: f"bet-{at}" for at, bet in enumerate(ranked, 1)}
    tally = tuple(_tally(bets, unreadable)) or (TallyPart("skipped", "no bets"),)
    made_with = {_made_with(bet) for bet in bets if bet.result is not None}
    # Versions and device once for the page, if all bets were measured with the same.
    about = [when, *(made_with if len(made_with) == 1 else ())]
    return Page(
        heading=", ".join(part.words for part in tally),
        tally=tally,
        about=" \u00b7 ".join(part for part in about if part),
        filters=tuple(_filters(ranked)),
        ticks=ticks,
        bets=tuple(
            _section(bet, anchors[bet.id], strip, links.href(bet.file, bet.line))
            for bet, strip in zip(ranked, strips, strict=True)
        ),
        anchors=anchors,
        unreadable=tuple(each.text for each in unreadable),
        made=f"Made by pytest-layerguard {__version__}",
    )


def _made_with(bet: BetReport) -> str:
    """Return what a reader compares first, on one line."""
    made = bet.made_with
    libraries = [f"{name} {made[name]}" for name in ("torch", "transformers") if name in made]
    return " \u00b7 ".join([*libraries, *(made[key] for key in ("device", "dtype") if key in made)])


def _tally(bets: Sequence[BetReport], unreadable: Sequence[UnreadableFile]) -> Iterator[TallyPart]:
    counts = Counter(bet.outcome for bet in bets)
    if unreadable:
        yield TallyPart("failed", f"{many(len(unreadable), 'file')} could not be read")
    if counts["failed"]:
        yield TallyPart("failed", f"{many(counts['failed'], 'bet')} failed")
    for outcome in ("passed", "skipped"):
        if counts[outcome]:
            yield TallyPart(outcome, f"{counts[outcome]} {outcome}")


def _kinds(bet: BetReport) -> Iterator[str]:
    """Yield the filters that show a bet."""
    yield from (bet.outcome, bet.word, bet.status)
    yield "refused" if bet.result is None else "kept" if bet.cached else "measured"
    if bet.changed:
        yield "changed"


def _filters(bets: Sequence[BetReport]) -> Iterator[FilterGroup]:
    """Yield the choices that leave some bets out; a group that has none is left out itself."""
    counts = Counter(kind for bet in bets for kind in _kinds(bet))
    groups = {
        ("outcome", "Outcome"): {
            **{outcome: f"{SIGNS[outcome]} {outcome}" for outcome in OUTCOMES},
            **{word: word for word in dict.fromkeys(bet.word for bet in bets)},
        },
        ("status", "Status"): {status: status for status in ("proposed", "upheld", "falsified")},
        ("run", "This run"): {
            "measured": "measured",
            "kept": "kept from earlier",
            "refused": "not measured",
            "changed": "verdict changed",
        },
    }
    for (name, label), choices in groups.items():
        some = [
            BetFilter(kind, words, counts[kind])
            for kind, words in choices.items()
            if 0 < counts[kind] < len(bets)
        ]
        if some:
            every = BetFilter(f"all-{name}", "all", len(bets))
            yield FilterGroup(name, label, (every, *some))


def _section(
    bet: BetReport, anchor: str, strip: charts.OverviewStrip | None, href: str
) -> BetSection:
    result = bet.result
    heat = charts.heat_map(result) if result is not None else None
    lines = tuple(_figures(bet, charts.trajectory_chart)) or tuple(
        _figures(bet, charts.layer_chart)
    )
    return BetSection(
        report=bet,
        anchor=anchor,
        sign=SIGNS[bet.outcome],
        meaning=words.meaning(bet.status, bet.word, bet.outcome),
        href=href,
        measured=words.how_measured(result) if result is not None else "",
        spent="from the cache" if bet.cached else text.seconds(bet.seconds),
        notes=tuple(words.notes(bet.variants)),
        strip=strip,
        rows=() if heat or lines else tuple(_figures(bet, charts.bar_chart)),
        lines=lines,
        trainings=tuple(_trainings(bet)),
        heat=heat,
        answers=tuple(charts.answer_charts(bet)),
        continuations=tuple(side_by_side(bet)),
        tail=charts.tail_chart(bet),
        profiles=tuple(_profiles(bet)),
        table=variant_table(result, _VARIANTS) if result is not None else None,
    )


def _figures(bet: BetReport, draw: Callable[[BetReport, str], Figure | None]) -> Iterator[Figure]:
    """Yield a figure for each metric that the criteria name; the ratio where they draw none."""
    figures = [draw(bet, metric) for metric in bet.metrics[:4]]
    if not any(figures):
        figures = [draw(bet, "perplexity_ratio")]
    return (figure for figure in figures if figure is not None)


def _trainings(bet: BetReport) -> Iterator[charts.LineChart]:
    for variant in bet.variants:
        name, matched = words.where_and_name(variant), variant.arm in bet.matched
        figure = charts.training_chart(variant, name, matched=matched)
        if figure is not None:
            yield figure


def _profiles(bet: BetReport) -> Iterator[tuple[str, charts.LossProfileChart]]:
    for variant in bet.shown_variants:
        figure = charts.profile_chart(variant.profile)
        if figure is not None:
            yield words.where_and_name(variant), figure
