"""The built-in interventions, each by the name that bet files use."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_layerguard.interventions.activations import quantize_activations, quantize_kv_cache
from pytest_layerguard.interventions.experts import (
    average_experts,
    drop_experts,
    merge_experts,
)
from pytest_layerguard.interventions.layers import (
    interchange_layers,
    merge_layers,
    reinitialize_layers,
    remove_layers,
    repeat_layers,
    replace_layers,
    skip_layers,
    zero_layers,
)
from pytest_layerguard.interventions.weights import (
    low_rank,
    prune_weights,
    quantize_weights,
    ternary_weights,
)

if TYPE_CHECKING:
    from pytest_layerguard.bet.arguments import CandidateArguments, Train
    from pytest_layerguard.interventions.bench import Bench
    from pytest_layerguard.models.plan import Plan

__all__ = [
    "average_experts",
    "cast",
    "drop_experts",
    "interchange_layers",
    "load_checkpoint",
    "low_rank",
    "merge_experts",
    "merge_layers",
    "prune_weights",
    "quantize_activations",
    "quantize_kv_cache",
    "quantize_weights",
    "reinitialize_layers",
    "remove_layers",
    "repeat_layers",
    "replace_layers",
    "skip_layers",
    "ternary_weights",
    "train",
    "zero_layers",
]


def load_checkpoint(plan: Plan, arguments: CandidateArguments, bench: Bench) -> tuple[Plan, ...]:
    """Put another model in the place of all that the plan runs."""
    del bench
    return (replace(plan, candidate=arguments),)


cast = load_checkpoint


def train(plan: Plan, arguments: Train, bench: Bench) -> tuple[Plan, ...]:
    """Train the plan's weights, on text or towards the original layer's output."""
    return (bench.train(plan, arguments),)
