"""Describe a layer by what its tensors are for: experts, routers, norms, linear weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import Tensor, nn

Tensors = Mapping[str, "Tensor"]


STATED_CHOICES: Final = {
    "chosen": (
        "top_k",
        "num_experts_per_tok",
        "num_experts_per_token",
        "top_k_experts",
        "moe_topk",
        "moe_top_k",
        "moe_k",
    ),
    "groups": ("num_group", "n_group", "num_expert_group"),
    "chosen_groups": ("topk_group",),
}
"""The names by which modules and configurations state a router's choice."""
_GROUP_SCORED_BY: Final = 2
"""How many of its experts score a group."""


@dataclass(frozen=True)
class RouterChoice:
    """How a router chooses experts for a token.

    Attributes:
        chosen: How many it chooses; 0 if that is not stated.
        groups: The number of equal groups of neighbours that it chooses among first.
        chosen_groups: How many of these it chooses.
    """

    chosen: int = 0
    groups: int = 1
    chosen_groups: int = 1

    @classmethod
    def stated(cls, owners: Sequence[Mapping[str, object]]) -> RouterChoice:
        """Return what the first of some attributes or configurations state."""
        found = {
            field: next(
                (
                    value
                    for owner in owners
                    for name in names
                    if isinstance(value := owner.get(name), int) and value > 0
                ),
                None,
            )
            for field, names in STATED_CHOICES.items()
        }
        return cls(**{name: value for name, value in found.items() if value is not None})

    def problem(self, experts: int, count: int) -> str | None:
        """Return why ``count`` of the experts cannot be dropped, or None if they can."""
        if count >= experts:
            return f"count {count} would leave none of the {experts} experts"
        if self.groups == 1:
            if experts - count >= self.chosen:
                return None
            return (
                f"count {count} would leave {experts - count} of {experts} experts, and the router chooses "
                f"{self.chosen} for each token; allowed: up to {experts - self.chosen}"
            )
        size = experts // self.groups
        most = (size - max(_GROUP_SCORED_BY, -(-self.chosen // self.chosen_groups))) * self.groups
        if count % self.groups == 0 and count <= most:
            return None
        return (
            f"the router chooses {self.chosen_groups} of {self.groups} groups of {size} experts, then {self.chosen} "
            f"experts of these, so each group must lose as many; allowed for count: multiples of {self.groups} up to "
            f"{max(most, 0)}"
        )


@dataclass(frozen=True)
class ExpertBank:
    """The experts of one mixture in one layer.

    Attributes:
        module: Path of the module that holds them, relative to the layer.
        count: How many experts there are.
        fused: Names of tensors whose first dimension is the expert, ``[count, ...]``.
        listed: For experts that are separate modules: for each tensor of an expert, its name in each of them.
        router: Names of the tensors that have one entry for each expert and decide the choice: the router's
            weight ``[count, H]`` and biases, ``[count]`` or ``[1, count]``.
        counters: ``"module.path:attribute"`` of each attribute that states ``count``.
        routing: Names of all tensors of the router.
        choice: How the router chooses.
        transposed: Whether experts are ``[count, in, out]``; None if that cannot be known.
        uncut: Whether the router chooses experts by a table of their numbers, as hashing routers do.
    """

    module: str
    count: int
    fused: tuple[str, ...] = ()
    listed: tuple[tuple[str, ...], ...] = ()
    router: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()
    routing: tuple[str, ...] = ()
    choice: RouterChoice = RouterChoice()
    transposed: bool | None = False
    uncut: bool = False


@dataclass(frozen=True)
class LayerParts:
    """The tensors of one decoder block, by purpose. All names are relative to the layer.

    Attributes:
        index: The layer's index, 0..L-1.
        module: The block; never written to.
        tensors: Every parameter and persistent buffer.
        banks: The mixtures of experts; empty for a dense layer.
        linear: Weights of linear maps, including experts, excluding routers: ``[out, in]``, ``[in, out]`` for
            Conv1D, or ``[count, ., .]`` for fused experts.
        post_norms: Norms after attention or feed-forward, inside the residual branch.
        unknown_experts: Weights of experts whose form is not known; no bank holds them.
    """

    index: int
    module: nn.Module
    tensors: Tensors
    banks: tuple[ExpertBank, ...]
    linear: tuple[str, ...]
    post_norms: tuple[str, ...]
    unknown_experts: tuple[str, ...] = ()

    @property
    def matrices(self) -> dict[str, int]:
        """The number of weights of each tensor of two dimensions or more."""
        return {name: tensor.numel() for name, tensor in self.tensors.items() if tensor.dim() > 1}

    @property
    def parameters(self) -> frozenset[str]:
        """The names of parameters, without buffers."""
        return frozenset(name for name, _ in self.module.named_parameters())

    @property
    def expert_weights(self) -> tuple[str, ...]:
        """The weights of the experts' linear maps, without biases."""
        names = {
            name
            for bank in self.banks
            for name in (*bank.fused, *(n for group in bank.listed for n in group))
        }
        return tuple(name for name in self.linear if name in names)

    def transposed(self, name: str) -> bool | None:
        """Return whether a weight is stored as ``[in, out]``, as those of Conv1D are; None if that is not known."""
        for bank in self.banks:
            if name in bank.fused:
                return bank.transposed
        owner = self.module.get_submodule(name.rpartition(".")[0])
        return type(owner).__name__ == "Conv1D"


@dataclass(frozen=True)
class Form:
    """The stored form of one tensor.

    Attributes:
        matrices: The number of matrices (experts) stored; 1 for a plain weight, 0 if another tensor is
            stored in its place.
        rows: Outputs of a matrix.
        columns: Inputs of a matrix.
        item: Bytes of a weight in the model's files.
        encoded: Bytes of one matrix if it is encoded, else None.
        present: The number of matrices in the tensor, equal ones included.
    """

    matrices: int
    rows: int
    columns: int
    item: int
    encoded: int | None = None
    present: int = 1

    @property
    def weights(self) -> int:
        """The number of weights of one matrix."""
        return self.rows * self.columns

    @property
    def bytes(self) -> int:
        """The size of the tensor in bytes."""
        each = self.weights * self.item if self.encoded is None else self.encoded
        return self.matrices * each


Forms = dict[str, Form]
"""The stored form of each tensor of a layer, by name."""
