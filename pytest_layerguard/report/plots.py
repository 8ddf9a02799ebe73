"""Figures as geometry: scales, ticks, rows, cells and lines, which the page's template draws.

Drawn by hand rather than by a plotting library, for three reasons: colours come from the page's own
style sheet and so follow the reader's theme; letters are letters, of a size that does not shrink
with a phone; and nothing needs a ``style`` attribute, which the page's content security policy
forbids. Horizontal places are per cents, so that one figure fits every width.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.interval import short

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_layerguard.bet.interval import Interval
    from pytest_layerguard.lab.results import BetResult, LossProfile, VariantResult
    from pytest_layerguard.report.story import Bar, Story

LOGARITHMIC: Final = frozenset({"perplexity", "base_perplexity", "perplexity_ratio"})
"""Metrics whose differences are felt as factors."""
UNCHANGED: Final = {"perplexity_ratio": 1.0, "top1_agreement": 1.0, "size_ratio": 1.0}
"""What a metric is where nothing was done; else zero."""
ROWS: Final = 120
"""Rows of a figure that are drawn at the most; the table of all numbers has more."""
SERIES: Final = 8
_NAMES_AT: Final = 77.0
_LONGEST_NAME: Final = 11
"""Characters of a name that fit beside the end of its line on a phone."""
_LEAST: Final = 1e-100
_MOST: Final = 1e100
"""Numbers beyond which nothing is drawn to scale, so that no arithmetic overflows."""
_PAIR: Final = re.compile(r"(\d+)-(\d+)")
_STEPS: Final = (1, 2, 5)
_MOST_TICKS: Final = 6
_BINS: Final = 96
_POINTS: Final = 160


@dataclass(frozen=True)
class Tick:
    """A place on an axis, in per cent of its length, and what is written there."""

    at: float
    label: str


@dataclass(frozen=True)
class Scale:
    """From numbers to per cent of an axis."""

    low: float
    high: float
    log: bool
    start: float = 2.0
    end: float = 98.0

    @classmethod
    def over(
        cls, values: Iterable[float], *, log: bool, start: float = 2.0, end: float = 98.0
    ) -> Scale:
        """A scale that holds all finite values, with a little air."""
        found = [
            min(max(value, -_MOST), _MOST)
            for value in values
            if math.isfinite(value) and (value > 0 or not log)
        ]
        low, high = (min(found), max(found)) if found else (1.0, 10.0)
        if log:
            low, high = max(low, _LEAST), min(max(high, _LEAST), _MOST)
            if high / low < 1.3:
                low, high = low / 1.15, high * 1.15
            air = (high / low) ** 0.04
            return cls(low / air, high * air, True, start, end)
        if high == low:
            low, high = low - (abs(low) or 1.0) * 0.1, high + (abs(high) or 1.0) * 0.1
        air = (high - low) * 0.04
        floor = low if low == 0 else low - air
        return cls(floor, high + air, False, start, end)

    def at(self, value: float) -> float:
        """The place of a value, held inside the axis."""
        if math.isnan(value):
            return self.start
        if self.log:
            share = (
                (math.log(min(max(value, _LEAST), _MOST)) - math.log(self.low))
                / (math.log(self.high) - math.log(self.low))
                if value > 0
                else 0.0
            )
        else:
            share = (min(max(value, -_MOST), _MOST) - self.low) / (self.high - self.low)
        share = min(1.0, max(0.0, share))
        return round(self.start + share * (self.end - self.start), 2)

    def ticks(self) -> tuple[Tick, ...]:
        """Round numbers inside the axis, six at the most."""
        values = _decades(self.low, self.high) if self.log else _round(self.low, self.high)
        return tuple(Tick(self.at(value), short(value)) for value in values)


def _decades(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    fine = [step * 10.0**power for power in range(first, last + 1) for step in _STEPS]
    inside = [value for value in fine if low <= value <= high]
    if len(inside) < 2:
        return _round(low, high)
    if len(inside) <= _MOST_TICKS:
        return inside
    powers = [power for power in range(first, last + 1) if low <= 10.0**power <= high]
    return [10.0**power for power in powers[:: math.ceil(len(powers) / _MOST_TICKS)]]


def _round(low: float, high: float) -> list[float]:
    rough = (high - low) / (_MOST_TICKS - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough)
    first = math.ceil(low / step)
    return [place * step for place in range(first, math.floor(high / step) + 1)]


@dataclass(frozen=True)
class Mark:
    """A bar of a criterion, drawn across the rows."""

    at: float
    level: str
    label: str


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
    note: str | None
    words: str


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
    having = [variant for variant in result.variants if metric in variant.metrics]
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
    return RowsFigure(
        named(metric),
        log,
        scale.ticks(),
        _marks(bars, scale),
        tuple(_row(variant, metric, scale, origin, bars) for variant in shown),
        scale.at(origin),
        None if base is None else scale.at(base),
        f"{short(origin)} is unchanged"
        if base is None
        else f"the untouched model has {short(base)}",
        len(having) - len(shown),
        _summary(metric, having, bars),
    )


def _base(result: BetResult, metric: str) -> float | None:
    """Return what the untouched model has, where there is but one."""
    if len(result.bases) != 1 or metric not in result.bases[0].metrics:
        return None
    return result.bases[0].metrics[metric].value


def named(metric: str) -> str:
    """A metric's name as people write it."""
    return metric.replace("_", " ").replace("kl", "KL").replace("top1", "top-1")


