"""What is written at a figure and drawn across it: names, bars of criteria, a sentence for who cannot see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.interval import short

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_layerguard.lab.results import VariantResult
    from pytest_layerguard.report.plots.axes import Scale
    from pytest_layerguard.report.story import Bar


LOGARITHMIC: Final = frozenset({"perplexity", "base_perplexity", "perplexity_ratio"})
"""Metrics whose differences are felt as factors."""
UNCHANGED: Final = {"perplexity_ratio": 1.0, "top1_agreement": 1.0, "size_ratio": 1.0}
"""What a metric is where nothing was done; else zero."""


@dataclass(frozen=True)
class Mark:
    """A bar of a criterion, drawn across the rows."""

    at: float
    level: str
    label: str


def named(metric: str) -> str:
    """A metric's name as people write it."""
    return metric.replace("_", " ").replace("kl", "KL").replace("top1", "top-1")


def marks_of(bars: Sequence[Bar], scale: Scale) -> tuple[Mark, ...]:
    """The bars of a metric on its axis, each once."""
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
