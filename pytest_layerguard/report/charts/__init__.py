"""Figures as geometry: scales, ticks, rows, cells and lines, which the page's template draws.

Drawn by hand rather than by a plotting library, for three reasons: colours come from the page's own
style sheet and so follow the reader's theme; letters are letters, of a size that does not shrink
with a phone; and nothing needs a ``style`` attribute, which the page's content security policy
forbids. Horizontal places are per cents, so that one figure fits every width.
"""

from pytest_layerguard.report.charts.answers import AnswersChart, answer_charts
from pytest_layerguard.report.charts.axes import Scale, Tick
from pytest_layerguard.report.charts.bars import BarChart, OverviewStrip, bar_chart, overview_strips
from pytest_layerguard.report.charts.curves import (
    LineChart,
    layer_chart,
    tail_chart,
    training_chart,
    trajectory_chart,
)
from pytest_layerguard.report.charts.heatmap import HeatMap, heat_map
from pytest_layerguard.report.charts.loss_profile import LossProfileChart, profile_chart
from pytest_layerguard.report.charts.marks import Mark, between

__all__ = [
    "AnswersChart",
    "BarChart",
    "HeatMap",
    "LineChart",
    "LossProfileChart",
    "Mark",
    "OverviewStrip",
    "Scale",
    "Tick",
    "answer_charts",
    "bar_chart",
    "between",
    "heat_map",
    "layer_chart",
    "overview_strips",
    "profile_chart",
    "tail_chart",
    "training_chart",
    "trajectory_chart",
]
