"""A plot of lines in panels beside each other, both axes logarithmic, as an SVG for light and dark pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.report.charts import Scale

_WIDE, _HIGH = 210, 190
_LEFT, _TOP, _GAP, _BOTTOM = 52, 34, 26, 46
_STYLE = """\
text { font: 12px system-ui, sans-serif; fill: #424a53 }
.title { font-weight: 600; fill: #1f2328 }
.grid { stroke: #d1d9e0; stroke-width: 1 }
.line { fill: none; stroke-width: 2.5; stroke-linejoin: round }
.ours { stroke: #0969da } .theirs { stroke: #bc4c00; stroke-dasharray: 6 4 }
circle.ours { fill: #0969da } circle.theirs { fill: #bc4c00; stroke-dasharray: none }
@media (prefers-color-scheme: dark) {
  text { fill: #b7bdc8 } .title { fill: #f0f6fc } .grid { stroke: #3d444d }
  .ours { stroke: #58a6ff } .theirs { stroke: #f0883e }
  circle.ours { fill: #58a6ff } circle.theirs { fill: #f0883e }
}"""


@dataclass(frozen=True)
class Line:
    """Points ``(x, y)``, joined; its kind is a class of the style sheet, ``ours`` or ``theirs``."""

    name: str
    kind: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Panel:
    """Lines over one axis."""

    title: str
    lines: tuple[Line, ...]


def drawn(panels: Sequence[Panel], unit: str) -> str:
    """The plot as the text of an SVG; all panels share the upright axis, so that they can be compared."""
    upright = Scale.over(
        (y for panel in panels for line in panel.lines for _, y in line.points), log=True
    )
    width = _LEFT + len(panels) * (_WIDE + _GAP)
    height = _TOP + _HIGH + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(unit)} by {escape(", ".join(panel.title for panel in panels))}">',
        f"<style>{_STYLE}</style>",
        f'<text x="4" y="14">{escape(unit)}</text>',
        *_legend(panels[0].lines, width),
    ]
    for place, panel in enumerate(panels):
        left = _LEFT + place * (_WIDE + _GAP)
        parts += _panel(panel, left, upright, labelled=place == 0)
    return "\n".join([*parts, "</svg>", ""])


def _legend(lines: Sequence[Line], width: int) -> list[str]:
    found = []
    for place, line in enumerate(reversed(lines)):
        right = width - _GAP - place * 120
        found += [
            f'<path class="line {line.kind}" d="M{right - 110} 10h28"/>',
            f'<text x="{right - 76}" y="14">{escape(line.name)}</text>',
        ]
    return found


def _panel(panel: Panel, left: int, upright: Scale, *, labelled: bool) -> list[str]:
    across = Scale.over((x for line in panel.lines for x, _ in line.points), log=True)
    down = _TOP + _HIGH
    found = []
    for tick in upright.ticks():
        y = down - tick.at / 100 * _HIGH
        found.append(f'<path class="grid" d="M{left} {y:.1f}h{_WIDE}"/>')
        if labelled:
            found.append(
                f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{tick.label}</text>'
            )
    for value in (x for x, _ in panel.lines[0].points):
        x = left + across.at(value) / 100 * _WIDE
        found.append(
            f'<text x="{x:.1f}" y="{down + 18}" text-anchor="middle">{_named(value)}</text>'
        )
    middle = left + _WIDE / 2
    found.append(
        f'<text class="title" x="{middle}" y="{down + 38}" text-anchor="middle">{escape(panel.title)}</text>'
    )
    for line in panel.lines:
        places = [
            (left + across.at(x) / 100 * _WIDE, down - upright.at(y) / 100 * _HIGH)
            for x, y in line.points
        ]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        found.append(f'<path class="line {line.kind}" d="M{path}"/>')
        found += [
            f'<circle class="{line.kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places
        ]
    return found


def _named(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else short(value)
