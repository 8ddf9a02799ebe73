"""Measure experts while a model runs: how often each is chosen, and what it gives."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pytest_layerguard.models.plan import InterventionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pytest_layerguard.models.anatomy import Anatomy
    from pytest_layerguard.models.layer_parts import ExpertBank

Place = tuple[int, str]
"""A slot and the path of a mixture in it."""


@dataclass(frozen=True)
class Routed:
    """What a mixture's experts are given.

    Attributes:
        bank: The mixture.
        experts: The module of the experts.
        hidden: Hidden states ``[N, H]``.
        chosen: The experts chosen for each, ``[N, k]``.
        weights: The weights by which the router adds them up, ``[N, k]``.
    """

    bank: ExpertBank
    experts: Any
    hidden: Tensor
    chosen: Tensor
    weights: Tensor

    def output(self, expert: int, rows: Tensor) -> Tensor:
        """Return what one expert makes of some of the hidden states, ``[n, H]``, unweighted."""
        hidden = self.hidden[rows]
        alone = torch.full((len(hidden), 1), expert, device=hidden.device)
        given: Tensor = self.experts.forward(hidden, alone, self.weights.new_ones(len(hidden), 1))
        return given.float()


@contextmanager
def watching(anatomy: Anatomy, see: Callable[[Place, Routed], None]) -> Iterator[None]:
    """Call ``see`` whenever the experts of a mixture run within the block.

    Raises:
        InterventionError: If experts are not given hidden states, indices and weights.
    """
    with ExitStack() as stack:
        for slot, layer in enumerate(anatomy.layers):
            for bank in anatomy.parts[slot].banks:
                if not bank.fused:
                    raise InterventionError(
                        f"cannot see what goes into the experts of {bank.module}: they are separate modules"
                    )
                owner = layer.get_submodule(bank.fused[0].rpartition(".")[0])
                hook = _hook((slot, bank.module), bank, see)
                stack.callback(owner.register_forward_pre_hook(hook).remove)
        yield


def _hook(
    place: Place, bank: ExpertBank, see: Callable[[Place, Routed], None]
) -> Callable[..., None]:
    def hook(experts: Any, args: tuple[Any, ...]) -> None:
        given = [each for each in args if isinstance(each, Tensor)]
        if len(given) != 3 or given[1].is_floating_point() or given[1].shape != given[2].shape:
            raise InterventionError(
                f"cannot see which experts {bank.module} chooses and by which weights; looked for hidden states, "
                "expert indices and weights among what its experts are given"
            )
        if len(getattr(experts, bank.fused[0].rpartition(".")[2])) != bank.count:
            raise InterventionError(
                f"layer {place[0]} has lost experts to an intervention before; score or merge them first"
            )
        see(place, Routed(bank, experts, *given))

    return hook


@dataclass
class Saliency:
    """REAP's score of each expert: over the tokens that choose it, the mean of weight times norm of its output.

    Lasby et al., arXiv 2510.13999. The weights are those by which the model itself adds its experts up.
    """

    sums: dict[Place, Tensor] = field(default_factory=dict)
    counts: dict[Place, Tensor] = field(default_factory=dict)

    def see(self, place: Place, routed: Routed) -> None:
        """Add one micro-batch."""
        experts = routed.bank.count
        sums = self.sums.setdefault(place, torch.zeros(experts, dtype=torch.double))
        counts = self.counts.setdefault(place, torch.zeros(experts, dtype=torch.long))
        for expert in range(experts):
            rows, column = (routed.chosen == expert).nonzero(as_tuple=True)
            if len(rows):
                norms = routed.output(expert, rows).norm(dim=-1)
                sums[expert] += float((routed.weights[rows, column].float() * norms).double().sum())
                counts[expert] += len(rows)

    def scores(self) -> dict[Place, list[float]]:
        """Return the scores by slot and mixture; 0 for an expert that no token chooses."""
        return {
            place: (self.sums[place] / counts.clamp_min(1)).tolist()
            for place, counts in self.counts.items()
        }


@dataclass
class MeanOutput:
    """The mean of what each expert makes of every token, chosen for it or not."""

    sums: dict[Place, Tensor] = field(default_factory=dict)
    tokens: dict[Place, int] = field(default_factory=dict)

    def see(self, place: Place, routed: Routed) -> None:
        """Add one micro-batch."""
        every = torch.arange(len(routed.hidden), device=routed.hidden.device)
        outputs = [routed.output(expert, every) for expert in range(routed.bank.count)]
        sums = torch.stack([output.double().sum(0) for output in outputs]).cpu()
        self.sums[place] = self.sums.get(place, torch.zeros_like(sums)) + sums
        self.tokens[place] = self.tokens.get(place, 0) + len(every)

    def means(self) -> dict[Place, Tensor]:
        """Return the means ``[E, H]`` by slot and mixture."""
        return {place: sums / self.tokens[place] for place, sums in self.sums.items()}


def linked(traits: Tensor, count: int) -> tuple[tuple[int, ...], ...]:
    """Group experts by traits ``[E, n]`` into ``count`` by average linkage."""
    from scipy.cluster.hierarchy import cut_tree, linkage

    if len(traits) == 1:
        return ((0,),)
    tree = linkage(traits.double().cpu().numpy(), method="average")
    labels = cut_tree(tree, n_clusters=count).flatten().tolist()
    return tuple(
        tuple(expert for expert, label in enumerate(labels) if label == each)
        for each in dict.fromkeys(labels)
    )
