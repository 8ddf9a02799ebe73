"""What is written at a figure and drawn across it: names, bars of criteria, a sentence for who cannot see it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.bet.criteria.metrics import METRICS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_layerguard.bet.criteria.interval import Interval
    from pytest_layerguard.measurement.results import VariantResult
    from pytest_layerguard.report.charts.axes import Scale
    from pytest_layerguard.report.story import Bar


LOGARITHMIC: Final = frozenset({"perplexity", "base_perplexity", "perplexity_ratio"})
"""Metrics whose differences are felt as factors."""
ARROW: Final = "\u2194"
_NAMES: Final = 3
"""Arms, texts or checkpoints that the label of a bar names at the most."""
UNCHANGED: Final = {"perplexity_ratio": 1.0, "top1_agreement": 1.0, "size_ratio": 1.0}
"""What a metric is where nothing was done; else zero."""


@dataclass(frozen=True)
class Mark:
    """A bar of a criterion, drawn across the rows."""

    at: float
    level: str
    label: str
    bars: tuple[Bar, ...] = ()

    def crosses(self, variant: VariantResult) -> bool:
        """Whether the bar is about a variant; a bar of one arm is not drawn across another's."""
        return any(bar.about(variant) for bar in self.bars)


def named(metric: str) -> str:
    """A metric's name as people write it."""
    return metric.replace("_", " ").replace("kl", "KL").replace("top1", "top-1")


def marks_of(bars: Sequence[Bar], scale: Scale) -> tuple[Mark, ...]:
    """The bars of a metric on its axis, each once, with whose they are where that is said."""
    alike: dict[tuple[str, str, float], list[Bar]] = {}
    for bar in sorted(bars, key=lambda each: each.value):
        alike.setdefault((bar.level, bar.sign, bar.value), []).append(bar)
    return tuple(
        Mark(scale.at(value), level, label_of(those), tuple(those))
        for (level, _, value), those in alike.items()
    )


def label_of(bars: Sequence[Bar]) -> str:
    """Name bars that differ in nothing but in whom they are about."""
    first = bars[0]
    label = f"{first.level} {written(first.sign)} {short(first.value)}"
    if not all(bar.prefix for bar in bars):
        return label
    common = [name for name in first.prefix if all(name in bar.prefix for bar in bars)]
    whose = [".".join(common)] if common else [".".join(bar.prefix) for bar in bars]
    names = list(dict.fromkeys(whose))
    return f"{label} ({', '.join(names[:_NAMES])}{', ...' if len(names) > _NAMES else ''})"


def told_of(metric: str) -> str:
    """The unit of a metric, where it has one that a reader would miss."""
    known = METRICS.get(metric)
    return "" if known is None or known.unit == "1" else known.unit


def each_once(metric: str, variants: Iterable[VariantResult]) -> list[VariantResult]:
    """Variants that have a metric; of a metric that spans arms, each pair once."""
    having = [variant for variant in variants if metric in variant.metrics]
    known = METRICS.get(metric)
    if known is None or not known.spans_arms:
        return having
    pairs = {(variant.text, variant.checkpoint, variant.target): variant for variant in having}
    return [
        replace(pair, arm=None, name=pair.target.replace("-", ARROW)) for pair in pairs.values()
    ]


def between(interval: Interval) -> str | None:
    """The ends of an interval, or None where there is no uncertainty."""
    if interval.is_point:
        return None
    if math.isinf(interval.high) and math.isfinite(interval.low):
        return "or more" if interval.low == interval.value else f"{short(interval.low)} or more"
    return f"{short(interval.low)} \u2013 {short(interval.high)}"


def written(sign: str) -> str:
    """A comparison as it is printed."""
    return {"<=": "\u2264", ">=": "\u2265"}.get(sign, sign)


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


def summary(metric: str, having: Sequence[VariantResult], bars: Sequence[Bar]) -> str:
    """What a figure shows, in a sentence."""
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
