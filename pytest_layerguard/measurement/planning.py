"""From the variants that a bet declares to the plans that carry them out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_layerguard.bet.arguments import variants
from pytest_layerguard.bet.targets import TargetError
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.models.plan import InterventionError, Plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_layerguard.bet.bet import Bet
    from pytest_layerguard.environment.budget import Budget
    from pytest_layerguard.interventions.registry import Registry
    from pytest_layerguard.measurement.workbench import Workbench


@dataclass(frozen=True)
class Arm:
    """One variant of one arm, ready to run.

    Attributes:
        arm: The arm's name, or None where the bet has no arms.
        name: The variant's slug.
        target: What it touches.
        kinds: What is done, in order.
        plans: How it is run; several where a variant is several directed changes.
        notes: What making the plans brought to light.
    """

    arm: str | None
    name: str
    target: str
    kinds: tuple[str, ...]
    plans: tuple[Plan, ...]
    notes: Mapping[str, Any]


def planned(bet: Bet, bench: Workbench, registry: Registry, budget: Budget) -> list[Arm]:
    """Plans every variant of every arm of a bet.

    Raises:
        MeasurementError: If the model lacks what an intervention names, or there are too many variants.
    """
    arms: list[Arm] = []
    budget.check("layers", bench.layers, "layers of the model")
    count = 0
    for arm, interventions in bet.arm_interventions.items():
        try:
            found = variants(interventions, bench.layers)
            count += len(found)
            budget.check("variants", count, "variants")
            for variant in found:
                plans: Sequence[Plan] = (Plan.untouched(bench.layers),)
                for each in variant.interventions:
                    carry_out = registry[each.kind].load()
                    plans = [
                        made for plan in plans for made in carry_out(plan, each.arguments, bench)
                    ]
                kinds = tuple(each.kind for each in variant.interventions)
                arms.append(
                    Arm(arm, variant.slug, variant.target, kinds, tuple(plans), bench.notes())
                )
        except (TargetError, InterventionError) as error:
            raise MeasurementError(f"{f'arm {arm}: ' if arm else ''}{error}") from error
    return arms
