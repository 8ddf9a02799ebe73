"""Find the residual branches of a decoder block: its attention and its feed-forward."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pytest_layerguard.models.layer_parts import LayerParts

_BRANCHES: Final = {
    "attention": re.compile(r"attn|attention"),
    "feed_forward": re.compile(r"mlp|feed_?forward|ffn|moe|experts|router|^ff$|^fc\d$"),
}
_NORM: Final = re.compile(r"norm|^ln_")


@dataclass(frozen=True)
class Branch:
    """One residual branch of a block: what is added to the hidden states.

    Attributes:
        tensors: The names of its floating-point parameters, but for the norms before and after it.
        post_norms: The names of the tensors of the norm after it; empty in blocks that have none.
    """

    tensors: tuple[str, ...]
    post_norms: tuple[str, ...]


def branches(parts: LayerParts) -> dict[str, Branch]:
    """Return the branches of a block, by the names that transformers gives their modules."""
    return {
        name: Branch(
            tuple(
                tensor
                for tensor in parts.tensors
                if tensor in parts.parameters
                and _owner(tensor) == name
                and parts.tensors[tensor].is_floating_point()
            ),
            tuple(
                norm
                for norm in parts.post_norms
                if bool(_BRANCHES["attention"].search(norm)) == (name == "attention")
            ),
        )
        for name in _BRANCHES
    }


def _owner(tensor: str) -> str | None:
    """Return the branch that a tensor belongs to, or None for a norm outside both."""
    for module in tensor.split("."):
        if not _NORM.search(module):
            for name, pattern in _BRANCHES.items():
                if pattern.search(module):
                    return name
    return None
