"""See, or change, what the linear maps of a layer are given while it runs.

A map is known by its weight, whichever module or function multiplies by it: a torch function that is called with a
watched weight, or with one expert of it, is a linear map of what stands beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pytest_layerguard.models.plan import InterventionError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pytest_layerguard.models.layer_parts import LayerParts

    Visit = Callable[[str, Tensor, "int | None", "Tensor | None"], Tensor]

_PRODUCTS: Final[dict[Any, tuple[int, int]]] = {
    function: places
    for names, places in (
        (("linear", "grouped_mm"), (0, 1)),
        (("matmul", "mm", "bmm", "_grouped_mm"), (0, 1)),
        (("addmm", "baddbmm"), (1, 2)),
    )
    for owner in (functional, torch, Tensor)
    for name in names
    if (function := getattr(owner, name, None)) is not None
} | {Tensor.__matmul__: (0, 1)}
"""Where a function has its input and its weight."""


class LinearInputs(TorchFunctionMode):
    """Visit the inputs of linear maps within the block.

    Args:
        weights: The weights to watch, by name, each in a storage of its own.
        visit: Called with the name, the input ``[..., in]``, the expert if the input is that of one alone, and the
            ends of each expert's rows in the input if it has those of several in turn; returns the input to
            multiply. An input ``[E, ..., in]`` with neither has each expert's in its first dimension.

    Attributes:
        visited: The names of the maps that ran.
    """

    def __init__(self, weights: Mapping[str, Tensor], visit: Visit) -> None:
        super().__init__()
        self._names = {_storage(tensor): name for name, tensor in weights.items()}
        self._experts = {
            name: tensor[0].numel() for name, tensor in weights.items() if tensor.dim() == 3
        }
        self._visit = visit
        self.visited: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function, with another input where it multiplies by a watched weight."""
        given = dict(kwargs or {})
        places = _PRODUCTS.get(func)
        if places is None and "grouped_mm_fallback" in str(func):
            places = (0, 1)
        if places is not None and len(args) > places[1]:
            at, weight = places[0], args[places[1]]
            name = self._names.get(_storage(weight)) if isinstance(weight, Tensor) else None
            if name is not None:
                expert = None
                if name in self._experts and weight.dim() == 2:
                    expert = weight.storage_offset() // self._experts[name]
                self.visited.add(name)
                changed = self._visit(name, args[at], expert, given.get("offs"))
                args = (*args[:at], changed, *args[at + 1 :])
        return func(*args, **given)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class InputMoments:
    """The second moments of the inputs of linear maps, over all tokens that reach them.

    Args:
        weights: The weights to watch, as :class:`LinearInputs` takes them.
        parts: The layer that they are of.
        mixed: Whether products of two inputs are wanted beside squares.

    Attributes:
        watching: The context in which the layer runs.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], parts: LayerParts, *, mixed: bool = False
    ) -> None:
        self._mixed = mixed
        self._sums: dict[str, Tensor] = {}
        self._tokens: dict[str, Tensor] = {}
        for name, weight in weights.items():
            experts = weight.shape[0] if weight.dim() == 3 else 1
            inputs = weight.shape[-2] if parts.transposed(name) else weight.shape[-1]
            shape = (experts, inputs, inputs) if mixed else (experts, inputs)
            self._sums[name] = weight.new_zeros(shape, dtype=torch.float64)
            self._tokens[name] = torch.zeros(experts, dtype=torch.long)
        self.watching = LinearInputs(weights, self._add)

    def _add(self, name: str, given: Tensor, expert: int | None, ends: Tensor | None) -> Tensor:
        if ends is not None:
            starts = [0, *ends.tolist()]
            for index in range(len(self._sums[name])):
                self._add_rows(name, index, given[starts[index] : starts[index + 1]])
        elif expert is None and len(self._sums[name]) > 1:
            for index, rows in enumerate(given):
                self._add_rows(name, index, rows)
        else:
            self._add_rows(name, expert or 0, given)
        return given

    def _add_rows(self, name: str, expert: int, rows: Tensor) -> None:
        flat = rows.flatten(0, -2).double()
        self._sums[name][expert] += flat.T @ flat if self._mixed else flat.square().sum(0)
        self._tokens[name][expert] += len(flat)

    def means(self) -> dict[str, Tensor]:
        """Return ``[experts, in]`` by name, or ``[experts, in, in]``; all ones, or the identity, without tokens.

        Raises:
            InterventionError: If a map did not run by a function that is known.
        """
        missed = [name for name in self._sums if name not in self.watching.visited]
        if missed:
            raise InterventionError(f"cannot see what {', '.join(missed[:4])} is multiplied by")
        found = {}
        for name, sums in self._sums.items():
            blank = torch.eye(len(sums[0])).to(sums) if self._mixed else torch.ones_like(sums[0])
            found[name] = torch.stack(
                [
                    total / tokens if tokens else blank
                    for total, tokens in zip(sums, self._tokens[name].tolist(), strict=True)
                ]
            )
        return found
