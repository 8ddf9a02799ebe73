"""Names for packages that bring an intervention or a metric of their own.

These names are stable. Importing them imports neither torch nor numpy, so a module that only declares kinds and
metrics may import it whenever bets are read.
"""

from __future__ import annotations

from pytest_layerguard.bet.arguments import Arguments, LayersArguments, PairsArguments
from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.bet.criteria.metrics import OwnMetric
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.interventions.bench import Bench, Implementation
from pytest_layerguard.interventions.registry import Kind
from pytest_layerguard.measurement.metrics.own_metrics import ScoredTokens
from pytest_layerguard.measurement.results import (
    BetResult,
    Continuation,
    VariantResult,
)
from pytest_layerguard.models.layer_parts import LayerParts, Tensors
from pytest_layerguard.models.plan import Edit, InterventionError, Plan, Weights
from pytest_layerguard.report.bet_report import BetReport

__all__ = [
    "Arguments",
    "Bench",
    "BetReport",
    "BetResult",
    "Continuation",
    "Edit",
    "Implementation",
    "Interval",
    "InterventionError",
    "Kind",
    "LayerParts",
    "LayersArguments",
    "MeasurementError",
    "OwnMetric",
    "PairsArguments",
    "Plan",
    "ScoredTokens",
    "Tensors",
    "VariantResult",
    "Weights",
]
