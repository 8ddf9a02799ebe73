"""Replace tensors and attributes of a model within a ``with`` block, and restore them after it."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor, nn


class Sites:
    """The modules that own each named tensor of a module, including tied names.

    A tied tensor (an embedding that is also the head) has several owners. Replacing it must reach all of
    them, or a part of the model would still use the old one.
    """

    def __init__(self, module: nn.Module) -> None:
        owners: dict[int, list[tuple[dict[str, Any], str]]] = defaultdict(list)
        self._identity: dict[str, int] = {}
        for prefix, owner in module.named_modules(remove_duplicate=False):
            for table in (owner._parameters, owner._buffers):
                for leaf, tensor in table.items():
                    if tensor is not None:
                        owners[id(tensor)].append((table, leaf))
                        self._identity[f"{prefix}.{leaf}" if prefix else leaf] = id(tensor)
        self._owners = dict(owners)

    def at(self, name: str) -> Tensor:
        """Return the tensor that has this name now."""
        table, leaf = self._owners[self._identity[name]][0]
        tensor: Tensor = table[leaf]
        return tensor

    @contextmanager
    def bound(self, tensors: Mapping[str, Tensor]) -> Iterator[None]:
        """Replace the parameters and buffers of these names within the block.

        Raises:
            KeyError: If the module has no parameter or buffer of a name.
        """
        undo: list[tuple[dict[str, Any], str, Any]] = []
        try:
            for name, tensor in tensors.items():
                for table, leaf in self._owners[self._identity[name]]:
                    undo.append((table, leaf, table[leaf]))
                    table[leaf] = tensor
            yield
        finally:
            for table, leaf, tensor in reversed(undo):
                table[leaf] = tensor


@contextmanager
def attribute(owner: object, name: str, value: object) -> Iterator[None]:
    """Set an instance attribute within the block; delete it afterwards if only the class had it."""
    held = vars(owner)
    before = held.get(name, held)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is held:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextmanager
def attributes(root: nn.Module, settings: Mapping[str, object]) -> Iterator[None]:
    """Set attributes named ``"module.path:attribute"`` below ``root`` within the block."""
    with ExitStack() as stack:
        for place, value in settings.items():
            path, _, name = place.partition(":")
            stack.enter_context(attribute(root.get_submodule(path), name, value))
        yield
