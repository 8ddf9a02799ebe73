"""The interface by which interventions use the model: layers, scores, training."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_layerguard.bet.arguments import Train
    from pytest_layerguard.bet.text_sources import TextSource
    from pytest_layerguard.models.branches import Branch
    from pytest_layerguard.models.kv_cache import Changed
    from pytest_layerguard.models.layer_parts import LayerParts
    from pytest_layerguard.models.plan import Edit, Plan, Weights


class Bench(Protocol):
    """The loaded model, as far as an intervention may use it."""

    @property
    def layers(self) -> int:
        """The number of layers, L."""

    def parts(self, layer: int) -> LayerParts:
        """Return the parts of a layer."""

    def expert_variance(self, layer: int) -> Mapping[str, float]:
        """Return the variance of the weights of a layer's experts around their mean."""

    def tensors(self, weights: Weights) -> Mapping[str, Tensor]:
        """Return a layer's tensors after its edits."""

    def branch(self, layer: int, part: str) -> Branch:
        """Return the tensors of a residual branch of a layer, ``attention`` or ``feed_forward``.

        Raises:
            InterventionError: If the layer is no sequence of these two branches.
        """

    def keeps_keys_and_values(self, layer: int, changed: Changed | None) -> bool:
        """Return whether the attention of a layer keeps keys and values of its own.

        Args:
            layer: The layer.
            changed: Which of them each query is to read changed, as :func:`~pytest_layerguard.models.kv_cache.reading`
                takes it.

        Raises:
            InterventionError: If the attention does not give what it should where it reads them so.
        """

    def reinitialised(self, layer: int, seed: int) -> Mapping[str, Tensor]:
        """Return a layer's tensors, drawn anew by the model's own initialiser."""

    def expert_use(
        self, plan: Plan, text: TextSource | None = None
    ) -> Mapping[tuple[int, str], Sequence[int]]:
        """Return how many tokens of a text each expert is chosen for, by slot and mixture.

        Here and below, the text is by default the bet's first.
        """

    def expert_saliency(
        self, plan: Plan, text: TextSource | None = None
    ) -> Mapping[tuple[int, str], Sequence[float]]:
        """Return REAP's score of each expert (Lasby et al., arXiv 2510.13999), by slot and mixture."""

    def expert_groups(
        self,
        plan: Plan,
        layers: Sequence[int],
        count: int,
        by: str,
        text: TextSource | None = None,
    ) -> Mapping[tuple[int, str], tuple[tuple[int, ...], ...]]:
        """Return the experts of each mixture in ``count`` groups, those that are alike together, by slot and mixture.

        They are alike by ``output``, the mean of what each makes of every token, or by ``weights``. Groups are joined
        in order of the mean distance over their pairs.
        """

    def pair_distances(
        self, plan: Plan, protocol: str, text: TextSource | None = None
    ) -> Mapping[tuple[int, int], float]:
        """Return the swap-KL of every pair of slots, in nats per token, by ``replacement`` or ``interchange``."""

    def block_distances(
        self, plan: Plan, score: str, length: int = 1, text: TextSource | None = None
    ) -> Mapping[int, float]:
        """Return how far each run of ``length`` slots moves the hidden states, by the first slot of the run.

        ``block_influence`` is 1 minus the mean cosine of what goes in and what comes out (Men et al., arXiv
        2403.03853), ``angular_distance`` their mean angle over pi at the last token of each window (Gromov et
        al., arXiv 2403.17887).
        """

    def plan_scores(
        self, base: Plan, plans: Sequence[Plan], score: str, text: TextSource | None = None
    ) -> Sequence[float]:
        """Return the ``perplexity`` of each plan, or its ``kl`` from the base in nats per token."""

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
        """Edit slot after slot by the inputs of its linear maps, each slot fed by those edited before it.

        Args:
            plan: The plan to edit.
            names: The weights of each slot whose inputs are wanted.
            text: The text to run, by default the bet's first.
            key: What decides the edits beside the inputs; equal keys are calibrated once.
            edit: Makes a slot's edit of the mean square of each input, ``[experts, in]`` by weight.
            mixed: Whether the edit is given the means of the products of every two inputs, ``[experts, in, in]``.
        """

    def train(self, plan: Plan, arguments: Train) -> Plan:
        """Return the plan with trained weights in place of those it had."""

    def note(self, name: str, value: Any) -> None:
        """Keep a diagnostic, plain data, with the variant's result."""


Implementation = Callable[["Plan", Any, Bench], "tuple[Plan, ...]"]
"""Carries out an intervention with concrete arguments on a plan.

Returns one plan, or, for an intervention that is two directed changes (replacement), one plan for each.
"""