def _marks(bars: Sequence[Bar], scale: Scale) -> tuple[Mark, ...]:
    marks: list[Mark] = []
    seen: set[tuple[str, str, float]] = set()
    for bar in sorted(bars, key=lambda each: each.value):
        if (bar.level, bar.sign, bar.value) in seen:
            continue
        seen.add((bar.level, bar.sign, bar.value))
        at = scale.at(bar.value)
        label = f"{bar.level} {written(bar.sign)} {short(bar.value)}"
        marks.append(Mark(at, bar.level, label))
    return tuple(marks)


def written(sign: str) -> str:
    """A comparison as it is printed."""
    return {"<=": "\u2264", ">=": "\u2265"}.get(sign, sign)


def _row(
    variant: VariantResult,
    metric: str,
    scale: Scale,
    origin: float,
    bars: Sequence[Bar],
) -> Row:
    interval = variant.metrics[metric]
    point, zero = scale.at(interval.value), scale.at(origin)
    about = [bar for bar in bars if bar.about(variant)]
    zone = zone_of(interval.value, about)
    return Row(
        variant.name,
        _group(variant),
        short(interval.value),
        None if interval.is_point else f"{short(interval.low)} \u2013 {short(interval.high)}",
        round(min(point, zero), 2),
        round(abs(point - zero), 2),
        point,
        None if interval.is_point else scale.at(interval.low),
        None if interval.is_point else scale.at(interval.high),
        zone,
        not math.isfinite(interval.value),
        variant.note,
        _met(interval, about),
    )


def _group(variant: VariantResult) -> str | None:
    parts = [each for each in (variant.arm, variant.text, variant.checkpoint) if each is not None]
    return " \u00b7 ".join(parts) or None


def zone_of(value: float, bars: Sequence[Bar]) -> str:
    """Where a value lies among the bars that are about it: a level, ``failed`` or ``none``."""
    if not bars:
        return "none"
    by_level = {
        level: [bar for bar in bars if bar.level == level]
        for level in ("catastrophic", "strict", "lenient")
    }
    for level, those in by_level.items():
        if those and all(bar.met(value) for bar in those):
            return level
    judged = by_level["strict"] or by_level["lenient"]
    return "failed" if judged else "none"


