"""What measuring a bet costs, counted by planning its variants without a model."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, cast

from pytest_layerguard.bet.arguments import BUILTIN_KINDS, variants
from pytest_layerguard.bet.targets import TargetError
from pytest_layerguard.catalogue.model_facts import ModelFacts, parameters_in_name
from pytest_layerguard.environment.allowed_paths import AllowedPaths
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.models.branches import Branch
from pytest_layerguard.models.layer_parts import ExpertBank, LayerParts
from pytest_layerguard.models.plan import Edit, InterventionError, Plan, evaluations

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from pytest_layerguard.bet.arguments import Train
    from pytest_layerguard.bet.bet import Bet, Measure
    from pytest_layerguard.bet.model_source import ModelSource
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.bet.text_sources import TextSource
    from pytest_layerguard.catalogue.model_facts import ModelLookup
    from pytest_layerguard.interventions.registry import Registry
    from pytest_layerguard.models.kv_cache import Changed
    from pytest_layerguard.models.plan import Weights

_WINDOW: Final = 512
_ALL_TOKENS: Final = 250_000
"""About the tokens of WikiText-2's test split, for contracts that score all of a text."""
_LOADING: Final = 1_000
"""The cost of loading a model, in tokens through all of its layers."""
_READ: Final = 4
"""The tokens that are scored in the time in which one is generated, for which all weights are read from memory."""
_PARAMETERS: Final = 1_000_000_000
_LAYERS: Final = 24
_EXPERTS: Final = 128
"""The facts that are assumed of an unknown model."""


class NoPlanError(Exception):
    """Variants that cannot be planned without the model; the text says why."""


class ImpossiblePlanError(NoPlanError):
    """Variants that cannot be planned with the model either.

    Attributes:
        arm: The arm that they are of, or None.
    """

    def __init__(self, why: str, arm: str | None) -> None:
        super().__init__(why)
        self.arm = arm


@dataclass(frozen=True)
class Cost:
    """What a bet runs on one checkpoint.

    Attributes:
        layers: Layers of the model.
        variants: The names of the variants, in order.
        shared: Evaluations of one layer over all tokens, with those that plans share run once.
        alone: The same if each plan were run by itself.
        heads: Plans whose final states become logits, base included.
        choosing: Evaluations that decide what is done, before anything is scored.
        compared: Heads of plans that are compared to decide it.
        training: Windows that training goes through, forward and backward.
        trained: Layers that one window after another runs through for it; the way back counts twice.
    """

    layers: int
    variants: tuple[str, ...] = ()
    shared: int = 0
    alone: int = 0
    heads: int = 1
    choosing: int = 0
    compared: int = 0
    training: int = 0
    trained: int = 0

    def work(
        self, measure: Measure, facts: ModelFacts, asked: int = 0, generated: int = 0
    ) -> float:
        """Return tokens times the weights that they meet, at most, on all texts and in tasks.

        ``asked`` tokens are of the texts of tasks, and ``generated`` tokens the most that a model writes in them.

        A token that is generated reads all weights for itself, which costs more than to multiply by them.
        Where the vocabulary is not known, a head counts as a part of the layers.
        """
        parameters = facts.parameters or _PARAMETERS
        head = (facts.hidden_size or 0) * (facts.vocabulary or 0)
        scored, texts = scored_tokens(measure), len(measure.named_texts)
        window = measure.window or _WINDOW
        through = (scored * texts + asked) * self.shared + scored * self.choosing
        through += window * self.trained
        generated += sum(
            spec.tokens * len(spec.prompts)
            for spec in (measure.sample, measure.generate, measure.speak)
            if spec is not None
        )
        return (
            (parameters - head) * through / self.layers
            + head * ((scored * texts + asked) * self.heads + scored * self.compared)
            + _READ * parameters * generated * (1 + len(self.variants))
        )


def scored_tokens(measure: Measure) -> int:
    """Return how many tokens of a text are scored; of one that is scored whole, a guess."""
    if measure.tokens is None:
        return _ALL_TOKENS
    return max(measure.tokens, windows(measure) * (measure.window or _WINDOW))


