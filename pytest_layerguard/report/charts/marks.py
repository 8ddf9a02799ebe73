"""Marks across a figure and words beside it: thresholds, units, and a sentence for screen readers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.bet.criteria.metrics import built_in
from pytest_layerguard.report.words import metric_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_layerguard.bet.criteria.interval import Interval
    from pytest_layerguard.measurement.results import VariantResult
    from pytest_layerguard.report.bet_report import Threshold
    from pytest_layerguard.report.charts.axes import Scale


RATIO: Final = "perplexity_ratio"
LOGARITHMIC: Final = frozenset({"perplexity", "base_perplexity", RATIO})
"""Metrics that are compared as ratios."""
ARROW: Final = "\u2194"
_NAMES: Final = 3
"""Arms, texts or checkpoints that the label of a bar names at the most."""
UNCHANGED: Final = {"perplexity_ratio": 1.0, "top1_agreement": 1.0, "size_ratio": 1.0}
"""The values of an unchanged model; zero for every other metric."""


@dataclass(frozen=True)
class Mark:
    """A threshold of a criterion, drawn across the rows."""

    at: float
    level: str
    label: str
    thresholds: tuple[Threshold, ...] = ()

    def crosses(self, variant: VariantResult) -> bool:
        """Return whether to draw the mark across a variant, which may be of another arm."""
        return any(each.is_about(variant) for each in self.thresholds)


def marks_of(thresholds: Sequence[Threshold], scale: Scale) -> tuple[Mark, ...]:
    """Return the thresholds of a metric on its axis, each once, with the names that they compare."""
    alike: dict[tuple[str, str, float], list[Threshold]] = {}
    for each in sorted(thresholds, key=lambda each: each.value):
        alike.setdefault((each.level, each.sign, each.value), []).append(each)
    return tuple(
        Mark(scale.at(value), level, label_of(those), tuple(those))
        for (level, _, value), those in alike.items()
    )


def label_of(thresholds: Sequence[Threshold]) -> str:
    """Return one label for thresholds that differ only in the arm, text or checkpoint that they compare."""
    first = thresholds[0]
    if not all(each.prefix for each in thresholds):
        return first.label
    common = [name for name in first.prefix if all(name in each.prefix for each in thresholds)]
    whose = [".".join(common)] if common else [".".join(each.prefix) for each in thresholds]
    names = list(dict.fromkeys(whose))
    return f"{first.label} ({', '.join(names[:_NAMES])}{', ...' if len(names) > _NAMES else ''})"


def unit_of(metric: str) -> str:
    """Return the unit of a metric, or the empty string."""
    known = built_in(metric)
    return "" if known is None or known.unit == "1" else known.unit


def each_once(metric: str, variants: Iterable[VariantResult]) -> list[VariantResult]:
    """Return the variants that have a metric; of a metric that spans arms, each pair once."""
    having = [variant for variant in variants if metric in variant.metrics]
    known = built_in(metric)
    if known is None or not known.spans_arms:
        return having
    pairs = {(variant.text, variant.checkpoint, variant.target): variant for variant in having}
    return [
        replace(pair, arm=None, name=pair.target.replace("-", ARROW)) for pair in pairs.values()
    ]


def between(interval: Interval) -> str | None:
    """Return the ends of an interval, or None where there is no uncertainty."""
    if interval.is_point:
        return None
    if math.isinf(interval.high) and math.isfinite(interval.low):
        return "or more" if interval.low == interval.value else f"{short(interval.low)} or more"
    return f"{short(interval.low)} \u2013 {short(interval.high)}"


def zone_of(value: float, thresholds: Sequence[Threshold]) -> str:
    """Return where a value lies among its thresholds: a level, ``failed`` or ``none``."""
    by_level = {
        level: [each for each in thresholds if each.level == level]
        for level in ("catastrophic", "strict", "lenient")
    }
    for level, those in by_level.items():
        if those and all(each.met(value) for each in those):
            return level
    return "failed" if by_level["strict"] or by_level["lenient"] else "none"


def summary(metric: str, having: Sequence[VariantResult], thresholds: Sequence[Threshold]) -> str:
    """Return what a figure shows, in a sentence."""
    values = {
        " ".join(
            each for each in (variant.arm, variant.text, variant.checkpoint, variant.name) if each
        ): variant.metrics[metric].value
        for variant in having
    }
    least, most = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    name = metric_name(metric)
    values_shown = (
        f"{name} of {least}: {short(values[least])}"
        if len(values) == 1
        else f"{name} from {short(values[least])} ({least}) to {short(values[most])} ({most})"
    )
    bars = ", ".join(dict.fromkeys(each.label for each in thresholds))
    return f"{values_shown}; bars: {bars}" if bars else values_shown