def _met(interval: Interval, bars: Sequence[Bar]) -> str:
    """What a reader who does not see colours must know of a row."""
    told = []
    for bar in bars:
        ends = {bar.met(interval.low), bar.met(interval.high)}
        truth = "undecided" if len(ends) > 1 else "met" if bar.met(interval.value) else "not met"
        told.append(f"{bar.level} {written(bar.sign)} {short(bar.value)} {truth}")
    return ", ".join(told)


def _summary(metric: str, having: Sequence[VariantResult], bars: Sequence[Bar]) -> str:
    values = {
        " ".join(
            each for each in (variant.arm, variant.text, variant.checkpoint, variant.name) if each
        ): variant.metrics[metric].value
        for variant in having
    }
    least, most = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    told = (
        f"{named(metric)} of {least}: {short(values[least])}"
        if len(values) == 1
        else f"{named(metric)} from {short(values[least])} ({least}) to {short(values[most])} ({most})"
    )
    against = ", ".join(
        dict.fromkeys(f"{bar.level} {written(bar.sign)} {short(bar.value)}" for bar in bars)
    )
    return f"{told}; bars: {against}" if against else told


@dataclass(frozen=True)
class Cell:
    """A pair of layers in a heat map; `shade` is 0 to 8, or ``up0`` .. ``down4`` for a gap."""

    row: int
    column: int
    shade: str
    label: str
    best: bool


@dataclass(frozen=True)
class Panel:
    """One heat map: a protocol, or the gap between two."""

    title: str
    layers: int
    cells: tuple[Cell, ...]
    steps: tuple[Tick, ...]
    shades: tuple[str, ...]
    best: str


@dataclass(frozen=True)
class HeatFigure:
    """Every pair of layers, by protocol, and the gap where both were measured."""

    panels: tuple[Panel, ...]


_SHADES: Final = 9
_FAR: Final = 4
_FEWEST_PAIRS: Final = 6


def heat(result: BetResult) -> HeatFigure | None:
    """Return the heat map of swap-KL, or None where the pairs do not fill a part of the plane."""
    if len({(base.text, base.checkpoint) for base in result.bases}) != 1:
        return None
    arms: dict[str | None, dict[tuple[int, int], VariantResult]] = {}
    for variant in result.variants:
        pair = _PAIR.fullmatch(variant.target)
        if pair is not None and "swap_kl" in variant.metrics:
            arms.setdefault(variant.arm, {})[int(pair[1]), int(pair[2])] = variant
    pairs = {pair for arm in arms.values() for pair in arm}
    if len(pairs) < _FEWEST_PAIRS or len({abs(i - j) for i, j in pairs}) < 2:
        return None
    layers = max(max(pair) for pair in pairs) + 1
    values = [each.metrics["swap_kl"].value for arm in arms.values() for each in arm.values()]
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    least, most = min(positive, default=0.01), max(positive, default=1.0)
    scale = Scale(least, max(most, least * 1.01), True, 0, _SHADES)
    panels = [_panel(arm or "swap-KL", cells, layers, scale) for arm, cells in arms.items()]
    gaps = {
        pair: variant
        for arm in arms.values()
        for pair, variant in arm.items()
        if "protocol_gap" in variant.metrics
    }
    if gaps:
        panels.append(_gap(gaps, layers))
    return HeatFigure(tuple(panels))


def _panel(
    title: str, found: dict[tuple[int, int], VariantResult], layers: int, scale: Scale
) -> Panel:
    best = min(found, key=lambda pair: found[pair].metrics["swap_kl"].value)
    cells = []
    for (i, j), variant in found.items():
        interval = variant.metrics["swap_kl"]
        shade = min(_SHADES - 1, int(scale.at(interval.value)))
        label = f"layers {i} and {j}: {interval} nats per token"
        cells.append(Cell(max(i, j), min(i, j), f"q{shade}", label, (i, j) == best))
    ends = (scale.low, math.sqrt(scale.low * scale.high), scale.high)
    steps = tuple(Tick(place, short(end)) for place, end in zip((0, 50, 100), ends, strict=True))
    told = f"least {short(found[best].metrics['swap_kl'].value)} at {best[0]}\u2194{best[1]}"
    shades = tuple(f"q{shade}" for shade in range(_SHADES))
    return Panel(title, layers, tuple(cells), steps, shades, told)