def windows(measure: Measure) -> int:
    """Return how many windows a number of tokens is cut into."""
    assert measure.tokens is not None
    window = measure.window or _WINDOW
    # Each window after the first scores a stride more.
    return 1 + -(-max(0, measure.tokens - window) // (measure.stride or window))


def clusters(measure: Measure) -> int:
    """Return how many groups of windows without common text they make, as ``TokenPositions.of`` counts them."""
    assert measure.tokens is not None
    window = measure.window or _WINDOW
    stride = measure.stride or window
    shared = -(-window // stride)
    count = -(-windows(measure) // shared)
    if measure.positions == "last":
        first, last = shared, windows(measure) - (count - 1) * shared
    else:
        first = window + (shared - 1) * stride
        last = measure.tokens - first - (count - 2) * shared * stride
    # A short last one is joined to the one before it.
    return count - 1 if count > 1 and 2 * last < first else count


def cost_of(bet: Bet, registry: Registry, layers: int, experts: int) -> Cost:
    """Plan every variant of a bet on a model of so many layers and experts, and count.

    Raises:
        NoPlanError: If that takes the model itself, or the model lacks what is named.
        ImpossiblePlanError: If an intervention of this package refuses a model of so many layers and experts.
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
        except TargetError as error:
            raise NoPlanError(str(error)) from None
        except InterventionError as error:
            # An intervention of another package may look for more than the stand-in has.
            if all(each.kind in BUILTIN_KINDS for each in interventions):
                raise ImpossiblePlanError(str(error), arm) from None
            raise NoPlanError(str(error)) from None
        except Exception as error:  # an intervention of another package may want more of a model
            raise NoPlanError(
                f"that takes the model itself ({type(error).__name__}: {error})"
            ) from None
    everything = [base, *plans]
    return Cost(
        layers,
        tuple(named),
        shared=evaluations(everything),
        alone=sum(len(plan.steps) for plan in dict.fromkeys(everything)),
        heads=len(set(everything)),
        choosing=bench.choosing,
        compared=bench.compared,
        training=bench.training,
        trained=bench.trained,
    )


def shard_cost(document: BetDocument, bets: Path, registry: Registry, lookup: ModelLookup) -> float:
    """Return tokens times parameters that a bet takes, loading included, for dividing bets.

    Every machine must come to the same number, so no hub is asked and no folder read outside the
    tree that holds `bets`: the size of such a model is guessed. A wrong guess costs time and
    changes no result.
    """
    bet = document.bet
    reach = AllowedPaths.of(document.path, bets, Conditions())
    total = 0.0
    for source in bet.model.checkpoints().values():
        facts = _guessed(source, bet, reach, lookup)
        layers, experts = facts.layers or _LAYERS, facts.experts
        try:
            cost = cost_of(bet, registry, layers, _EXPERTS if experts is None else experts)
        except NoPlanError:
            # The bet may be fine: the guess of the depth may be what is wrong.
            cost = Cost(layers, shared=layers)
        total += _LOADING * (facts.parameters or _PARAMETERS) + cost.work(bet.measure, facts)
    return total


def _guessed(source: ModelSource, bet: Bet, reach: AllowedPaths, lookup: ModelLookup) -> ModelFacts:
    facts = ModelFacts()
    if source.kind == "reference" or source.is_local:
        with contextlib.suppress(MeasurementError):
            facts = lookup.source(source, reach).facts
    if facts.parameters is not None:
        return facts
    size = parameters_in_name(source.name)
    if size is None and bet.needs is not None:
        room = bet.needs.gpu or bet.needs.memory
        size = room // 2 if room else None
    return replace(facts, parameters=size)


class _Matrix:
    """The shape of a matrix of one weight."""

    def numel(self) -> int:
        return 1

    def dim(self) -> int:
        return 2


@dataclass
class _Bench:
    """A stand-in for a model, without weights; where the model would have to run, any valid answer does."""

    layers: int
    experts: int
    choosing: int = 0
    compared: int = 0
    training: int = 0
    trained: int = 0
    _done: set[Hashable] = field(default_factory=set)

    def _again(self, *what: Hashable) -> bool:
        """Return whether this was counted for an arm before, whose result is kept."""
        known = what in self._done
        self._done.add(what)
        return known

    def parts(self, layer: int) -> LayerParts:
        bank = ExpertBank(
            "mlp",
            self.experts,
            fused=("experts.weight",),
            router=("router.weight",),
            counters=("experts:count",),
        )
        names = ("experts.weight", "weight") if self.experts else ("weight",)
        matrix: Any = _Matrix()
        return LayerParts(
            index=layer,
            module=cast("nn.Module", None),
            tensors=dict.fromkeys(names, matrix),
            banks=(bank,) if self.experts else (),
            linear=names,
            post_norms=(),
        )

    def expert_variance(self, layer: int) -> Mapping[str, float]:
        del layer
        return {}

    def tensors(self, weights: Weights) -> Mapping[str, Tensor]:
        del weights
        return {}

    def branch(self, layer: int, part: str) -> Branch:
        del layer, part
        return Branch((), ())

    def keeps_keys_and_values(self, layer: int, changed: Changed | None) -> bool:
        del layer, changed
        return True

    def reinitialised(self, layer: int, seed: int) -> Mapping[str, Tensor]:
        del layer, seed
        return {}

    def expert_use(
        self, plan: Plan, text: TextSource | None = None
    ) -> Mapping[tuple[int, str], Sequence[int]]:
        del text
        self.choosing += len(plan.steps)
        return {(step.slot, "mlp"): range(self.experts) for step in plan.steps}

    def expert_saliency(
        self, plan: Plan, text: TextSource | None = None
    ) -> Mapping[tuple[int, str], Sequence[float]]:
        return self.expert_use(plan, text)

    def expert_groups(
        self,
        plan: Plan,
        layers: Sequence[int],
        count: int,
        by: str,
        text: TextSource | None = None,
    ) -> Mapping[tuple[int, str], tuple[tuple[int, ...], ...]]:
        if by == "output":
            self.expert_use(plan, text)
        first = self.experts - count + 1
        groups = (tuple(range(first)), *((each,) for each in range(first, self.experts)))
        return {(layer, "mlp"): groups for layer in layers}

    def pair_distances(
        self, plan: Plan, protocol: str, text: TextSource | None = None
    ) -> Mapping[tuple[int, int], float]:
        slots = [step.slot for step in plan.steps]
        pairs = list(combinations(slots, 2))
        tried: list[Plan] = []
        for i, j in pairs:
            one, other = plan.weights_at(i), plan.weights_at(j)
            assert one is not None
            assert other is not None
            both = {i: other, j: one}
            directed = [both] if protocol == "interchange" else [{i: other}, {j: one}]
            tried += [plan.rebound(each) for each in directed]
        self.plan_scores(plan, tried, "kl", text)
        return dict.fromkeys(pairs, 0.0)

    def plan_scores(
        self, base: Plan, plans: Sequence[Plan], score: str, text: TextSource | None = None
    ) -> Sequence[float]:
        del score
        if not self._again("scores", base, tuple(plans), text):
            self.choosing += evaluations([base, *plans])
            self.compared += len(plans)
        return [0.0] * len(plans)

    def block_distances(
        self, plan: Plan, score: str, length: int = 1, text: TextSource | None = None
    ) -> Mapping[int, float]:
        del score, text
        self.choosing += len(plan.steps)
        slots = [step.slot for step in plan.steps]
        return dict.fromkeys(slots[: len(slots) - length + 1], 0.0)

    def calibrated(
        self,
        plan: Plan,
        names: Mapping[int, Sequence[str]],
        text: TextSource | None,
        key: Hashable,
        edit: Callable[[Mapping[str, Tensor]], Edit],
        *,
        mixed: bool = False,
    ) -> Plan:
        del text, edit, mixed
        self.choosing += len(plan.steps) + len(names)
        calibrated = Edit(("calibrated", key), lambda tensors, _: tensors)
        return plan.edited(dict.fromkeys(names, calibrated))

    def train(self, plan: Plan, arguments: Train) -> Plan:
        text = arguments.model_dump_json()
        if not self._again("train", plan, text):
            seen = arguments.steps * arguments.batch
            each = [3 * len(plan.steps)]
            if arguments.layers is not None:
                # Up to the layer as it is, whose output is wanted, then it alone, and back.
                (layers,) = arguments.layers.resolve(self.layers)
                each = [layer + 1 + 3 for layer in layers]
            self.training += seen * len(each)
            self.trained += seen * sum(each)
        trained = Edit(("train", text), lambda tensors, _: tensors)
        steps = (replace(step, weights=step.weights.edited(trained)) for step in plan.steps)
        return replace(plan, steps=tuple(steps))

    def note(self, name: str, value: Any) -> None:
        """Keep nothing: no variant has a result."""
