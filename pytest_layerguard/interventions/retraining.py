"""The intervention that trains what the interventions before it left."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_layerguard.bet.arguments import Train
    from pytest_layerguard.interventions.bench import Bench
    from pytest_layerguard.models.plan import Plan


def train(plan: Plan, arguments: Train, bench: Bench) -> tuple[Plan, ...]:
    """Trains the plan's weights, on text or towards the original layer's output."""
    return (bench.train(plan, arguments),)
