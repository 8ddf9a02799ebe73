"""The answers of a task that variants lost and gained, and some of the questions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.bet.errors import many
from pytest_layerguard.report.charts.axes import Scale, Tick
from pytest_layerguard.report.charts.bars import ROWS
from pytest_layerguard.report.words import where_and_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_layerguard.measurement.results import ChangedAnswer, TaskChange
    from pytest_layerguard.report.bet_report import BetReport


@dataclass(frozen=True)
class AnswersRow:
    """A variant: a bar of what it lost, to the left of zero, and one of what it gained."""

    label: str
    change: TaskChange
    lost_at: float
    lost_width: float
    gained_width: float
    p_value: str


@dataclass(frozen=True)
class ChangedQuestions:
    """Some of the questions that a variant answers otherwise than the base."""

    variant: str
    heading: str
    examples: tuple[ChangedAnswer, ...]


@dataclass(frozen=True)
class AnswersChart:
    """The answers of one task over all variants, one row each."""

    task: str
    note: str
    ticks: tuple[Tick, ...]
    zero: float
    rows: tuple[AnswersRow, ...]
    changed: tuple[ChangedQuestions, ...]
    more: int


def answer_charts(bet: BetReport) -> Iterator[AnswersChart]:
    """Yield the figure of each task of a bet."""
    for task in dict.fromkeys(name for variant in bet.variants for name in variant.tasks):
        found = {where_and_name(each): each.tasks[task] for each in bet.variants}
        lost = max(1, *(each.lost for each in found.values()))
        gained = max(1, *(each.gained for each in found.values()))
        scale = Scale.over([-lost, 0, gained], log=False)
        zero = scale.at(0)
        whole = (each for each in scale.ticks() if float(each.label.replace(",", "")).is_integer())
        first = next(iter(found.values()))
        yield AnswersChart(
            task,
            f"{many(first.questions, 'question')}, of which the untouched model answers "
            f"{first.right_before} rightly",
            tuple(Tick(each.at, each.label.lstrip("-")) for each in whole),
            zero,
            tuple(_row(*each, scale) for each in list(found.items())[:ROWS]),
            tuple(_changed(bet, task)),
            len(found) - min(len(found), ROWS),
        )


def _row(label: str, change: TaskChange, scale: Scale) -> AnswersRow:
    zero, left, right = scale.at(0), scale.at(-change.lost), scale.at(change.gained)
    return AnswersRow(
        label,
        change,
        left,
        round(zero - left, 2),
        round(right - zero, 2),
        short(float(f"{change.p_value:.2g}")),
    )


def _changed(bet: BetReport, task: str) -> Iterator[ChangedQuestions]:
    for variant in bet.shown_variants:
        change = variant.tasks[task]
        if change.examples:
            name = where_and_name(variant)
            of = f"{len(change.examples)} of {many(change.lost + change.gained, 'question')}"
            yield ChangedQuestions(name, f"{of} that {name} answers otherwise", change.examples)
