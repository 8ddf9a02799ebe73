"""Run many plans of one model as a prefix trie: the steps that two plans share run once.

Skipping each of L layers in turn costs L(L+1)/2 layer evaluations, the untouched model included, because the
variant that skips layer k agrees with it on the first k layers. The trie is walked depth first, one part of
the windows at a time, so that no more states are held than a part's budget allows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

from pytest_layerguard.environment import devices
from pytest_layerguard.measurement.failures import failing
from pytest_layerguard.measurement.token_scores import TokenScores, compare, joined
from pytest_layerguard.models.plan import evaluations, turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager

    from pytest_layerguard.models.plan import OuterWeights, Plan, Step, Weights
    from pytest_layerguard.models.runner import ForwardState, LayerState, Runner
    from pytest_layerguard.texts.windows import Batch


@dataclass(frozen=True)
class Limits:
    """The bytes that a sweep may hold on a kind of device.

    Attributes:
        states: Hidden states at a time.
        edits: Edited tensors kept from one part of the windows to the next.
        base: The base's final hidden states kept for later sweeps over the same tokens.
    """

    states: int
    edits: int
    base: int

    @classmethod
    def on(cls, device: str) -> Limits:
        """Return the limits of a kind of device, as torch names it."""
        return _LIMITS.get(device, _LIMITS["cpu"])


_LIMITS: Final = {"cpu": Limits(2**30, 2**30, 2**28), "cuda": Limits(2**33, 2**33, 2**31)}


@dataclass(frozen=True)
class Base:
    """A base that was scored before.

    Attributes:
        losses: Its token losses, ``[n]``.
        final: Its final hidden states on the scored tokens, one tensor for each part of the windows.
    """

    losses: Tensor
    final: tuple[Tensor, ...]


@dataclass(frozen=True)
class Swept:
    """Scores of a base and its variants on the same tokens.

    Attributes:
        base: Token losses of the base, ``[n]``.
        variants: Scores of each variant, in the order asked for.
        kept: The base for a later sweep over the same tokens, or None where it is too large to keep.
    """

    base: Tensor
    variants: tuple[TokenScores, ...]
    kept: Base | None


@dataclass
class _Kept:
    """Edited tensors kept for the next part, as far as they fit; the others are computed again."""

    runner: Runner
    budget: int
    held: dict[Weights, dict[str, Tensor]] = field(default_factory=dict)

    def tensors(self, weights: Weights) -> dict[str, Tensor] | None:
        if not weights.edits:
            return None
        if weights not in self.held:
            made = self.runner.materialise(weights)
            size = sum(tensor.untyped_storage().nbytes() for tensor in made.values())
            if size > self.budget:
                return made
            self.budget -= size
            self.held[weights] = made
        return self.held[weights]


@dataclass(frozen=True)
class Work:
    """The weights that one token meets in a layer, and those that it meets in the head.

    At a large vocabulary the heads of many variants take as long as the layers that they share.
    """

    layer: int
    head: int

    @classmethod
    def of(cls, runner: Runner, vocabulary: int) -> Work:
        """Return those of a model: of experts as many as its router chooses."""
        config = runner.anatomy.model.config.get_text_config(decoder=True)
        weights = sum(parameter.numel() for parameter in runner.anatomy.layers.parameters())
        for parts in runner.anatomy.parts:
            for bank in parts.banks:
                chosen = getattr(config, "num_experts_per_tok", None) or bank.count
                names = [*bank.fused, *(name for listed in bank.listed for name in listed)]
                held = sum(parts.tensors[name].numel() for name in names)
                weights -= held - held * chosen // bank.count
        return cls(max(1, weights // len(runner.anatomy)), int(config.hidden_size) * vocabulary)

    def total(self, plans: Sequence[Plan], heads: int, batches: Sequence[Batch]) -> int:
        """Return the work of running plans, and of so many heads."""
        tokens = sum(batch.input_ids.numel() for batch in batches)
        scored = sum(int(batch.scored.sum()) for batch in batches)
        return evaluations(plans) * tokens * self.layer + heads * scored * self.head


def split(sizes: Sequence[int], room: int) -> Iterator[range]:
    """Yield ranges of neighbours whose sizes together fit the room, with at least one in each."""
    start, held = 0, 0
    for place, size in enumerate(sizes):
        if place > start and held + size > room:
            yield range(start, place)
            start, held = place, 0
        held += size
    if start < len(sizes):
        yield range(start, len(sizes))


@torch.inference_mode()
def sweep(
    runner: Runner,
    batches: Sequence[Batch],
    base: Plan,
    variants: Sequence[Plan],
    vocabulary: int,
    *,
    known: Base | None = None,
    keep: bool = False,
    advance: Callable[[int], None] = lambda done: None,
) -> Swept:
    """Score a base and its variants, each on every micro-batch.

    Args:
        runner: The model.
        batches: Micro-batches; base and variants run at the same shapes, so that doing nothing changes nothing.
        base: The plan that the variants are compared with.
        variants: The plans to compare; equal plans are run once.
        vocabulary: The number of logits.
        known: The base, where a sweep over the same micro-batches has run it already.
        keep: Whether to keep the base however large it is.
        advance: Called with the work done since the last call, of `Work.total`.

    Returns:
        Scores in the order of the tokens.
    """
    distinct = list(dict.fromkeys([*variants] if known is not None else [base, *variants]))
    limits = Limits.on(runner.device.type)
    kept = _Kept(runner, limits.edits)
    work = Work.of(runner, vocabulary)
    base_losses: list[Tensor] = []
    base_final: list[Tensor] = []
    room = limits.base
    scores: dict[Plan, list[TokenScores]] = {plan: [] for plan in variants}
    states = [batch.input_ids.numel() * runner.state_width for batch in batches]
    # Depth first, one state is held for each slot; breadth first, one for each plan. Three more are the
    # embeddings, a layer's output, and the base's final states.
    most = 3 + (len(runner.anatomy) if runner.store is None else len(distinct))
    parts = [
        [batches[place] for place in places] for places in split(states, limits.states // most)
    ]
    for part, final in zip(parts, _finals(known, parts), strict=True):
        walk = _Walk(runner, part, base, frozenset(variants), kept, vocabulary, work, advance)
        losses, partial = walk.run(distinct, final)
        base_losses.append(losses)
        room -= walk.base_final.nbytes
        if room >= 0 or keep:
            base_final.append(walk.base_final)
        for plan, score in partial.items():
            scores[plan].append(score)
    whole = {plan: joined(parts) for plan, parts in scores.items()}
    losses = torch.cat(base_losses)
    return Swept(
        losses,
        tuple(whole[plan] for plan in variants),
        Base(losses, tuple(base_final)) if room >= 0 or keep else None,
    )


def scored_places(runner: Runner, batches: Sequence[Batch]) -> list[Tensor]:
    """Return where the scored tokens of each batch are among all of its tokens, on the model's device.

    Places, and no mask: a device is waited for where a mask is counted.
    """
    return [batch.scored.flatten().nonzero()[:, 0].to(runner.device) for batch in batches]


def _finals(known: Base | None, parts: Sequence[Sequence[Batch]]) -> Sequence[Tensor | None]:
    """Return the known base's final hidden states on each part; its sweep may have had other parts."""
    if known is None:
        return [None] * len(parts)
    sizes = [sum(int(batch.scored.sum()) for batch in part) for part in parts]
    if [len(final) for final in known.final] == sizes:
        return known.final
    return torch.split(torch.cat(known.final), sizes)


