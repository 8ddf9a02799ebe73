"""Turn the variants that a bet declares into plans, on one model."""

from __future__ import annotations

import copy
import math
from collections import Counter, defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from pytest_layerguard.bet.arguments import variants
from pytest_layerguard.bet.errors import many
from pytest_layerguard.bet.targets import TargetError
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.environment.progress_listener import counted
from pytest_layerguard.interventions.experts import expert_variance
from pytest_layerguard.measurement.expert_scores import (
    MeanOutput,
    Place,
    Saliency,
    linked,
    watching,
)
from pytest_layerguard.measurement.sweep import Work, sweep
from pytest_layerguard.measurement.training import (
    Trained,
    Windows,
    train_on_text,
    train_to_layer_output,
)
from pytest_layerguard.models import kv_cache
from pytest_layerguard.models.branches import Branch, branches
from pytest_layerguard.models.linear_inputs import InputMoments
from pytest_layerguard.models.plan import Edit, InterventionError, Plan, Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

    from pytest_layerguard.bet.arguments import Train
    from pytest_layerguard.bet.bet import Bet
    from pytest_layerguard.bet.text_sources import TextSource
    from pytest_layerguard.environment.budget import Budget
    from pytest_layerguard.interventions.registry import Registry
    from pytest_layerguard.models.kv_cache import Changed
    from pytest_layerguard.models.layer_parts import ExpertBank, LayerParts
    from pytest_layerguard.models.runner import LayerState, Runner
    from pytest_layerguard.texts.windows import Batch

_TRIED: Final = 8
"""The tokens on which a block is tried."""


@dataclass(frozen=True)
class PlannedVariant:
    """One variant of one arm, ready to run.

    Attributes:
        arm: The arm's name, or None where the bet has no arms.
        name: The variant's slug.
        target: The layers that it changes.
        kinds: Its kinds of interventions, in order.
        plans: How it is run; several where a variant is several directed changes.
        notes: Diagnostics of its interventions.
    """

    arm: str | None
    name: str
    target: str
    kinds: tuple[str, ...]
    plans: tuple[Plan, ...]
    notes: Mapping[str, Any]


def planned(bet: Bet, bench: Workbench, registry: Registry, budget: Budget) -> list[PlannedVariant]:
    """Plan every variant of every arm of a bet.

    Raises:
        MeasurementError: If the model lacks what an intervention names, or there are too many variants.
    """
    found: list[PlannedVariant] = []
    budget.check("layers", bench.layers, "layers of the model")
    for arm, interventions in bet.arm_interventions.items():
        try:
            declared = variants(interventions, bench.layers)
            budget.check("variants", len(found) + len(declared), "variants")
            for variant in declared:
                plans: Sequence[Plan] = (Plan.untouched(bench.layers),)
                for each in variant.interventions:
                    carry_out = registry[each.kind].load()
                    plans = [
                        made for plan in plans for made in carry_out(plan, each.arguments, bench)
                    ]
                kinds = tuple(each.kind for each in variant.interventions)
                found.append(
                    PlannedVariant(
                        arm, variant.slug, variant.target, kinds, tuple(plans), bench.notes()
                    )
                )
        except (TargetError, InterventionError) as error:
            raise MeasurementError(f"{f'arm {arm}: ' if arm else ''}{error}") from error
    return found


