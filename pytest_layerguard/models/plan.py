"""What an intervention leaves behind: the layers to run, in order, and whose weights they run with.

A plan never holds a changed model. It names slots and weights; the laboratory binds the tensors for the
time of a run and unbinds them afterwards, so that the model itself is never written to.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from pytest_layerguard.models.layer_parts import Forms, LayerParts, Tensors


class InterventionError(ValueError):
    """An intervention that this model does not allow; the text says what it lacks and what would do."""


@dataclass(frozen=True)
class Edit:
    """A change of one layer's tensors that is computed when it is needed.

    Attributes:
        key: What was done, with everything that decides the outcome. Two edits with equal keys on the
            same weights yield equal tensors, which is what lets variants share their computation.
        apply: Maps the layer's current tensors and parts to the tensors that change, by the same names.
        held: For an edit that training must not undo (zeros stay zero, ternary weights stay ternary): maps
            the tensors that training starts from to a differentiable function that is laid over the trained
            tensors at every step. None where training may move what the edit made.
        settings: Attributes to lay over modules of the layer while the edit is bound, by
            ``"module.path:attribute"``.
        stored: For an edit that stores weights otherwise: maps how the layer's tensors were stored before it
            to how those that it changes are stored after it. None where it has no encoding of its own.
    """

    key: tuple[Hashable, ...]
    apply: Callable[[Tensors, LayerParts], Tensors] = field(compare=False)
    held: Callable[[Tensors, LayerParts], Callable[[Tensors], Tensors]] | None = field(
        default=None, compare=False
    )
    settings: Callable[[LayerParts], Mapping[str, int]] | None = field(default=None, compare=False)
    stored: Callable[[Forms, LayerParts], Forms] | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Weights:
    """One layer's weights: those of a layer of the model, after a chain of edits."""

    layer: int
    edits: tuple[Edit, ...] = ()

    def edited(self, edit: Edit) -> Weights:
        """Returns these weights with one more edit."""
        return replace(self, edits=(*self.edits, edit))


@dataclass(frozen=True)
class Step:
    """One layer evaluation: the slot keeps its position, mask and cache index; the weights are bound."""

    slot: int
    weights: Weights


@dataclass(frozen=True)
class OuterWeights:
    """Tensors laid over what is not a layer (embeddings, final norm, head), by full parameter name."""

    key: tuple[Hashable, ...] = ()
    tensors: Tensors = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Plan:
    """A variant as the laboratory runs it: the steps, in order, and what is laid over the shell."""

    steps: tuple[Step, ...]
    shell: OuterWeights = OuterWeights()

    @classmethod
    def untouched(cls, layers: int) -> Plan:
        """Returns the plan of a base with ``layers`` layers."""
        return cls(tuple(Step(index, Weights(index)) for index in range(layers)))

    def without(self, slots: frozenset[int]) -> Plan:
        """Returns this plan with the given slots left out."""
        return replace(self, steps=tuple(step for step in self.steps if step.slot not in slots))

    def edited(self, edits: Mapping[int, Edit]) -> Plan:
        """Returns this plan with one more edit on the weights of the slots named."""
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
        """Returns this plan with other weights in the slots named."""
        return replace(
            self,
            steps=tuple(
                replace(step, weights=weights[step.slot]) if step.slot in weights else step
                for step in self.steps
            ),
        )

    def weights_at(self, slot: int) -> Weights | None:
        """Returns the weights a slot runs with, or None where the slot is left out."""
        return next((step.weights for step in self.steps if step.slot == slot), None)
