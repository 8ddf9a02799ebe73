"""The loss that an intervention adds, by position in the window and by token."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.report.charts.axes import Scale, Tick, round_numbers

if TYPE_CHECKING:
    from pytest_layerguard.measurement.results import LossProfile


_BINS: Final = 96
_LOW: Final = 117
_LETTERS: Final = 13.0
"""Room above the uppermost line, on which a number may stand."""
_FLOOR: Final = 95.0
_YTICKS: Final = 4


@dataclass(frozen=True)
class ProfileColumn:
    """A position in the window, or several together: where the column stands and how high it is."""

    x: float
    width: float
    y: float
    height: float
    harm: bool


@dataclass(frozen=True)
class HurtToken:
    """A token, the loss added to it, and its share of the largest one."""

    token: str
    count: int
    difference: str
    share: float


@dataclass(frozen=True)
class LossProfileChart:
    """The loss that an intervention adds, by position in the window and by token."""

    columns: tuple[ProfileColumn, ...]
    zero: float
    yticks: tuple[Tick, ...]
    xticks: tuple[Tick, ...]
    height: int
    tokens: tuple[HurtToken, ...]
    summary: str


def profile_chart(found: LossProfile | None) -> LossProfileChart | None:
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
        return round(_FLOOR - scale.at(value) / 100 * (_FLOOR - _LETTERS), 1)

    zero = height(0.0)
    columns = tuple(
        ProfileColumn(
            across.at(at),
            round(max(0.2, (across.end - across.start) / count - 0.15), 2),
            min(zero, height(value)),
            max(0.6, round(abs(zero - height(value)), 1)),
            value > 0,
        )
        for at, value in means.items()
    )
    steps = round_numbers(scale.low, scale.high)
    if len(steps) > _YTICKS:
        # Numbered from zero.
        steps = steps[steps.index(0.0) % 2 :: 2]
    yticks = tuple(Tick(height(each), short(each)) for each in steps)
    positions = len(found.by_position)
    xticks = tuple(
        Tick(across.at(at / size), str(at))
        for at in dict.fromkeys((0, positions // 4, positions // 2, 3 * positions // 4))
    )
    first, rest = means[min(means)], [value for at, value in means.items() if at != min(means)]
    summary = f"first positions {short(first)} nats"
    if rest:
        summary += f", the others {short(sum(rest) / len(rest))} on average"
    return LossProfileChart(columns, zero, yticks, xticks, _LOW, _harms(found), summary)


def _harms(found: LossProfile) -> tuple[HurtToken, ...]:
    hurt = [harm for harm in found.tokens if harm.difference > 0]
    most = max((harm.difference for harm in hurt), default=0.0)
    return tuple(
        HurtToken(
            harm.token.replace(" ", "\u2423") or "(empty)",
            harm.count,
            # Two places would make all of a small harm zero.
            f"{harm.difference:+.2f}" if harm.difference >= 0.01 else f"{harm.difference:+.1g}",
            round(100 * harm.difference / most, 1),
        )
        for harm in hurt
    )