def _gap(found: dict[tuple[int, int], VariantResult], layers: int) -> Panel:
    values = {pair: each.metrics["protocol_gap"] for pair, each in found.items()}
    most = max(
        (abs(each.value) for each in values.values() if math.isfinite(each.value)), default=0
    )
    cells = []
    for (i, j), interval in values.items():
        share = min(1.0, abs(interval.value) / most) if most else 0.0
        side = "up" if interval.value >= 0 else "down"
        label = f"layers {i} and {j}: replacement minus interchange {interval} nats per token"
        cells.append(
            Cell(
                max(i, j), min(i, j), f"{side}{math.ceil(share * _FAR)}", label, best=False,
            )
        )  # fmt: skip
    steps = (Tick(0, short(-most)), Tick(50, "0"), Tick(100, f"+{short(most)}"))
    shades = (*(f"down{n}" for n in range(_FAR, 0, -1)), *(f"up{n}" for n in range(_FAR + 1)))
    worse = sum(each.value > 0 for each in values.values())
    told = f"replacement is worse in {worse} of {len(values)} pairs"
    return Panel(
        "gap: replacement \u2212 interchange",
        layers,
        tuple(cells),
        steps,
        shades,
        told,
    )


@dataclass(frozen=True)
class Point:
    """A measured point of a line; `x` in per cent, `y`, `low` and `high` in pixels."""

    x: float
    y: float
    low: float | None
    high: float | None
    label: str


@dataclass(frozen=True)
class Line:
    """A series."""

    name: str
    style: int
    points: tuple[Point, ...]
    label_y: float


@dataclass(frozen=True)
class LinesFigure:
    """Lines over checkpoints or training steps."""

    title: str
    unit: str
    height: int
    xticks: tuple[Tick, ...]
    yticks: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    lines: tuple[Line, ...]
    summary: str
    more: int = 0
    dotted: bool = False
    direct: bool = False
    names_at: float = _NAMES_AT


HEIGHT: Final = 220
_TOP: Final = 14.0
_BOTTOM: Final = 192.0
_LETTERING: Final = 13.0


def _y(scale: Scale, value: float) -> float:
    share = (scale.at(value) - scale.start) / (scale.end - scale.start)
    return round(_BOTTOM - share * (_BOTTOM - _TOP), 1)


def _yticks(scale: Scale) -> tuple[Tick, ...]:
    return tuple(
        Tick(round(_BOTTOM - (each.at - scale.start) / (scale.end - scale.start) * (_BOTTOM - _TOP), 1), each.label)
        for each in scale.ticks()
    )  # fmt: skip


def _spread(lines: list[tuple[str, int, tuple[Point, ...]]]) -> tuple[Line, ...]:
    """Place the names of lines beside their ends, apart from each other."""
    placed: dict[int, float] = {}
    last = -math.inf
    for at in sorted(range(len(lines)), key=lambda each: lines[each][2][-1].y):
        last = max(lines[at][2][-1].y, last + _LETTERING)
        placed[at] = last
    over = max(0.0, last - _BOTTOM)
    return tuple(
        Line(name, style, points, round(placed[at] - over + 4, 1))
        for at, (name, style, points) in enumerate(lines)
    )