class Workbench:
    """Implements :class:`~pytest_layerguard.interventions.bench.Bench`.

    Args:
        runner: The model.
        batches: Micro-batches of the bet's first text, on which choices are made.
        vocabulary: The number of logits.
        training: Returns the windows to train on.
        calibration: Returns micro-batches of another text on which choices are made.
    """

    def __init__(
        self,
        runner: Runner,
        batches: Sequence[Batch],
        vocabulary: int,
        training: Callable[[Train], Windows],
        calibration: Callable[[TextSource], Sequence[Batch]],
    ) -> None:
        self._runner = runner
        self._batches = batches
        self._vocabulary = vocabulary
        self._training = training
        self._calibration = calibration
        self._calibrated: dict[Hashable, Plan] = {}
        self._trained: dict[tuple[Any, ...], Trained] = {}
        self._swept: dict[Hashable, Sequence[Mapping[str, float]]] = {}
        self._branches: dict[Hashable, Mapping[str, Branch]] = {}
        self._reading: set[tuple[int, bool]] = set()
        self._notes: dict[str, Any] = {}

    @property
    def layers(self) -> int:
        """The number of layers, L."""
        return len(self._runner.anatomy)

    def parts(self, layer: int) -> LayerParts:
        """Return the parts of a layer."""
        return self._runner.anatomy.parts[layer]

    def expert_variance(self, layer: int) -> Mapping[str, float]:
        """Return the variance of the weights of a layer's experts around their mean."""
        return expert_variance(self.parts(layer))

    def note(self, name: str, value: Any) -> None:
        """Keep a diagnostic until it is collected."""
        self._notes[name] = value

    def notes(self) -> dict[str, Any]:
        """Return the diagnostics noted since the last call."""
        noted, self._notes = self._notes, {}
        return noted

    def tensors(self, weights: Weights) -> Mapping[str, Tensor]:
        """Return a layer's tensors after its edits."""
        return self._runner.materialise(weights)

    def branch(self, layer: int, part: str) -> Branch:
        """Return a residual branch of a layer, once blocks built like it have been tried on a few tokens.

        Raises:
            InterventionError: If the layer is no sequence of an attention and a feed-forward.
        """
        parts = self.parts(layer)
        shape = (type(parts.module), tuple((n, t.shape) for n, t in parts.tensors.items()))
        if shape not in self._branches:
            self._branches[shape] = branches(parts)
            self._check_branches(layer, self._branches[shape])
        return self._branches[shape][part]

    def _check_branches(self, layer: int, found: Mapping[str, Branch]) -> None:
        """Check that a block adds its attention to its input, and then a feed-forward that reads the sum."""
        for part, branch in found.items():
            if not branch.tensors:
                raise InterventionError(
                    f"layer {layer} has no {part} that could be found by its name"
                )
        weights = Weights(layer)
        own = self._runner.layer_tensors(layer)
        names = [name for each in found.values() for name in (*each.tensors, *each.post_norms)]
        nothing = {name: torch.zeros_like(own[name]) for name in names}
        frame = self._runner.begin(self._batches[0].input_ids[:1, :_TRIED])
        with torch.no_grad(), self._runner.bound(layer, weights, own | nothing):
            if not torch.equal(
                self._runner.step(frame, layer, frame.start).hidden, frame.start.hidden
            ):
                raise InterventionError(
                    f"layer {layer} is more than its input, its attention and its feed-forward added up; leave part "
                    "out to take the whole layer"
                )
        readers = {name.rpartition(".")[0] for name in found["feed_forward"].tensors}
        traced: list[bool] = []
        handles = [
            self.parts(layer)
            .module.get_submodule(reader)
            .register_forward_pre_hook(_tracing(traced), with_kwargs=True)
            for reader in readers
        ]
        try:
            with torch.inference_mode(False), torch.enable_grad():
                leaves = {
                    name: own[name].detach().clone().requires_grad_()
                    for name in found["attention"].tensors
                }
                with self._runner.bound(layer, weights, own | leaves):
                    self._runner.step(frame, layer, frame.start)
        finally:
            for handle in handles:
                handle.remove()
        if not any(traced):
            raise InterventionError(
                f"layer {layer} is a parallel block: its feed-forward does not read what its attention left; leave "
                "part out to take the whole layer"
            )

    @torch.inference_mode()
    def keeps_keys_and_values(self, layer: int, changed: Changed | None) -> bool:
        """Return whether a layer does, once it has read copies of them on the first window.

        Raises:
            InterventionError: If it then gives something else than before.
        """
        if not kv_cache.attentions(self.parts(layer).module):
            return False
        if (layer, changed is None) not in self._reading:
            self._check_reading(layer, changed)
            self._reading.add((layer, changed is None))
        return True

    def _check_reading(self, layer: int, changed: Changed | None) -> None:
        others = (self.parts(each).module for each in range(self.layers))
        if changed is not None and any(map(kv_cache.borrows, others)):
            raise InterventionError(
                "layers of this model read keys and values that other layers keep, so all of these are read alike; "
                "allowed: keys: token, without residual"
            )
        block = self.parts(layer).module
        if own := kv_cache.unknown_cache(block):
            raise InterventionError(
                f"layer {layer} has a cache of the model's own, {own}, from which it reads more than keys and values"
            )
        frame = self._runner.begin(self._batches[0].input_ids[:1])
        copies = kv_cache.reading(
            block, lambda keys, values: (keys.clone(), values.clone()), changed
        )
        far = math.inf
        with suppress(MeasurementError), self._runner.bound(layer, Weights(layer)):
            plain = self._runner.step(frame, layer, frame.start).hidden
            with copies:
                other = self._runner.step(frame, layer, frame.start).hidden
            far = float((other - plain).norm() / (plain - frame.start.hidden).norm())
        if not far <= torch.finfo(frame.start.hidden.dtype).eps ** 0.5:
            other_way = "" if changed is None else "; allowed: keys: token, without residual"
            raise InterventionError(
                f"the attention of layer {layer} cannot be given other keys and values{other_way}"
            )

    def reinitialised(self, layer: int, seed: int) -> Mapping[str, Tensor]:
        """Draw a layer's parameters by the model's own initialiser, on the CPU in fp32, from a seed.

        The initialiser is that of the text decoder, as transformers itself chooses it inside a multimodal
        wrapper. Buffers are not drawn; they stay as they are.

        Raises:
            InterventionError: If the initialiser leaves a parameter untouched.
        """
        anatomy = self._runner.anatomy
        block = anatomy.layers[layer]
        initialise = getattr(anatomy.decoder, "_init_weights", anatomy.model._init_weights)
        fresh = copy.deepcopy(block).to_empty(device="cpu").to(torch.float32)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for parameter in fresh.parameters():
                parameter.fill_(torch.nan)
            torch.manual_seed(seed * 10_007 + layer)
            fresh.apply(initialise)
        drawn = dict(fresh.named_parameters())
        untouched = [name for name, tensor in drawn.items() if tensor.isnan().any()]
        if untouched:
            raise InterventionError(
                f"reinitialize_layers: the initialiser of {type(anatomy.model).__name__} leaves "
                f"{', '.join(untouched[:4])} as they are; there is nothing to draw them from"
            )
        own = dict(block.named_parameters())
        return {
            name: tensor.detach().to(self._runner.device, own[name].dtype)
            for name, tensor in drawn.items()
        }

    @torch.inference_mode()
    def expert_use(
        self, plan: Plan, text: TextSource | None = None
    ) -> Mapping[Place, Sequence[int]]:
        """Count the tokens of a text that each expert is chosen for, by slot and mixture."""
        counts: dict[Place, Tensor] = {}
        handles = []
        for slot, layer in enumerate(self._runner.anatomy.layers):
            for bank in self._runner.anatomy.parts[slot].banks:
                counts[slot, bank.module] = torch.zeros(bank.count, dtype=torch.long)
                if bank.fused:
                    owner = layer.get_submodule(bank.fused[0].rpartition(".")[0])
                    handles.append(
                        owner.register_forward_pre_hook(_counting(counts[slot, bank.module], bank))
                    )
        try:
            for _ in self._states(plan, self._on(text)):
                pass
        finally:
            for handle in handles:
                handle.remove()
        return {place: count.tolist() for place, count in counts.items()}

    @torch.inference_mode()
    def expert_saliency(
        self, plan: Plan, text: TextSource | None = None
    ) -> Mapping[Place, Sequence[float]]:
        """Measure REAP's score of each expert, by slot and mixture."""
        saliency = Saliency()
        with watching(self._runner.anatomy, saliency.see):
            for _ in self._states(plan, self._on(text)):
                pass
        return saliency.scores()

    @torch.inference_mode()
    def expert_outputs(self, plan: Plan, text: TextSource | None = None) -> Mapping[Place, Tensor]:
        """Measure the mean of what each expert makes of every token, ``[E, H]``, by slot and mixture."""
        outputs = MeanOutput()
        with watching(self._runner.anatomy, outputs.see):
            for _ in self._states(plan, self._on(text)):
                pass
        return outputs.means()

    def expert_groups(
        self,
        plan: Plan,
        layers: Sequence[int],
        count: int,
        by: str,
        text: TextSource | None = None,
    ) -> Mapping[Place, tuple[tuple[int, ...], ...]]:
        """Group the experts of each mixture by the distances of their mean outputs or of their weights."""
        outputs = self.expert_outputs(plan, text) if by == "output" else {}
        found: dict[Place, tuple[tuple[int, ...], ...]] = {}
        for layer in layers:
            weights = plan.weights_at(layer)
            assert weights is not None
            tensors = {} if outputs else self.tensors(weights)
            for bank in self.parts(layer).banks:
                place = (layer, bank.module)
                traits = (
                    outputs[place]
                    if outputs
                    else torch.cat([tensors[name].float().flatten(1) for name in bank.fused], dim=1)
                )
                found[place] = linked(traits, count)
        return found

    def pair_distances(
        self, plan: Plan, protocol: str, text: TextSource | None = None
    ) -> Mapping[tuple[int, int], float]:
        """Measure the swap-KL of every pair of slots, in nats per token, all in one trie and once."""
        weights = {step.slot: step.weights for step in plan.steps}
        pairs = list(combinations(weights, 2))
        plans: list[Plan] = []
        for i, j in pairs:
            if protocol == "interchange":
                plans.append(plan.rebound({i: weights[j], j: weights[i]}))
            else:
                plans += [plan.rebound({i: weights[j]}), plan.rebound({j: weights[i]})]
        means = self.plan_scores(plan, plans, "kl", text)
        if protocol == "replacement":
            means = [max(pair) for pair in zip(means[::2], means[1::2], strict=True)]
        return dict(zip(pairs, means, strict=True))

    def plan_scores(
        self, base: Plan, plans: Sequence[Plan], score: str, text: TextSource | None = None
    ) -> Sequence[float]:
        """Measure the ``perplexity`` of each plan, or its ``kl`` from the base, all in one trie and once."""
        batches = self._on(text)
        key = (base, tuple(plans), text)
        if key not in self._swept:
            work = Work.of(self._runner, self._vocabulary)
            steps = work.total([base, *plans], 1 + len(plans), batches)
            with counted(f"comparing {many(len(plans), 'plan')}", steps) as advance:
                swept = sweep(self._runner, batches, base, plans, self._vocabulary, advance=advance)
            self._swept[key] = [
                {
                    "perplexity": float(scores.losses.double().mean().exp()),
                    "kl": float(scores.kl.double().mean()),
                }
                for scores in swept.variants
            ]
        return [each[score] for each in self._swept[key]]

    @torch.inference_mode()
    def block_distances(
        self, plan: Plan, score: str, length: int = 1, text: TextSource | None = None
    ) -> Mapping[int, float]:
        """Measure how far each run of ``length`` slots moves the hidden states, by its first slot."""
        totals: dict[int, float] = defaultdict(float)
        positions = 0
        entered: deque[tuple[int, Tensor]] = deque(maxlen=length)
        for before, after, slot in self._states(plan, self._on(text)):
            if slot == plan.steps[0].slot:
                entered.clear()
                positions += before.shape[0] * (
                    1 if score == "angular_distance" else before.shape[1]
                )
            entered.append((slot, before))
            if len(entered) == length:
                first, start = entered[0]
                totals[first] += _moved(start, after, score)
        return {first: total / positions for first, total in totals.items()}

    def _on(self, text: TextSource | None) -> Sequence[Batch]:
        """Return the micro-batches of a text, by default of the bet's first."""
        return self._batches if text is None else self._calibration(text)

    @torch.inference_mode()
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
        """Edit slot after slot by the inputs of its linear maps, each slot fed by those edited before it."""
        # First, as it notes the text, also where the plan is known.
        batches = self._on(text)
        held = (plan, text, key, tuple(names))
        if held in self._calibrated:
            return self._calibrated[held]
        frames = [self._runner.begin(batch.input_ids, shell=plan.shell) for batch in batches]
        states = [frame.start for frame in frames]

        def run(slot: int, states: list[LayerState], times: int) -> list[LayerState]:
            for _ in range(times):
                states = [
                    self._runner.step(frame, slot, state)
                    for frame, state in zip(frames, states, strict=True)
                ]
            return states

        # A slot that is repeated has one set of weights, edited by the inputs of all its runs.
        for step, times in Counter(plan.steps).items():
            weights = step.weights
            if step.slot in names:
                tensors = self._runner.materialise(weights)
                # A copy for each: experts may share one tensor, and weights are known by their place.
                watched = {name: tensors[name].clone() for name in names[step.slot]}
                moments = InputMoments(watched, mixed=mixed)
                with self._runner.bound(step.slot, weights, tensors | watched), moments.watching:
                    run(step.slot, states, times)
                weights = weights.edited(edit(moments.means()))
                plan = plan.rebound({step.slot: weights})
            with self._runner.bound(step.slot, weights):
                states = run(step.slot, states, times)
        self._calibrated[held] = plan
        return plan

    def train(self, plan: Plan, arguments: Train) -> Plan:
        """Train a plan; equal plans and arguments are trained once.

        Raises:
            InterventionError: If the layers stay on disk: training must hold and change all of them.
        """
        if self._runner.store is not None:
            raise InterventionError(
                "train needs the whole model in memory; model.placement: memory"
            )
        key = (plan, arguments.model_dump_json())
        if key not in self._trained:
            windows = self._training(arguments)
            if arguments.objective == "layer_output":
                assert arguments.layers is not None
                (layers,) = arguments.layers.resolve(self.layers)
                self._trained[key] = train_to_layer_output(
                    self._runner, plan, arguments, windows, layers
                )
            else:
                self._trained[key] = train_on_text(self._runner, plan, arguments, windows)
        self.note("training_loss", [list(point) for point in self._trained[key].curve])
        return self._trained[key].plan

    def _states(self, plan: Plan, batches: Sequence[Batch]) -> Iterator[tuple[Tensor, Tensor, int]]:
        """Yield input and output ``[B, T, H]`` of each slot, batch by batch."""
        for batch in batches:
            frame = self._runner.begin(batch.input_ids, shell=plan.shell)
            state = frame.start
            for step in plan.steps:
                with self._runner.bound(step.slot, step.weights):
                    after = self._runner.step(frame, step.slot, state)
                yield state.hidden, after.hidden, step.slot
                state = after


