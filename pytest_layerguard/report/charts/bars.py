"""One metric over all variants: a bar for each, with its interval, crossed by the thresholds of the criteria."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.report.charts.axes import Scale, Tick, near
from pytest_layerguard.report.charts.marks import (
    LOGARITHMIC,
    RATIO,
    UNCHANGED,
    Mark,
    between,
    each_once,
    marks_of,
    summary,
    unit_of,
    zone_of,
)
from pytest_layerguard.report.words import metric_name, where

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_layerguard.bet.criteria.interval import Interval
    from pytest_layerguard.measurement.results import BetResult, VariantResult
    from pytest_layerguard.report.bet_report import BetReport, Threshold


ROWS: Final = 120
"""Rows of a figure that are drawn at most; the table of all numbers has more."""
_DOTS: Final = 60


@dataclass(frozen=True)
class BarRow:
    """A bar from the value of an unchanged model to the measured value, with its interval."""

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
    """Whether the interval has no upper end."""


@dataclass(frozen=True)
class BarChart:
    """One metric over all variants, one row each."""

    title: str
    log: bool
    ticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    rows: tuple[BarRow, ...]
    origin: float
    untouched: float | None
    note: str
    more: int
    summary: str


def bar_chart(bet: BetReport, metric: str) -> BarChart | None:
    """Return the figure of a metric, or None where no variant has it."""
    result = bet.result
    if result is None:
        return None
    having = each_once(metric, result.variants)
    if not having:
        return None
    thresholds = [each for each in bet.thresholds if each.metric == metric]
    shown = having[:ROWS]
    found = [variant.metrics[metric] for variant in shown]
    log = metric in LOGARITHMIC and all(each.value > 0 for each in found)
    base = _base(result, metric)
    # A bar starts at zero on a linear axis, and at the value of an unchanged model on a logarithmic one.
    origin = UNCHANGED.get(metric, base or 1.0) if log else UNCHANGED.get(metric, 0.0)
    values = [end for each in found for end in (each.value, each.low, each.high)]
    limits = [each.value for each in thresholds]
    if log and metric == RATIO:
        values = near(values, limits)
    scale = Scale.over([*values, *limits, origin, *([] if base is None else [base])], log=log)
    marks = marks_of(thresholds, scale)
    return BarChart(
        metric_name(metric),
        log,
        scale.ticks(),
        marks,
        tuple(_row(variant, metric, scale, origin, thresholds, marks) for variant in shown),
        scale.at(origin),
        None if base is None else scale.at(base),
        _note(metric, origin, base),
        len(having) - len(shown),
        summary(metric, having, thresholds),
    )


def _base(result: BetResult, metric: str) -> float | None:
    """Return the value of the untouched model, or None if there are several bases."""
    if len(result.bases) != 1 or metric not in result.bases[0].metrics:
        return None
    return result.bases[0].metrics[metric].value


def _row(
    variant: VariantResult,
    metric: str,
    scale: Scale,
    origin: float,
    thresholds: Sequence[Threshold],
    marks: Sequence[Mark],
) -> BarRow:
    interval = variant.metrics[metric]
    point, zero = scale.at(interval.value), scale.at(origin)
    about = [each for each in thresholds if each.is_about(variant)]
    zone = zone_of(interval.value, about)
    unseen = interval.is_point or interval.low > scale.high
    return BarRow(
        variant.name,
        where(variant) or None,
        short(interval.value),
        between(interval),
        round(min(point, zero), 2),
        round(abs(point - zero), 2),
        point,
        None if unseen else scale.at(interval.low),
        None if unseen else scale.at(interval.high),
        zone,
        not math.isfinite(interval.value) or interval.value > scale.high,
        _met(interval, about),
        tuple(mark for mark in marks if mark.crosses(variant)),
        interval.high > scale.high >= interval.value,
    )


def _note(metric: str, origin: float, base: float | None) -> str:
    if metric == "protocol_gap":
        about = "above 0 replacement harms more"
    elif base is not None:
        about = f"the untouched model has {short(base)}"
    else:
        about = f"{short(origin)} is unchanged"
    return ", ".join(part for part in (unit_of(metric), about) if part)


def _met(interval: Interval, thresholds: Sequence[Threshold]) -> str:
    """Return the meaning of a row's colour, in words."""
    found = []
    for each in thresholds:
        ends = {each.met(interval.low), each.met(interval.high)}
        truth = "undecided" if len(ends) > 1 else "met" if each.met(interval.value) else "not met"
        found.append(f"{each.label} {truth}")
    return ", ".join(found)


@dataclass(frozen=True)
class OverviewStrip:
    """A bet's ratios in one line of the overview."""

    dots: tuple[Mark, ...]
    bars: tuple[Mark, ...]
    words: str
    beyond: str | None
    """The level of a ratio beyond the end of the axis, if there is one."""


def overview_strips(
    bets: Sequence[BetReport],
) -> tuple[tuple[OverviewStrip | None, ...], tuple[Tick, ...]]:
    """Return the ratios of every bet on one common axis, and the axis; None for a bet without any."""
    values = [value for bet in bets for value in bet.points(RATIO)]
    limits = [
        each.value
        for bet in bets
        if bet.points(RATIO)
        for each in bet.thresholds
        if each.metric == RATIO
    ]
    # One bet's far bar is no reason to squeeze the others.
    scale = Scale.over([1.0, *near([*values, *limits], ())], log=True, start=3, end=97)
    return tuple(_strip(bet, RATIO, scale) for bet in bets), scale.ticks()


def _strip(bet: BetReport, metric: str, scale: Scale) -> OverviewStrip | None:
    ratios = bet.points(metric)
    if not ratios:
        return None
    thresholds = [each for each in bet.thresholds if each.metric == metric]
    dots, beyond = [], None
    for variant in [each for each in bet.variants if metric in each.metrics][:_DOTS]:
        value = variant.metrics[metric].value
        zone = zone_of(value, [each for each in thresholds if each.is_about(variant)])
        if value > scale.high:
            beyond = zone
        else:
            dots.append(Mark(scale.at(value), zone, variant.name))
    inside = [each for each in thresholds if each.value <= scale.high]
    low, high = min(ratios), max(ratios)
    words = short(low) if low == high else f"{short(low)} \u2013 {short(high)}"
    return OverviewStrip(tuple(dots), marks_of(inside, scale), words, beyond)
