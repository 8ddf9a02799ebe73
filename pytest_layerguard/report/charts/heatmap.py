"""Every pair of layers as a heat map, by protocol, and the gap between them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.report.charts.axes import Scale, Tick

if TYPE_CHECKING:
    from pytest_layerguard.measurement.results import BetResult, VariantResult


_PAIR: Final = re.compile(r"(\d+)-(\d+)")
_SHADES: Final = 9
_FAR: Final = 4
_FEWEST_PAIRS: Final = 6


@dataclass(frozen=True)
class HeatCell:
    """A pair of layers in a heat map; `shade` is 0 to 8, or ``up0`` .. ``down4`` for a gap."""

    row: int
    column: int
    shade: str
    label: str
    best: bool


@dataclass(frozen=True)
class HeatPanel:
    """One heat map: a protocol, or the gap between two."""

    title: str
    layers: int
    cells: tuple[HeatCell, ...]
    steps: tuple[Tick, ...]
    shades: tuple[str, ...]
    best: str


@dataclass(frozen=True)
class HeatMap:
    """Every pair of layers, by protocol, and the gap where both were measured."""

    panels: tuple[HeatPanel, ...]


def heat_map(result: BetResult) -> HeatMap | None:
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
    return HeatMap(tuple(panels))


def _panel(
    title: str, found: dict[tuple[int, int], VariantResult], layers: int, scale: Scale
) -> HeatPanel:
    best = min(found, key=lambda pair: found[pair].metrics["swap_kl"].value)
    cells = []
    for (i, j), variant in found.items():
        interval = variant.metrics["swap_kl"]
        shade = min(_SHADES - 1, int(scale.at(interval.value)))
        label = f"layers {i} and {j}: {interval} nats per token"
        cells.append(HeatCell(max(i, j), min(i, j), f"q{shade}", label, (i, j) == best))
    ends = (scale.low, math.sqrt(scale.low * scale.high), scale.high)
    steps = tuple(Tick(place, short(end)) for place, end in zip((0, 50, 100), ends, strict=True))
    least = f"least {short(found[best].metrics['swap_kl'].value)} at {best[0]}\u2194{best[1]}"
    shades = tuple(f"q{shade}" for shade in range(_SHADES))
    return HeatPanel(title, layers, tuple(cells), steps, shades, least)


def _gap(found: dict[tuple[int, int], VariantResult], layers: int) -> HeatPanel:
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
            HeatCell(max(i, j), min(i, j), f"{side}{math.ceil(share * _FAR)}", label, best=False)
        )
    steps = (Tick(0, short(-most)), Tick(50, "0"), Tick(100, f"+{short(most)}"))
    shades = (*(f"down{n}" for n in range(_FAR, 0, -1)), *(f"up{n}" for n in range(_FAR + 1)))
    worse = sum(each.value > 0 for each in values.values())
    worse_in = f"replacement is worse in {worse} of {len(values)} pairs"
    return HeatPanel(
        "gap: replacement \u2212 interchange",
        layers,
        tuple(cells),
        steps,
        shades,
        worse_in,
    )