class _Walk:
    """One pass over the trie with one part of the windows."""

    def __init__(
        self,
        runner: Runner,
        part: Sequence[Batch],
        base: Plan,
        scored: frozenset[Plan],
        kept: _Kept,
        vocabulary: int,
        work: Work,
        advance: Callable[[int], None],
    ) -> None:
        self.runner = runner
        self.part = part
        self.base = base
        self.scored = scored
        self.kept = kept
        self.vocabulary = vocabulary
        self.work = work
        self.advance = advance
        self.tokens = [batch.input_ids.numel() for batch in part]
        self.labels = torch.cat([batch.labels[batch.scored] for batch in part])
        self.places = scored_places(runner, part)
        self.base_final: Tensor
        self.heads: dict[OuterWeights, Callable[[Tensor], Tensor]] = {}
        self.waiting: list[tuple[Plan, Tensor]] = []
        self.waiting_bytes = 0
        self.losses: Tensor | None = None
        self.scores: dict[Plan, TokenScores] = {}

    def run(
        self, plans: Sequence[Plan], known: Tensor | None
    ) -> tuple[Tensor, dict[Plan, TokenScores]]:
        """Return the base's losses and every plan's scores on this part.

        The base is among the plans, or its final hidden states are known.
        """
        if known is not None:
            self.base_final = known
        # The base's shell comes first: the others are compared with its final hidden states.
        shells = dict.fromkeys([self.base.shell, *(plan.shell for plan in plans)])
        for shell in shells:
            members = [plan for plan in plans if plan.shell == shell]
            with failing(members), self.runner.embeddings():
                frames = [self.runner.begin(batch.input_ids, shell=shell) for batch in self.part]
            states = [frame.start for frame in frames]
            if self.runner.store is None:
                self._descend(frames, members, 0, states)
            else:
                self._go_through(frames, members, states)
        self._score()
        assert self.losses is not None
        return self.losses, self.scores

    def _descend(
        self,
        frames: Sequence[ForwardState],
        plans: Sequence[Plan],
        depth: int,
        states: list[LayerState],
    ) -> None:
        """Run all plans that agree on their first ``depth`` steps, from the states these steps lead to.

        The caller's list of states is emptied as soon as the last branch has read it.
        """
        branches: dict[Step, list[Plan]] = {}
        for plan in plans:
            if len(plan.steps) > depth:
                branches.setdefault(plan.steps[depth], []).append(plan)
        ended = [plan for plan in plans if len(plan.steps) == depth]
        # The base comes first: the others are compared with its final hidden states.
        order = sorted(branches.items(), key=lambda branch: self.base not in branch[1])
        if self.base in ended:
            self._arrive(frames, ended, states)
            ended = []
        for position, (step, members) in enumerate(order):
            with failing(members), self._bound(step):
                further = []
                for index, frame in enumerate(frames):
                    further.append(self.runner.step(frame, step.slot, states[index]))
                    if position == len(order) - 1 and not ended:
                        states[index] = further[-1]
                self.advance(sum(self.tokens) * self.work.layer)
            if position == len(order) - 1 and not ended:
                states.clear()
            self._descend(frames, members, depth + 1, further)
        if ended:
            self._arrive(frames, ended, states)
        states.clear()

    def _go_through(
        self, frames: Sequence[ForwardState], plans: Sequence[Plan], states: list[LayerState]
    ) -> None:
        """Run all plans slot by slot, so that a layer that stays on disk is read once for all of them.

        The trie is the same, walked breadth first: more states are held, and fewer weights.
        """
        front: list[tuple[list[Plan], list[LayerState]]] = [([*plans], states)]
        for slot, turn in turns(plans, len(self.runner.anatomy)):
            waiting: dict[int, dict[Weights, list[tuple[list[Plan], list[LayerState]]]]] = {}
            further: list[tuple[list[Plan], list[LayerState]]] = []
            while front:
                members, at = front.pop(0)
                by_weights: dict[Weights | None, list[Plan]] = {}
                for plan in members:
                    by_weights.setdefault(plan.weights_at(slot, turn), []).append(plan)
                for weights, those in by_weights.items():
                    if weights is None:
                        further.append((those, at))
                    else:
                        tasks = waiting.setdefault(weights.layer, {})
                        tasks.setdefault(weights, []).append((those, [*at]))
            front = further
            for layer, tasks in waiting.items():
                own = self.runner.layer_tensors(layer)
                for weights, groups in tasks.items():
                    members = [plan for those, _ in groups for plan in those]
                    with failing(members):
                        tensors = own | self.runner.edited(weights, own)
                    with failing(members), self.runner.bound(slot, weights, tensors):
                        # What was read last gives way to what it led to, as long as nobody else is to read it.
                        while groups:
                            those, at = groups.pop(0)
                            with failing(those):
                                ran = [self.runner.step(frame, slot, at.pop(0)) for frame in frames]
                            front.append((those, ran))
                            self.advance(sum(self.tokens) * self.work.layer)
                # Or else it would still be held while the next one is read.
                del own, tensors
        front.sort(key=lambda group: self.base not in group[0])
        # What layers and their reading left behind gives way to the head and the logits.
        devices.vacate()
        with self.runner.tail(), self.runner.head():
            while front:
                self._arrive(frames, *front.pop(0))
            self._score()

    def _arrive(
        self, frames: Sequence[ForwardState], plans: Sequence[Plan], states: Sequence[LayerState]
    ) -> None:
        shell = plans[0].shell
        with failing(plans):
            final = torch.cat(
                [
                    self.runner.finish(frame, state, shell).flatten(0, 1).index_select(0, places)
                    for frame, state, places in zip(frames, states, self.places, strict=True)
                ]
            )
        if self.base in plans:
            self.base_final = final
        self.waiting += [(plan, final) for plan in plans if plan in self.scored]
        self.waiting_bytes += final.nbytes
        if self.waiting_bytes > Limits.on(final.device.type).states // 4:
            self._score()

    def _score(self) -> None:
        if not self.waiting and self.losses is not None:
            return
        losses, scores = compare(
            (self.base_final, self._head(self.base.shell)),
            [(final, self._head(plan.shell)) for plan, final in self.waiting],
            self.labels,
            self.vocabulary,
            advance=lambda rows: self.advance(rows * self.work.head),
        )
        self.losses = losses
        self.scores |= dict(zip((plan for plan, _ in self.waiting), scores, strict=True))
        self.waiting = []
        self.waiting_bytes = 0

    def _bound(self, step: Step) -> AbstractContextManager[None]:
        return self.runner.bound(step.slot, step.weights, self.kept.tensors(step.weights))

    def _head(self, shell: OuterWeights) -> Callable[[Tensor], Tensor]:
        # Not of this walk, which would hold itself and with it its states.
        runner = self.runner
        return self.heads.setdefault(shell, lambda rows: runner.logits(rows, shell))
