"""Read a model with a LoRA adapter merged into its weights, block by block."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from math import sqrt
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from pytest_layerguard.checkpoints.checkpoint import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pytest_layerguard.checkpoints.checkpoint import Adapter


@dataclass(frozen=True)
class Delta:
    """What an adapter adds to one matrix.

    Attributes:
        adapter: The adapter.
        a: The name of its first factor, ``[rank, inputs]``.
        b: The name of the second, ``[outputs, rank]``.
        upright: Whether the matrix is ``[outputs, inputs]``, and not the other way round.
    """

    adapter: Adapter
    a: str
    b: str
    upright: bool

    def rows(self, start: int, stop: int | None) -> Tensor:
        """Return rows of what is added to the matrix, in float32."""
        a, b = (self.adapter.read(name).float() for name in (self.a, self.b))
        if self.upright:
            return self._scale * (b[start:stop] @ a)
        return self._scale * (a.T[start:stop] @ b.T)

    @property
    def _scale(self) -> float:
        config = self.adapter.config
        rank: int = self._of_module("rank_pattern", config.get("r", 0))
        alpha: float = self._of_module("alpha_pattern", config.get("lora_alpha", 0))
        return alpha / (sqrt(rank) if config.get("use_rslora") else rank)

    def _of_module(self, pattern: str, default: Any) -> Any:
        """Return what a pattern of peft's gives the module, or the adapter's own value."""
        module = self.a.removeprefix("base_model.model.").partition(".lora_")[0]
        patterns = self.adapter.config.get(pattern) or {}
        found = (patterns[key] for key in patterns if re.match(rf"(.*\.)?({key})$", module))
        return next(found, default)


class Merged(Checkpoint):
    """A model with the changes of an adapter in its weights; nothing is stored anew."""

    def __init__(self, base: Checkpoint, name: str, deltas: Mapping[str, Delta]) -> None:
        """Take the base and the changes of its weights by name."""
        self.name = name
        self.config = base.config
        self.format = base.format
        self.weights = {
            key: replace(weight, scheme=None) if key in deltas else weight
            for key, weight in base.weights.items()
        }
        self._base, self._deltas = base, deltas

    @override
    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        values = self._base.read(name, start, stop)
        delta = self._deltas.get(name)
        return values if delta is None else values.float() + delta.rows(start, stop)
