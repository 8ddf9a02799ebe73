"""Figures as geometry: scales, ticks, rows, cells and lines, which the page's template draws.

Drawn by hand rather than by a plotting library, for three reasons: colours come from the page's own
style sheet and so follow the reader's theme; letters are letters, of a size that does not shrink
with a phone; and nothing needs a ``style`` attribute, which the page's content security policy
forbids. Horizontal places are per cents, so that one figure fits every width.
"""

from pytest_layerguard.report.charts.axes import Scale, Tick
from pytest_layerguard.report.charts.bars import Row, RowsFigure, rows
from pytest_layerguard.report.charts.curves import LinesFigure, recovery, trajectory
from pytest_layerguard.report.charts.heatmap import HeatFigure, heat
from pytest_layerguard.report.charts.loss_profile import ProfileFigure, profile
from pytest_layerguard.report.charts.marks import Mark, named, written, zone_of
from pytest_layerguard.report.charts.overview import Strip, strips

__all__ = [
    "HeatFigure",
    "LinesFigure",
    "Mark",
    "ProfileFigure",
    "Row",
    "RowsFigure",
    "Scale",
    "Strip",
    "Tick",
    "heat",
    "named",
    "profile",
    "recovery",
    "rows",
    "strips",
    "trajectory",
    "written",
    "zone_of",
]
