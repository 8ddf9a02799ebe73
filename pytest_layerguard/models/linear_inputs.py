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
        weights: The weights to watch, by name, at the very place in memory where the layer has them.
        visit: Called with the name, the input ``[..., in]``, the expert if the input is that of one alone, and the
            ends of each expert's rows in the input if it has those of several in turn; returns the input to
            multiply. An input ``[E, ..., in]`` with neither has each expert's in its first dimension.

    Attributes:
        visited: The names of the maps that ran.
    """

    def __init__(self, weights: Mapping[str, Tensor], visit: Visit) -> None:
        super().__init__()
        self._names = {tensor.data_ptr(): name for name, tensor in weights.items()}
        self._experts = {
            name: (tensor.data_ptr(), tensor.stride(0) * tensor.element_size(), len(tensor))
            for name, tensor in weights.items()
            if tensor.dim() == 3
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
            name, expert = self._known(weight) if isinstance(weight, Tensor) else (None, None)
            if name is not None:
                self.visited.add(name)
                changed = self._visit(name, args[at], expert, given.get("offs"))
                args = (*args[:at], changed, *args[at + 1 :])
        return func(*args, **given)

    def _known(self, weight: Tensor) -> tuple[str | None, int | None]:
        """Return the name of a weight that is watched, and the expert if it is the weight of one of them."""
        place = weight.data_ptr()
        name = self._names.get(place)
        if weight.dim() == 2 and (name is None or name in self._experts):
            for fused, (start, size, count) in self._experts.items():
                index, rest = divmod(place - start, size or 1)
                if not rest and 0 <= index < count:
                    return fused, index
        return name, None


class InputMoments:
    """The second moments of the inputs of linear maps, over all tokens that reach them.

    Args:
        weights: The weights to watch, as :class:`LinearInputs` takes them.
        mixed: Whether products of two inputs are wanted beside squares.

    Attributes:
        watching: The context in which the layer runs.
    """

    def __init__(self, weights: Mapping[str, Tensor], *, mixed: bool = False) -> None:
        self._mixed = mixed
        self._sums: dict[str, Tensor] = {}
        self._tokens = {
            name: [0] * (weight.shape[0] if weight.dim() == 3 else 1)
            for name, weight in weights.items()
        }
        self.watching = LinearInputs(weights, self._add)

    def _add(self, name: str, given: Tensor, expert: int | None, ends: Tensor | None) -> Tensor:
        experts, inputs = len(self._tokens[name]), given.shape[-1]
        if name not in self._sums:
            shape = (experts, inputs, inputs) if self._mixed else (experts, inputs)
            self._sums[name] = given.new_zeros(shape, dtype=torch.float64)
        if ends is not None:
            starts = [0, *ends.tolist()]
            for index in range(experts):
                self._add_rows(name, index, given[starts[index] : starts[index + 1]])
        elif expert is None and experts > 1:
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
        missed = [name for name in self._tokens if name not in self._sums]
        if missed:
            raise InterventionError(f"cannot see what {', '.join(missed[:4])} is multiplied by")
        found = {}
        for name, sums in self._sums.items():
            blank = torch.eye(len(sums[0])).to(sums) if self._mixed else torch.ones_like(sums[0])
            found[name] = torch.stack(
                [
                    total / tokens if tokens else blank
                    for total, tokens in zip(sums, self._tokens[name], strict=True)
                ]
            )
        return found
