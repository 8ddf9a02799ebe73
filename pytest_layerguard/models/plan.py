"""Describe a variant of a model: which layers run, in order, with which weights.

A plan never holds a changed model. It names slots and weights. The runner binds the tensors for the time of
a run and unbinds them afterwards, so that the model itself is never written to.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping
    from contextlib import AbstractContextManager

    from pytest_layerguard.bet.arguments import CandidateArguments
    from pytest_layerguard.models.layer_parts import Forms, LayerParts, Tensors


class InterventionError(ValueError):
    """An intervention that is impossible on this model; the message says why and what to do instead."""


@dataclass(frozen=True)
class Edit:
    """A change of one layer's tensors that is computed when it is needed.

    Attributes:
        key: The kind of edit and every argument that decides the outcome. Two edits with equal keys on the
            same weights give equal tensors, so that variants can share their computation.
        apply: Maps the layer's current tensors and parts to the tensors that change, by the same names.
        held: For an edit that training must not undo (zeros stay zero, ternary weights stay ternary): maps
            the tensors before training to a differentiable function that is applied to the trained tensors
            at every step. None if training may change what the edit made.
        settings: Attributes to set on modules of the layer while the edit is bound, by
            ``"module.path:attribute"``.
        stored: For an edit that changes how weights are stored: maps the stored forms of the layer's tensors
            before it to the forms, after it, of those that it changes. None if it has no encoding of its own.
        running: For an edit that acts while the layer runs: maps the tensors that are bound to the context in
            which it runs.
    """

    key: tuple[Hashable, ...]
    apply: Callable[[Tensors, LayerParts], Tensors] = field(compare=False)
    held: Callable[[Tensors, LayerParts], Callable[[Tensors], Tensors]] | None = field(
        default=None, compare=False
    )
    settings: Callable[[LayerParts], Mapping[str, int]] | None = field(default=None, compare=False)
    stored: Callable[[Forms, LayerParts], Forms] | None = field(default=None, compare=False)
    running: Callable[[Tensors, LayerParts], AbstractContextManager[object]] | None = field(
        default=None, compare=False
    )


@dataclass(frozen=True)
class Weights:
    """The weights of one layer of the model, after a chain of edits."""

    layer: int
    edits: tuple[Edit, ...] = ()

    def edited(self, edit: Edit) -> Weights:
        """Return these weights with one more edit."""
        return replace(self, edits=(*self.edits, edit))


@dataclass(frozen=True)
class Step:
    """One layer evaluation: a slot, with its position, mask and cache index, and the weights bound in it."""

    slot: int
    weights: Weights


@dataclass(frozen=True)
class OuterWeights:
    """Tensors that replace weights outside the layers (embeddings, final norm, head), by full name."""

    key: tuple[Hashable, ...] = ()
    tensors: Tensors = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Plan:
    """A variant: the steps, in order, and the weights outside the layers that it replaces.

    Or another whole model, ``candidate``, that takes the place of all of them.
    """

    steps: tuple[Step, ...]
    shell: OuterWeights = OuterWeights()
    candidate: CandidateArguments | None = None

    @classmethod
    def untouched(cls, layers: int) -> Plan:
        """Return the plan of a base with ``layers`` layers."""
        return cls(tuple(Step(index, Weights(index)) for index in range(layers)))

    def without(self, slots: frozenset[int]) -> Plan:
        """Return this plan without the given slots."""
        return replace(self, steps=tuple(step for step in self.steps if step.slot not in slots))

    def repeated(self, slots: frozenset[int], times: int) -> Plan:
        """Return this plan with each step of the given slots run ``times`` times in a row."""
        return replace(
            self,
            steps=tuple(
                step
                for each in self.steps
                for step in (each,) * (times if each.slot in slots else 1)
            ),
        )

    def edited(self, edits: Mapping[int, Edit]) -> Plan:
        """Return this plan with one more edit on the weights of the given slots."""
        return replace(
            self,
            steps=tuple(
                replace(step, weights=step.weights.edited(edits[step.slot]))
                if step.slot in edits
                else step
                for step in self.steps
            ),
        )

    def rebound(self, weights: Mapping[int, Weights]) -> Plan:
        """Return this plan with other weights in the given slots."""
        return replace(
            self,
            steps=tuple(
                replace(step, weights=weights[step.slot]) if step.slot in weights else step
                for step in self.steps
            ),
        )

    def weights_at(self, slot: int, turn: int = 0) -> Weights | None:
        """Return the weights that a slot runs with, or None if it does not run a turn of that number."""
        turns = [step.weights for step in self.steps if step.slot == slot]
        return turns[turn] if turn < len(turns) else None


def evaluations(plans: Iterable[Plan]) -> int:
    """Return how many layer evaluations the trie of these plans takes per micro-batch."""
    return len(
        {
            (plan.candidate, plan.shell, plan.steps[: depth + 1])
            for plan in plans
            for depth in range(len(plan.steps))
        }
    )


def turns(plans: Iterable[Plan], slots: int) -> list[tuple[int, int]]:
    """Return each slot of a model with ``slots`` layers as often as a plan runs it: slot and turn, in order.

    A slot that no plan runs has one turn.
    """
    most = [1] * slots
    for plan in plans:
        for slot, times in Counter(step.slot for step in plan.steps).items():
            most[slot] = max(most[slot], times)
    return [(slot, turn) for slot in range(slots) for turn in range(most[slot])]
