"""The files of a checkpoint, and the tensors that their headers list."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.checkpoints.checkpoint_errors import CheckpointError
from pytest_layerguard.environment.allowed_paths import quoted
from pytest_layerguard.environment.captured_output import first_line

if TYPE_CHECKING:
    from collections.abc import Mapping

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
ADAPTER: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = "adapter_model.safetensors"
_PICKLED: Final = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack"})
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
        raise CheckpointError(
            f"{name}: {path.name} cannot be read as JSON: {first_line(error)}"
        ) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{name}: {path.name} is not a JSON mapping")
    return content


def weight_files(files: Mapping[str, Path], name: str, single: str = WEIGHTS) -> dict[str, Path]:
    """Return those of a folder's files that hold the weights, by name.

    Args:
        files: The folder's files by name; of those that hold weights only the names are looked at.
        name: What messages call the checkpoint.
        single: The name of the file where there is but one.

    Raises:
        CheckpointError: If there are no safetensors files, or some of them are missing.
    """
    if single in files:
        return {single: files[single]}
    if INDEX in files:
        shards = _shard_names(read_json(files[INDEX], name), name)
        if missing := [shard for shard in shards if shard not in files]:
            raise CheckpointError(
                f"{name}: {INDEX} names files that are missing: {', '.join(map(quoted, missing[:4]))} "
                f"({len(missing)} of {len(shards)}); copy or download them"
            )
        return {shard: files[shard] for shard in shards}
    if pickled := sorted(file for file in files if Path(file).suffix in _PICKLED):
        raise CheckpointError(
            f"{name}: its weights are pickled ({', '.join(pickled[:4])}), and loading a pickle runs "
            "whatever code is in it. Allowed: safetensors (load it where you trust it, then "
            "save_pretrained)."
        )
    raise CheckpointError(f"{name}: has no weights; looked for {single} and {INDEX}")


def _shard_names(index: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return the file names in an index of shards, sorted.

    Raises:
        CheckpointError: If the index is damaged, or names a file outside its folder.
    """
    shards = index.get("weight_map")
    if (
        not isinstance(shards, dict)
        or not shards
        or not all(isinstance(v, str) for v in shards.values())
    ):
        raise CheckpointError(f"{name}: {INDEX} has no weight_map that gives each tensor its file")
    names = tuple(sorted(set(shards.values())))
    for shard in names:
        if "/" in shard or "\\" in shard or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{name}: {INDEX} names {quoted(shard)}; allowed: safetensors files beside it"
            )
    return names


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
