"""One metric over all variants: a bar for each, with its interval, crossed by the bars of the criteria."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.report.charts.axes import Scale, Tick
from pytest_layerguard.report.charts.marks import (
    LOGARITHMIC,
    UNCHANGED,
    Mark,
    between,
    each_once,
    marks_of,
    named,
    summary,
    told_of,
    written,
    zone_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_layerguard.bet.criteria.interval import Interval
    from pytest_layerguard.measurement.results import BetResult, VariantResult
    from pytest_layerguard.report.story import Bar, Story


ROWS: Final = 120
"""Rows of a figure that are drawn at the most; the table of all numbers has more."""


@dataclass(frozen=True)
class Row:
    """A measurement: from what nothing would give to what was found, with its interval."""

    label: str
    group: str | None
    value: str
    interval: str | None
    start: float
    width: float
    point: float
    low: float | None
    high: float | None
    zone: str
    beyond: bool
    words: str
    marks: tuple[Mark, ...]
    endless: bool
    """Whether nothing is known of how high it may be."""


@dataclass(frozen=True)
class RowsFigure:
    """One metric over all variants, one row each."""

    title: str
    log: bool
    ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    rows: tuple[Row, ...]
    origin: float
    untouched: float | None
    note: str
    more: int
    summary: str


def rows(story: Story, metric: str) -> RowsFigure | None:
    """Return the figure of a metric, or None where no variant has it."""
    result = story.result
    if result is None:
        return None
    having = each_once(metric, result.variants)
    if not having:
        return None
    bars = [bar for bar in story.bars if bar.metric == metric]
    shown = having[:ROWS]
    found = [variant.metrics[metric] for variant in shown]
    log = metric in LOGARITHMIC and all(each.value > 0 for each in found)
    base = _base(result, metric)
    # A bar on a linear axis starts at zero; on a logarithmic one at what nothing would give.
    origin = UNCHANGED.get(metric, base or 1.0) if log else UNCHANGED.get(metric, 0.0)
    values = [end for each in found for end in (each.value, each.low, each.high)]
    limits = [bar.value for bar in bars]
    scale = Scale.over([*values, *limits, origin, *([] if base is None else [base])], log=log)
    marks = marks_of(bars, scale)
    return RowsFigure(
        named(metric),
        log,
        scale.ticks(),
        marks,
        tuple(_row(variant, metric, scale, origin, bars, marks) for variant in shown),
        scale.at(origin),
        None if base is None else scale.at(base),
        _note(metric, origin, base),
        len(having) - len(shown),
        summary(metric, having, bars),
    )


def _base(result: BetResult, metric: str) -> float | None:
    """Return what the untouched model has, where there is but one."""
    if len(result.bases) != 1 or metric not in result.bases[0].metrics:
        return None
    return result.bases[0].metrics[metric].value


def _row(
    variant: VariantResult,
    metric: str,
    scale: Scale,
    origin: float,
    bars: Sequence[Bar],
    marks: Sequence[Mark],
) -> Row:
    interval = variant.metrics[metric]
    point, zero = scale.at(interval.value), scale.at(origin)
    about = [bar for bar in bars if bar.about(variant)]
    zone = zone_of(interval.value, about)
    return Row(
        variant.name,
        _group(variant),
        short(interval.value),
        between(interval),
        round(min(point, zero), 2),
        round(abs(point - zero), 2),
        point,
        None if interval.is_point else scale.at(interval.low),
        None if interval.is_point else scale.at(interval.high),
        zone,
        not math.isfinite(interval.value),
        _met(interval, about),
        tuple(mark for mark in marks if mark.crosses(variant)),
        math.isinf(interval.high) and math.isfinite(interval.value),
    )


def _note(metric: str, origin: float, base: float | None) -> str:
    if metric == "protocol_gap":
        about = "above 0 replacement harms more"
    elif base is not None:
        about = f"the untouched model has {short(base)}"
    else:
        about = f"{short(origin)} is unchanged"
    return ", ".join(part for part in (told_of(metric), about) if part)


def _group(variant: VariantResult) -> str | None:
    parts = [each for each in (variant.arm, variant.text, variant.checkpoint) if each is not None]
    return " \u00b7 ".join(parts) or None


def _met(interval: Interval, bars: Sequence[Bar]) -> str:
    """What a reader who does not see colours must know of a row."""
    told = []
    for bar in bars:
        ends = {bar.met(interval.low), bar.met(interval.high)}
        truth = "undecided" if len(ends) > 1 else "met" if bar.met(interval.value) else "not met"
        told.append(f"{bar.level} {written(bar.sign)} {short(bar.value)} {truth}")
    return ", ".join(told)
