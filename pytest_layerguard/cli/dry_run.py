"""Planning a bet's variants without a model: a bench that has the shape of one and no weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pytest_layerguard.bet.arguments import variants
from pytest_layerguard.bet.targets import TargetError
from pytest_layerguard.measurement.sweep import evaluations
from pytest_layerguard.models.layer_parts import ExpertBank, LayerParts
from pytest_layerguard.models.plan import Edit, InterventionError, Plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pytest_layerguard.bet.arguments import Train
    from pytest_layerguard.bet.bet import Bet
    from pytest_layerguard.interventions.registry import Registry


class NoPlanError(Exception):
    """Variants that cannot be planned without the model; the text says why."""


@dataclass(frozen=True)
class Cost:
    """What a bet runs, counted in runs of one layer over all tokens of a text.

    Attributes:
        variants: Their names, in order.
        shared: Layer evaluations of base and variants, what they share run once.
        alone: Layer evaluations if each were run by itself.
        choosing: Layer evaluations that decide what is done, before anything is scored.
        training: Windows that training goes through, forward and backward.
    """

    variants: tuple[str, ...]
    shared: int
    alone: int
    choosing: int = 0
    training: int = 0


@dataclass
class _Bench:
    """Has the shape of a model; where an intervention asks what a run would tell, any answer will do."""

    layers: int
    experts: int
    choosing: int = 0
    training: int = 0
    noted: dict[str, Any] = field(default_factory=dict)

    def parts(self, layer: int) -> LayerParts:
        expert = torch.zeros(max(self.experts, 1), 1, 1)
        bank = ExpertBank(
            "experts",
            self.experts,
            fused=("experts.weight",),
            router=("router.weight",),
            counters=("experts:count",),
        )
        return LayerParts(
            index=layer,
            module=nn.Module(),
            tensors={"experts.weight": expert, "weight": expert[0]},
            banks=(bank,) if self.experts else (),
            linear=("experts.weight", "weight") if self.experts else ("weight",),
            post_norms=(),
        )

    def reinitialised(self, layer: int, seed: int) -> Mapping[str, Tensor]:
        del layer, seed
        return {}

    def expert_use(self, plan: Plan) -> Mapping[tuple[int, str], Sequence[int]]:
        self.choosing += len(plan.steps)
        return {(step.slot, "experts"): range(self.experts) for step in plan.steps}

    def pair_distances(self, plan: Plan, protocol: str) -> Mapping[tuple[int, int], float]:
        slots = [step.slot for step in plan.steps]
        pairs = list(combinations(slots, 2))
        tried = [plan]
        for i, j in pairs:
            one, other = plan.weights_at(i), plan.weights_at(j)
            assert one is not None
            assert other is not None
            both = {i: other, j: one}
            directed = [both] if protocol == "interchange" else [{i: other}, {j: one}]
            tried += [plan.rebound(each) for each in directed]
        self.choosing += evaluations(tried)
        return dict.fromkeys(pairs, 0.0)

    def block_influence(self, plan: Plan) -> Sequence[float]:
        self.choosing += len(plan.steps)
        return [0.0] * self.layers

    def train(self, plan: Plan, arguments: Train) -> Plan:
        self.training += arguments.steps * arguments.batch
        trained = Edit(("train", arguments.model_dump_json()), lambda tensors, _: tensors)
        steps = (replace(step, weights=step.weights.edited(trained)) for step in plan.steps)
        return replace(plan, steps=tuple(steps))

    def note(self, name: str, value: Any) -> None:
        self.noted[name] = value


def cost(bet: Bet, registry: Registry, layers: int, experts: int) -> Cost:
    """Plan every variant of a bet on a model of so many layers and experts, and count.

    Raises:
        NoPlanError: If that takes the model itself, or the model lacks what is named.
    """
    bench = _Bench(layers, experts)
    base = Plan.untouched(layers)
    named: list[str] = []
    plans: list[Plan] = []
    for arm, interventions in bet.arm_interventions.items():
        try:
            for variant in variants(interventions, layers):
                made: Sequence[Plan] = (base,)
                for each in variant.interventions:
                    carry_out = registry[each.kind].load()
                    made = [new for old in made for new in carry_out(old, each.arguments, bench)]
                named.append(variant.slug if arm is None else f"{arm}: {variant.slug}")
                plans += made
        except (TargetError, InterventionError) as error:
            raise NoPlanError(str(error)) from None
        except Exception as error:  # an intervention of another package may want more of a model
            raise NoPlanError(
                f"that takes the model itself ({type(error).__name__}: {error})"
            ) from None
    everything = [base, *plans]
    return Cost(
        tuple(named),
        shared=evaluations(everything),
        alone=sum(len(plan.steps) for plan in dict.fromkeys(everything)),
        choosing=bench.choosing,
        training=bench.training,
    )
