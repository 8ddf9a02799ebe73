"""The files of a checkpoint, and the tensors that their headers list."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.checkpoints.checkpoint_errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
ADAPTER: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
_PICKLES: Final = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl"})
_LARGEST_JSON: Final = 64 * 2**20


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a file holds it.

    Attributes:
        name: Its name in the file.
        dtype: As the format names it: ``F32`` or ``I8`` in safetensors, ``Q4_0`` in GGUF.
        shape: Its shape; in GGUF that of the values, not of the packed bytes.
        nbytes: How many bytes it takes in the file.
        file: The file.
        offset: Where in the file its bytes begin.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: Path
    offset: int

    @property
    def numel(self) -> int:
        """The number of values."""
        return prod(self.shape)

    def raw(self) -> bytes:
        """Read the bytes as they are; for small tensors that hold the format of others."""
        with self.file.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.nbytes)


def read_json(path: Path, name: str) -> dict[str, Any]:
    """Read a JSON file that holds a mapping.

    Raises:
        CheckpointError: If it is missing, too large, or something else.
    """
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise CheckpointError(f"{name}: {path.name} has more than {_LARGEST_JSON:,} bytes")
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(
            f"{name}: has no {path.name}; needed is a folder as save_pretrained writes it, "
            "a LoRA adapter, or a GGUF file"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{name}: {path.name} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{name}: {path.name} is not a JSON mapping")
    return content


def weight_files(folder: Path, name: str, single: str = WEIGHTS) -> tuple[Path, ...]:
    """Return a folder's safetensors files.

    Raises:
        CheckpointError: If there are none, not all of them, or pickles alone.
    """
    if (folder / single).exists():
        return (folder / single,)
    if (folder / INDEX).exists():
        shards = read_json(folder / INDEX, name).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(v, str) for v in shards.values()):
            raise CheckpointError(f"{name}: {INDEX} has no weight_map of tensors and their files")
        files = sorted(set(shards.values()))
        if elsewhere := [file for file in files if Path(file).name != file]:
            raise CheckpointError(f"{name}: {INDEX} names {elsewhere[0]}, which is not beside it")
        if missing := [file for file in files if not (folder / file).exists()]:
            raise CheckpointError(
                f"{name}: {len(missing)} of {len(files)} shards are missing ({missing[0]}); "
                "copy or download them"
            )
        return tuple(folder / file for file in files)
    if pickles := sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES):
        raise CheckpointError(
            f"{name}: its weights are a pickle ({pickles[0]}), and loading a pickle runs whatever code "
            "is in it; save it as safetensors where you trust it"
        )
    raise CheckpointError(f"{name}: has no weights; looked for {single} and {INDEX}")


def read_header(path: Path, name: str) -> tuple[dict[str, StoredTensor], Mapping[str, str]]:
    """Read the header of a safetensors file.

    Returns:
        Its tensors by name, and its metadata.

    Raises:
        CheckpointError: If the file is truncated or damaged.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, _LARGEST_JSON):
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        start = 8 + length
        tensors = {}
        for key, entry in header.items():
            begin, end = entry["data_offsets"]
            if start + end > size:
                raise ValueError(f"the bytes of {key} end at {start + end:,}, the file at {size:,}")
            shape = tuple(entry["shape"])
            tensors[key] = StoredTensor(
                key, entry["dtype"], shape, end - begin, path, start + begin
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise CheckpointError(
            f"{name}: {path.name} is truncated or damaged ({error}); copy or download it again"
        ) from None
    return tensors, metadata
