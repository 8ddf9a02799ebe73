"""Where each weight of a checkpoint stands in the model, whatever its file calls it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from pytest_layerguard.checkpoints.checkpoint_errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from pytest_layerguard.checkpoints.checkpoint import Checkpoint, GgufCheckpoint

_LAYER: Final = re.compile(r"(?:^|(?<=\.))(?:layers|h|blocks|block|blk)\.(\d+)\.")
_PREFIX: Final = re.compile(r"^(?:(?:base_model|model|transformer|language_model|gpt_neox)\.)+")
_EXPERT: Final = re.compile(r"(?<=\.)experts\.(\d+)\.")
_OLD: Final = (
    (re.compile(r"block_sparse_moe\."), "mlp."),
    (re.compile(r"(?<=experts\.)w1\."), "gate_proj."),
    (re.compile(r"(?<=experts\.)w2\."), "down_proj."),
    (re.compile(r"(?<=experts\.)w3\."), "up_proj."),
)
"""Names of Mixtral's files; a model that was saved again may have the new ones."""
ROUTER: Final = re.compile(r"(?:^|[.])(?:gate|router|ffn_gate_inp)[.]")
_INTERLEAVED: Final = "gpt_oss"


@dataclass(frozen=True)
class Place:
    """Where a weight stands.

    Attributes:
        role: Its name without the numbers of layer and expert.
        layer: Its layer, or None outside of them.
        expert: Its expert, or None.
    """

    role: str
    layer: int | None = None
    expert: int | None = None


@dataclass(frozen=True)
class Piece:
    """A weight, or the part of a fused one that belongs to one expert.

    Attributes:
        checkpoint: Where it is.
        name: The weight.
        shape: The shape of this piece.
        expert: The row of a fused weight that it is, or None.
        rows: The rows of that expert's matrix, where gate and up are one.
        order: The order to read its rows in, or None.
        columns: The order to read its columns in, or None.
        scales: What to multiply its columns by, or None.
    """

    checkpoint: Checkpoint
    name: str
    shape: tuple[int, ...]
    expert: int | None = None
    rows: tuple[int, int] | None = None
    order: tuple[int, ...] | None = None
    columns: Tensor | None = field(default=None, compare=False)
    scales: Tensor | None = field(default=None, compare=False)

    def read(self, start: int = 0, stop: int | None = None) -> Tensor:
        """Read rows of it; all of them by default.

        Raises:
            CheckpointError: If values are NaN or infinite.
        """
        return self._arranged(self._read(start, stop))

    def blocks(self, rows: int) -> Iterator[Tensor]:
        """Read it in blocks of rows.

        Raises:
            CheckpointError: If values are NaN or infinite.
        """
        if self.expert is None and self.order is None:
            yield from map(self._arranged, self.checkpoint.blocks(self.name, rows=rows))
        else:
            whole = self._read()
            yield from (self._arranged(whole[at : at + rows]) for at in range(0, len(whole), rows))

    def _read(self, start: int = 0, stop: int | None = None) -> Tensor:
        if self.order is not None:
            return replace(self, order=None)._read()[list(self.order)][start:stop]
        if self.expert is None:
            return self.checkpoint.read(self.name, start, stop)
        whole = self.checkpoint.read(self.name, self.expert, self.expert + 1)[0]
        if self.rows is not None:
            whole = whole[self.rows[0] : self.rows[1]]
        return whole[start:stop]

    def _arranged(self, values: Tensor) -> Tensor:
        if self.columns is not None:
            values = values[:, self.columns]
        return self._finite(values if self.scales is None else values.float() * self.scales)

    def _finite(self, values: Tensor) -> Tensor:
        # Values are compared in float32, which float64 may go beyond.
        if not bool(values.float().isfinite().all()):
            raise CheckpointError(
                f"{self.checkpoint.name}: {self.name} has values that are NaN or infinite"
            )
        return values

    @property
    def dtype(self) -> str:
        """The dtype in which it is stored, as the file names it."""
        return self.checkpoint.weights[self.name].dtype


Layer = Mapping[tuple[str, int | None], Piece]
"""The pieces of a layer by role and expert."""


def places(checkpoint: Checkpoint, named: Callable[[str], str] | None) -> dict[Place, Piece]:
    """Return where every weight of a checkpoint stands.

    Args:
        checkpoint: The checkpoint.
        named: Renames weights to llama.cpp's names, where the other checkpoint has those.
    """
    found: list[tuple[str, Place, Piece]] = []
    sizes: Counter[str] = Counter()
    for name, weight in checkpoint.weights.items():
        for full, expert, piece in _pieces(checkpoint, name):
            stack, place = _split(named(full) if named is not None else full)
            place = replace(place, expert=expert) if expert is not None else place
            found.append((stack, place, piece))
        sizes[stack] += weight.numel if place.layer is not None else 0
    main = sizes.most_common(1)[0][0]
    # Layers of a vision tower are no layers of the decoder: their numbers stay in their roles.
    return {
        place
        if stack == main or place.layer is None
        else Place(f"{stack}{place.layer}.{place.role}"): piece
        for stack, place, piece in found
    }


def llama_names(gguf: GgufCheckpoint, layers: int) -> Callable[[str], str]:
    """Return a function from names of weights in transformers to those of a GGUF file's architecture."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    kind = next(key for key, value in MODEL_ARCH_NAMES.items() if value == gguf.architecture)
    known = get_tensor_name_map(kind, layers)

    def renamed(name: str) -> str:
        if name in gguf.weights:
            return name
        expert = _EXPERT.search(name)
        plain = name if expert is None else _EXPERT.sub("experts.", name)
        return known.get_name(plain, try_suffixes=(".weight", ".bias")) or name

    return renamed


def _pieces(checkpoint: Checkpoint, name: str) -> Iterator[tuple[str, int | None, Piece]]:
    """Yield a weight as it is, or each expert of a fused one with gate and up apart."""
    shape = checkpoint.weights[name].shape
    if len(shape) != 3 or not re.search(r"experts\.|_exps", name):
        found = _EXPERT.search(name)
        yield name, None if found is None else int(found[1]), Piece(checkpoint, name, shape)
        return
    config = checkpoint.text_config
    halves = (
        name.endswith("gate_up_proj")
        and shape[2] == config.get("hidden_size") != shape[1]
        and config.get("model_type") != _INTERLEAVED
    )
    for expert in range(shape[0]):
        if halves:
            half = shape[1] // 2
            for part, rows in (("gate_proj", (0, half)), ("up_proj", (half, 2 * half))):
                piece = Piece(checkpoint, name, (half, shape[2]), expert, rows)
                yield name.replace("gate_up_proj", f"{part}.weight"), expert, piece
        else:
            full = name if name.endswith(".weight") else f"{name}.weight"
            yield full, expert, Piece(checkpoint, name, shape[1:], expert)


def place_of(name: str) -> Place:
    """Return where a weight of the decoder stands, from its name."""
    return _split(name)[1]


def _split(name: str) -> tuple[str, Place]:
    """Return the stack of layers that a name is in, and its place there."""
    layer = _LAYER.search(name)
    if layer is None:
        return "", Place(_PREFIX.sub("", name))
    stack, role = _PREFIX.sub("", name[: layer.start()]), name[layer.end() :]
    expert = _EXPERT.search(role)
    role = role if expert is None else _EXPERT.sub("experts.", role)
    for old, new in _OLD:
        role = old.sub(new, role)
    return stack, Place(role, int(layer[1]), None if expert is None else int(expert[1]))
