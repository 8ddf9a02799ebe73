"""Lines over checkpoints, layers, percentiles of the tokens or training steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import Interval, short
from pytest_layerguard.report.charts.axes import Scale, Tick, near
from pytest_layerguard.report.charts.marks import (
    LOGARITHMIC,
    RATIO,
    Mark,
    each_once,
    marks_of,
    summary,
    unit_of,
)
from pytest_layerguard.report.words import metric_name, where, where_and_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_layerguard.measurement.results import VariantResult
    from pytest_layerguard.report.bet_report import BetReport, Threshold


SERIES: Final = 8
_NAMES_AT: Final = 77.0
_LONGEST_NAME: Final = 11
"""Characters of a name that fit beside the end of its line on a phone."""
_LAYERS_NAMED: Final = 12
"""Layers whose number stands below the axis, at the most."""
_PERCENTILES: Final = {
    "p50": "50 %", "p75": "75 %", "p90": "90 %", "p95": "95 %", "p99": "99 %", "p999": "99.9 %",
    "max": "max",
}  # fmt: skip
_POINTS: Final = 160
HEIGHT: Final = 220
_TOP: Final = 14.0
_BOTTOM: Final = 192.0
_LETTERING: Final = 13.0


@dataclass(frozen=True)
class CurvePoint:
    """A measured point of a line; `x` in per cent, `y`, `low` and `high` in pixels."""

    x: float
    y: float
    low: float | None
    high: float | None
    label: str


@dataclass(frozen=True)
class Curve:
    """A line of the figure."""

    name: str
    style: int
    points: tuple[CurvePoint, ...]
    label_y: float


@dataclass(frozen=True)
class LineChart:
    """Lines over places that they have in common."""

    title: str
    unit: str
    height: int
    xticks: tuple[Tick, ...]
    yticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    lines: tuple[Curve, ...]
    summary: str
    more: int = 0
    dotted: bool = False
    direct: bool = False
    names_at: float = _NAMES_AT


def _y(scale: Scale, value: float) -> float:
    share = (scale.at(value) - scale.start) / (scale.end - scale.start)
    return round(_BOTTOM - share * (_BOTTOM - _TOP), 1)


def _yticks(scale: Scale) -> tuple[Tick, ...]:
    return tuple(
        Tick(round(_BOTTOM - (each.at - scale.start) / (scale.end - scale.start) * (_BOTTOM - _TOP), 1), each.label)
        for each in scale.ticks()
    )  # fmt: skip


def _spread(lines: list[tuple[str, int, tuple[CurvePoint, ...]]]) -> tuple[Curve, ...]:
    """Place the names of lines beside their ends, apart from each other."""
    placed: dict[int, float] = {}
    last = -math.inf
    for at in sorted(range(len(lines)), key=lambda each: lines[each][2][-1].y):
        last = max(lines[at][2][-1].y, last + _LETTERING)
        placed[at] = last
    over = max(0.0, last - _BOTTOM)
    return tuple(
        Curve(name, style, points, round(placed[at] - over + 4, 1))
        for at, (name, style, points) in enumerate(lines)
    )


def trajectory_chart(bet: BetReport, metric: str) -> LineChart | None:
    """Return a metric over the checkpoints, or None where there is but one."""
    checkpoints = [str(name) for name in dict.fromkeys(base.checkpoint for base in bet.bases)]
    having = each_once(metric, bet.variants)
    if len(checkpoints) < 2 or not having:
        return None
    series: dict[str, dict[str, Interval]] = {}
    for variant in having:
        name = " \u00b7 ".join(each for each in (variant.arm, variant.text, variant.name) if each)
        series.setdefault(name, {})[str(variant.checkpoint)] = variant.metrics[metric]
    return _metric_chart(bet, metric, "checkpoint", {name: name for name in checkpoints}, series)


def layer_chart(bet: BetReport, metric: str) -> LineChart | None:
    """Return a metric over the layers, a line for each arm and text, or None without two such sweeps."""
    having = each_once(metric, bet.variants)
    if not all(each.target.isdecimal() and each.checkpoint is None for each in having):
        return None
    series: dict[str, dict[str, Interval]] = {}
    for variant in having:
        at = f"layer {variant.target}"
        series.setdefault(where(variant), {})[at] = variant.metrics[metric]
    if len(series) < 2 or min(map(len, series.values())) < 2:
        return None
    layers = sorted({int(each.target) for each in having})
    stride = math.ceil(len(layers) / _LAYERS_NAMED)
    places = {
        f"layer {layer}": "" if at % stride else str(layer) for at, layer in enumerate(layers)
    }
    return _metric_chart(bet, metric, "layer", places, series)


def _metric_chart(
    bet: BetReport,
    metric: str,
    over: str,
    places: Mapping[str, str],
    series: Mapping[str, Mapping[str, Interval]],
) -> LineChart:
    thresholds = [each for each in bet.thresholds if each.metric == metric]
    log = metric in LOGARITHMIC and all(
        each.value > 0 for line in series.values() for each in line.values()
    )
    unit = ", ".join(filter(None, (unit_of(metric), "log scale" if log else "")))
    words = summary(metric, each_once(metric, bet.variants), thresholds)
    return _chart(
        f"{metric_name(metric)} by {over}", unit, words, places, series, thresholds, log=log,
        of_ratios=log and metric == RATIO,
    )  # fmt: skip


def tail_chart(bet: BetReport) -> LineChart | None:
    """Return KL by percentile of the tokens for the variants that are shown, or None where none changed a token."""
    tails = {where_and_name(each): each.kl_tail for each in bet.shown_variants}
    series = {
        name: {_PERCENTILES[at]: Interval.point(kl) for at, kl in tail.items()}
        for name, tail in tails.items()
        if tail.get("max")
    }
    if not series:
        return None
    ends = list(dict.fromkeys((next(iter(series)), next(reversed(series)))))
    words = "; ".join(
        f"{name}: half of the tokens up to {short(tails[name]['p50'])}, "
        f"one in a hundred above {short(tails[name]['p99'])}, at most {short(tails[name]['max'])}"
        for name in ends
    )
    places = {name: name.removesuffix(" %") for name in _PERCENTILES.values()}
    title = "KL by percentile of the tokens"
    return _chart(title, "nats, log scale", words, places, series, (), log=True)


def _chart(
    title: str,
    unit: str,
    words: str,
    places: Mapping[str, str],
    series: Mapping[str, Mapping[str, Interval]],
    thresholds: Sequence[Threshold],
    *,
    log: bool,
    of_ratios: bool = False,
) -> LineChart:
    """Return the lines of `series`, each by place; `places` has the label of each place's tick."""
    shown = dict(list(series.items())[:SERIES])
    found = [each for line in shown.values() for each in line.values()]
    values = [end for each in found for end in (each.value, each.low, each.high)]
    limits = [each.value for each in thresholds]
    if of_ratios:
        values = near(values, limits)
    scale = Scale.over([*values, *limits], log=log)
    direct = max(map(len, shown)) <= _LONGEST_NAME
    last = (_NAMES_AT - 3 if direct else 92.0) - 12
    xs = {name: 12 + last * at / (len(places) - 1) for at, name in enumerate(places)}
    lines = [
        (name, style, tuple(_point(xs[at], line[at], scale, at) for at in places if at in line))
        for style, (name, line) in enumerate(shown.items())
    ]
    marks = tuple(
        Mark(_y(scale, mark.thresholds[0].value), mark.level, mark.label)
        for mark in marks_of(thresholds, scale)
    )
    ticks = tuple(Tick(round(xs[name], 2), label) for name, label in places.items() if label)
    return LineChart(
        title, unit, HEIGHT, ticks, _yticks(scale), marks, _spread(lines), words,
        len(series) - len(shown), dotted=True, direct=direct,
    )  # fmt: skip


