"""Hooks that other packages and conftest files can implement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_layerguard.bet.criteria.metrics import OwnMetric
    from pytest_layerguard.interventions.registry import Kind
    from pytest_layerguard.measurement.measurer import Measurer
    from pytest_layerguard.report.bet_report import BetReport


@pytest.hookspec
def pytest_layerguard_interventions(config: pytest.Config) -> Sequence[Kind] | None:
    """Return interventions that bet files may name; called once, before the first bet is read."""


@pytest.hookspec
def pytest_layerguard_metrics(config: pytest.Config) -> Sequence[OwnMetric] | None:
    """Return metrics that criteria may name; called once, before the first bet is read."""


@pytest.hookspec(firstresult=True)
def pytest_layerguard_measurer(config: pytest.Config) -> Measurer | None:
    """Return the measurer of this process; called once, when the first bet runs."""


@pytest.hookspec
def pytest_layerguard_report_lines(
    config: pytest.Config, bets: Sequence[BetReport]
) -> Sequence[str] | None:
    """Return lines to print below the table of bets."""
