"""The ratios of every bet on one common axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.report.charts.axes import Scale, Tick
from pytest_layerguard.report.charts.marks import Mark, marks_of, zone_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_layerguard.report.story import Story


_DOTS: Final = 60


@dataclass(frozen=True)
class Strip:
    """A bet's ratios in one line of the overview."""

    dots: tuple[Mark, ...]
    bars: tuple[Mark, ...]
    words: str


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
        drawn.append(Strip(dots, marks_of(those, scale), words))
    return tuple(drawn), scale.ticks()