def _point(x: float, interval: Interval, scale: Scale, name: str) -> CurvePoint:
    sure = interval.is_point
    return CurvePoint(
        round(x, 2),
        _y(scale, interval.value),
        None if sure else _y(scale, interval.low),
        None if sure else _y(scale, interval.high),
        f"{name}: {interval}",
    )


def training_chart(variant: VariantResult, name: str, *, matched: bool) -> LineChart | None:
    """Return the loss over the steps of training, or None where nothing was trained.

    `matched` is whether it was trained towards the output of the original's layers.
    """
    noted = variant.diagnostics.get("training_loss") or ()
    steps = [(float(step), float(loss)) for step, loss in noted if math.isfinite(float(loss))]
    if len(steps) < 2:
        return None
    stride = math.ceil(len(steps) / _POINTS)
    kept = [*steps[:-1:stride], steps[-1]]
    across = Scale.over([step for step, _ in kept], log=False, start=8, end=97)
    scale = Scale.over([loss for _, loss in kept], log=False)
    points = tuple(
        CurvePoint(across.at(step), _y(scale, loss), None, None, f"step {step:.0f}: {short(loss)}")
        for step, loss in kept
    )
    unit = "distance to the original's output" if matched else "nats per token"
    (first, begin), (last, end) = steps[0], steps[-1]
    summary = f"loss {short(begin)} at step {first:.0f}, {short(end)} at step {last:.0f}"
    return LineChart(
        f"training loss by step, {name}", unit, HEIGHT, across.ticks(), _yticks(scale), (),
        (Curve("", 0, points, 0.0),), summary,
    )  # fmt: skip
