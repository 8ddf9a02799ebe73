"""What an intervention may know of a layer: which of its tensors are experts, routers, norms, linear weights."""

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
        fused: Names of tensors whose first dimension is the expert (``[count, ...]``).
        listed: For experts kept as separate modules: for each tensor of an expert, its name in each of them.
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
    """One decoder block, by what its tensors are for. All names are relative to the layer.

    Attributes:
        index: Which layer this is, 0..L-1.
        module: The block itself; never written to.
        tensors: Every parameter and persistent buffer.
        banks: Its mixtures of experts; empty for a dense layer.
        linear: Weights of linear maps, experts' included, routers' not: ``[out, in]``, ``[in, out]`` for
            Conv1D, or ``[count, ., .]`` for fused experts.
        post_norms: Tensors of norms that stand behind attention or feed-forward, inside the residual branch.
    """

    index: int
    module: nn.Module
    tensors: Tensors
    banks: tuple[ExpertBank, ...]
    linear: tuple[str, ...]
    post_norms: tuple[str, ...]

    @property
    def expert_weights(self) -> tuple[str, ...]:
        """Weights of the experts' linear maps, without biases."""
        names = {
            name
            for bank in self.banks
            for name in (*bank.fused, *(n for group in bank.listed for n in group))
        }
        return tuple(name for name in self.linear if name in names)

    def transposed(self, name: str) -> bool:
        """Whether a weight is kept as ``[in, out]``: Conv1D's, and experts that say so."""
        owner = self.module.get_submodule(name.rpartition(".")[0])
        return type(owner).__name__ == "Conv1D" or bool(getattr(owner, "is_transposed", False))


@dataclass(frozen=True)
class Form:
    """How one tensor is stored.

    Attributes:
        matrices: How many matrices (experts) are stored; 1 for a plain weight, 0 where another tensor stands
            for this one.
        rows: Outputs of a matrix.
        columns: Inputs of a matrix.
        item: Bytes of a weight in the model's files.
        encoded: Bytes of one matrix where it is encoded, else None.
    """

    matrices: int
    rows: int
    columns: int
    item: int
    encoded: int | None = None

    @property
    def weights(self) -> int:
        """Weights of one matrix."""
        return self.rows * self.columns

    @property
    def bytes(self) -> int:
        """Bytes of the tensor."""
        each = self.weights * self.item if self.encoded is None else self.encoded
        return self.matrices * each


Forms = dict[str, Form]
"""How the tensors of a layer are stored, by name."""