def _moved(before: Tensor, after: Tensor, score: str) -> float:
    """Return the sum over positions of what a run of slots does to ``[B, T, H]`` hidden states."""
    if score == "angular_distance":
        before, after = before[:, -1], after[:, -1]
    cosine = functional.cosine_similarity(before.float(), after.float(), dim=-1).double()
    if score == "angular_distance":
        return float((cosine.clamp(-1, 1).arccos() / torch.pi).sum())
    return float((1 - cosine).sum())


def _tracing(traced: list[bool]) -> Callable[..., None]:
    """Note of each tensor that a module is given whether it depends on tensors that require a gradient."""

    def hook(_module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = (*args, *kwargs.values())
        traced.extend(each.requires_grad for each in given if isinstance(each, Tensor))

    return hook


def _counting(count: Tensor, bank: ExpertBank) -> Callable[..., None]:
    """Return a hook that counts what a router passes to the experts: chosen indices, or tokens per expert."""

    def hook(_module: Any, args: tuple[Any, ...]) -> None:
        for given in args[1:]:
            if isinstance(given, Tensor) and not given.is_floating_point():
                count.add_(torch.bincount(given.flatten().cpu(), minlength=bank.count))
                return
            if isinstance(given, list) and len(given) == bank.count:
                count.add_(torch.tensor(given))
                return
        raise InterventionError(
            f"drop_experts: cannot see which experts {bank.module} chooses; looked for expert indices among what its "
            "experts are given"
        )

    return hook