def trajectory(story: Story, metric: str) -> LinesFigure | None:
    """Return a metric over the checkpoints, or None where there is but one."""
    result = story.result
    if result is None:
        return None
    checkpoints = list(dict.fromkeys(base.checkpoint for base in result.bases))
    having = [variant for variant in result.variants if metric in variant.metrics]
    if len(checkpoints) < 2 or not having:
        return None
    series: dict[str, dict[str | None, Interval]] = {}
    for variant in having:
        name = " \u00b7 ".join(each for each in (variant.arm, variant.text, variant.name) if each)
        series.setdefault(name, {})[variant.checkpoint] = variant.metrics[metric]
    shown = dict(list(series.items())[:SERIES])
    bars = [bar for bar in story.bars if bar.metric == metric]
    found = [each for line in shown.values() for each in line.values()]
    values = [end for each in found for end in (each.value, each.low, each.high)]
    log = metric in LOGARITHMIC and all(each.value > 0 for each in found)
    scale = Scale.over([*values, *(bar.value for bar in bars)], log=log)
    direct = max(map(len, shown)) <= _LONGEST_NAME
    last = (_NAMES_AT - 3 if direct else 92.0) - 12
    xs = {name: 12 + last * at / (len(checkpoints) - 1) for at, name in enumerate(checkpoints)}
    lines = [
        (name, style, tuple(_point(xs[at], each, scale, name) for at, each in line.items()))
        for style, (name, line) in enumerate(shown.items())
    ]
    marks = tuple(
        Mark(_y(scale, bar.value), bar.level, f"{bar.level} {written(bar.sign)} {short(bar.value)}")
        for bar in dict.fromkeys(bars)
    )
    ticks = tuple(Tick(round(x, 2), str(name)) for name, x in xs.items())
    return LinesFigure(
        f"{named(metric)} by checkpoint", "log scale" if log else "", HEIGHT, ticks,
        _yticks(scale), marks, _spread(lines), _summary(metric, having, bars),
        len(series) - len(shown), dotted=True, direct=direct,
    )  # fmt: skip


def _point(x: float, interval: Interval, scale: Scale, name: str) -> Point:
    sure = interval.is_point
    return Point(
        round(x, 2),
        _y(scale, interval.value),
        None if sure else _y(scale, interval.low),
        None if sure else _y(scale, interval.high),
        f"{name}: {interval}",
    )


