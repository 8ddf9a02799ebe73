"""Describe a layer by what its tensors are for: experts, routers, norms, linear weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

Tensors = Mapping[str, "Tensor"]


@dataclass(frozen=True)
class ExpertBank:
    """The experts of one mixture in one layer.

    Attributes:
        module: Path of the module that holds them, relative to the layer.
        count: How many experts there are.
        fused: Names of tensors whose first dimension is the expert, ``[count, ...]``.
        listed: For experts that are separate modules: for each tensor of an expert, its name in each of them.
        router: Names of the tensors ``[count, ...]`` that score the experts, router biases included.
        counters: ``"module.path:attribute"`` of each attribute that states ``count``.
    """

    module: str
    count: int
    fused: tuple[str, ...] = ()
    listed: tuple[tuple[str, ...], ...] = ()
    router: tuple[str, ...] = ()
    counters: tuple[str, ...] = ()


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
    """

    index: int
    module: nn.Module
    tensors: Tensors
    banks: tuple[ExpertBank, ...]
    linear: tuple[str, ...]
    post_norms: tuple[str, ...]

    @property
    def expert_weights(self) -> tuple[str, ...]:
        """The weights of the experts' linear maps, without biases."""
        names = {
            name
            for bank in self.banks
            for name in (*bank.fused, *(n for group in bank.listed for n in group))
        }
        return tuple(name for name in self.linear if name in names)

    def transposed(self, name: str) -> bool:
        """Return whether a weight is stored as ``[in, out]``, as those of Conv1D are."""
        owner = self.module.get_submodule(name.rpartition(".")[0])
        return type(owner).__name__ == "Conv1D" or bool(getattr(owner, "is_transposed", False))


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
    """

    matrices: int
    rows: int
    columns: int
    item: int
    encoded: int | None = None

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
