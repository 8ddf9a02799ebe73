"""Change the keys and values that the attention of a block reads, as a cache would keep them.

An attention is known by its code: it is given a cache and updates it. It is run with a cache also where the model keeps
none, so that it reads what it wrote.
"""

from __future__ import annotations

import inspect
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from transformers import DynamicCache, cache_utils

from pytest_layerguard.models import binding
from pytest_layerguard.models.plan import InterventionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

    Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    Changed = Callable[[Tensor], Tensor]

_CACHE: Final = ("cache", "past_key_values", "layer_past")
"""The names of the argument by which an attention is given its cache."""
_PLACE: Final = ("layer_idx", "layer_id")
"""The names of the attribute that states whose keys and values an attention keeps."""


def attentions(block: nn.Module) -> dict[nn.Module, str]:
    """Return the attentions of a block that keep keys and values of their own, with the name of their cache."""
    found = {}
    for module in block.modules():
        forward = inspect.unwrap(type(module).forward)
        given = [name for name in _CACHE if name in inspect.signature(forward).parameters]
        if given and "update" in forward.__code__.co_names and not _borrows(module):
            found[module] = given[0]
    return found


def borrows(block: nn.Module) -> bool:
    """Return whether a block reads keys and values that another one keeps, as Gemma's last layers do."""
    return any(map(_borrows, block.modules()))


def unknown_cache(block: nn.Module) -> str | None:
    """Return the class of the cache of a block where it is the model's own, as DeepSeek V4's is.

    Such a cache holds more than keys and values, which attention reads, too.
    """
    for module in attentions(block):
        layers = DynamicCache(config=getattr(module, "config", None)).layers
        place = _place(module)
        # Zamba's one attention is given the place of each of its blocks.
        for layer in layers if place is None else layers[place : place + 1]:
            if type(layer).__module__ != cache_utils.__name__:
                return type(layer).__name__
    return None


def _place(module: nn.Module) -> int | None:
    place: int | None = next(getattr(module, name) for name in _PLACE if hasattr(module, name))
    return place


def _borrows(module: nn.Module) -> bool:
    return bool(getattr(module, "is_kv_shared_layer", False))


@contextmanager
def reading(block: nn.Module, change: Change, changed: Changed | None = None) -> Iterator[None]:
    """Let the attentions of a block read changed keys and values within the block.

    Args:
        block: A decoder block.
        change: Maps all keys and values so far, ``[B, heads, positions, width]``, to those that are read.
        changed: Maps the number of positions that there are for each query, its own included, to how many of them, the
            first, are read changed; the others are read as they are. By default all are read changed.

    Raises:
        InterventionError: If an attention that has to read both has a mask that is no tensor.
    """
    with ExitStack() as stack:
        for module, cache in attentions(block).items():
            forward = _forward(module, cache, change, changed)
            stack.enter_context(binding.attribute(module, "forward", forward))
        yield


def _forward(
    module: nn.Module, name: str, change: Change, changed: Changed | None
) -> Callable[..., Any]:
    own = module.forward
    signature = inspect.signature(own)

    def forward(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        cache = given[name]
        if cache is None:
            cache = DynamicCache(config=getattr(module, "config", None))
        if changed is not None:
            queries = next(value for value in given.values() if isinstance(value, Tensor)).shape[1]
            before = cache.get_seq_length(_place(module))
            given["attention_mask"] = _of_both(
                given.get("attention_mask"), before, queries, changed
            )
        given[name] = _Changed(cache, change, whole=changed is None)
        return own(*bound.args, **bound.kwargs)

    return forward


class _Changed:
    """A cache that is written to as it is and read changed, or with changed keys and values before its own."""

    def __init__(self, cache: Any, change: Change, *, whole: bool) -> None:
        self._cache = cache
        self._change = change
        self._whole = whole

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep new keys and values; return all of them."""
        keys, values = self._cache.update(*args, **kwargs)
        read = self._change(keys, values)
        if self._whole:
            return read
        return torch.cat([read[0], keys], -2), torch.cat([read[1], values], -2)


def _of_both(mask: Any, before: int, queries: int, changed: Changed) -> Tensor:
    """Return a mask over changed keys and the same keys as they are, of which each query sees one or the other."""
    positions = before + queries
    there = torch.arange(before, positions).unsqueeze(1) + 1
    place = torch.arange(positions)
    if mask is None:
        mask = (place < there).view(1, 1, queries, positions)
    elif not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[-1] != positions:
        raise InterventionError(
            "the attention has no mask of keys by queries; model.attn_implementation: eager"
        )
    first = (place < changed(there)).to(mask.device)
    if mask.dtype == torch.bool:
        return torch.cat([mask & first, mask & ~first], -1)
    unseen = torch.finfo(mask.dtype).min
    return torch.cat([mask.masked_fill(~first, unseen), mask.masked_fill(first, unseen)], -1)