def recovery(variant: VariantResult) -> LinesFigure | None:
    """Return the loss over the steps of training, or None where nothing was trained."""
    noted = variant.diagnostics.get("training_loss") or ()
    steps = [(float(step), float(loss)) for step, loss in noted if math.isfinite(float(loss))]
    if len(steps) < 2:
        return None
    stride = math.ceil(len(steps) / _POINTS)
    kept = [*steps[:-1:stride], steps[-1]]
    across = Scale.over([step for step, _ in kept], log=False, start=8, end=97)
    scale = Scale.over([loss for _, loss in kept], log=False)
    points = tuple(
        Point(across.at(step), _y(scale, loss), None, None, f"step {step:.0f}: {short(loss)} nats")
        for step, loss in kept
    )
    (first, begin), (last, end) = steps[0], steps[-1]
    summary = f"loss {short(begin)} at step {first:.0f}, {short(end)} at step {last:.0f}"
    return LinesFigure(
        "training loss by step", "nats per token", HEIGHT, across.ticks(), _yticks(scale), (),
        (Line("", 0, points, 0.0),), summary,
    )  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A place in the window, or several put together: where it stands and how high."""

    x: float
    width: float
    y: float
    height: float
    harm: bool


@dataclass(frozen=True)
class Harm:
    """A token, and how much it is hurt, beside the one hurt most."""

    token: str
    count: int
    difference: str
    share: float


@dataclass(frozen=True)
class ProfileFigure:
    """Where in the window, and at which tokens, an intervention hurts."""

    columns: tuple[Column, ...]
    zero: float
    yticks: tuple[Tick, ...]
    xticks: tuple[Tick, ...]
    height: int
    tokens: tuple[Harm, ...]
    summary: str


_LOW: Final = 110
_FLOOR: Final = 88.0


def profile(found: LossProfile | None) -> ProfileFigure | None:
    """Return the loss profile as columns over the window, or None where none was measured."""
    if found is None:
        return None
    placed = [
        (at, value)
        for at, value in enumerate(found.by_position)
        if value is not None and math.isfinite(value)
    ]
    if not placed:
        return None
    size = math.ceil(len(found.by_position) / _BINS)
    bins: dict[int, list[float]] = {}
    for at, value in placed:
        bins.setdefault(at // size, []).append(value)
    means = {at: sum(values) / len(values) for at, values in bins.items()}
    scale = Scale.over([0.0, *means.values()], log=False, start=0, end=100)
    count = math.ceil(len(found.by_position) / size)
    across = Scale(0, count, log=False, start=9, end=100)

    def height(value: float) -> float:
        return round(_FLOOR - scale.at(value) / 100 * (_FLOOR - 6), 1)

    zero = height(0.0)
    columns = tuple(
        Column(
            across.at(at),
            round(max(0.2, (across.end - across.start) / count - 0.15), 2),
            min(zero, height(value)),
            max(0.6, round(abs(zero - height(value)), 1)),
            value > 0,
        )
        for at, value in means.items()
    )
    yticks = tuple(Tick(height(each), short(each)) for each in _round(scale.low, scale.high)[::2])
    positions = len(found.by_position)
    xticks = tuple(
        Tick(across.at(at / size), str(at))
        for at in dict.fromkeys((0, positions // 4, positions // 2, 3 * positions // 4))
    )
    first, rest = means[min(means)], [value for at, value in means.items() if at != min(means)]
    summary = f"first positions {short(first)} nats"
    if rest:
        summary += f", the others {short(sum(rest) / len(rest))} on average"
    return ProfileFigure(columns, zero, yticks, xticks, _LOW, _harms(found), summary)


def _harms(found: LossProfile) -> tuple[Harm, ...]:
    most = max((harm.difference for harm in found.tokens), default=0.0)
    return tuple(
        Harm(
            harm.token.replace(" ", "\u2423") or "(empty)",
            harm.count,
            f"{harm.difference:+.2f}",
            round(100 * max(0.0, harm.difference) / most, 1) if most > 0 else 0.0,
        )
        for harm in found.tokens
    )


@dataclass(frozen=True)
class Strip:
    """A bet's ratios in one line of the overview."""

    dots: tuple[Mark, ...]
    bars: tuple[Mark, ...]
    words: str


_DOTS: Final = 60


def strips(stories: Sequence[Story]) -> tuple[tuple[Strip | None, ...], tuple[Tick, ...]]:
    """Return the ratios of every bet on one common axis, and the axis."""
    metric = "perplexity_ratio"
    found = [
        [each.metrics[metric].value for each in told.result.variants if metric in each.metrics]
        if told.result is not None
        else []
        for told in stories
    ]
    bars = [[bar for bar in told.bars if bar.metric == metric] for told in stories]
    values = [value for each in found for value in each]
    limits = [
        bar.value for those, ratios in zip(bars, found, strict=True) if ratios for bar in those
    ]
    scale = Scale.over([1.0, *values, *limits], log=True, start=3, end=97)
    drawn: list[Strip | None] = []
    for told, ratios, those in zip(stories, found, bars, strict=True):
        if not ratios:
            drawn.append(None)
            continue
        assert told.result is not None
        rows = [each for each in told.result.variants if metric in each.metrics][:_DOTS]
        dots = tuple(
            Mark(
                scale.at(each.metrics[metric].value),
                zone_of(each.metrics[metric].value, [bar for bar in those if bar.about(each)]),
                each.name,
            )
            for each in rows
        )
        words = short(min(ratios))
        if max(ratios) != min(ratios):
            words = f"{words} \u2013 {short(max(ratios))}"
        drawn.append(Strip(dots, _marks(those, scale), words))
    return tuple(drawn), scale.ticks()
