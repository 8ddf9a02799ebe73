"""The built-in interventions: the module of each, and those that need none of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pytest_layerguard.bet.arguments import CandidateArguments, LoadResults, Train
    from pytest_layerguard.interventions.bench import Bench
    from pytest_layerguard.models.plan import Plan

MODULES: Final = {
    "average_experts": "experts",
    "cast": "builtin",
    "drop_experts": "experts",
    "interchange_layers": "layers",
    "load_checkpoint": "builtin",
    "load_results": "builtin",
    "low_rank": "weights",
    "merge_experts": "experts",
    "merge_layers": "layers",
    "prune_weights": "weights",
    "quantize_activations": "activations",
    "quantize_kv_cache": "activations",
    "quantize_weights": "weights",
    "reinitialize_layers": "layers",
    "remove_layers": "layers",
    "repeat_layers": "layers",
    "replace_layers": "layers",
    "skip_layers": "layers",
    "ternary_weights": "weights",
    "train": "builtin",
    "zero_layers": "layers",
}
"""The module of this package that has the function of a built-in intervention, by the name that bet files use."""


def load_checkpoint(plan: Plan, arguments: CandidateArguments, bench: Bench) -> tuple[Plan, ...]:
    """Put another model in the place of all that the plan runs."""
    del bench
    return (replace(plan, candidate=arguments),)


cast = load_checkpoint


def load_results(plan: Plan, arguments: LoadResults, bench: Bench) -> tuple[Plan, ...]:
    """Run no plan: it was measured elsewhere."""
    del plan, arguments, bench
    return ()


def train(plan: Plan, arguments: Train, bench: Bench) -> tuple[Plan, ...]:
    """Train the plan's weights, on text or towards the original layer's output."""
    return (bench.train(plan, arguments),)
