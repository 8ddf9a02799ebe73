"""Open a checkpoint and read its weights, whatever they are stored in.

Opening a checkpoint reads headers alone. A weight is read when it is asked for, in blocks of rows
where that is possible, so that no more than a weight is ever in memory.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from typing_extensions import override

from pytest_layerguard.checkpoints.checkpoint_errors import (
    CheckpointError,
    MissingLibraryError,
    library,
)
from pytest_layerguard.checkpoints.files import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    CONFIG,
    INDEX,
    WEIGHTS,
    StoredTensor,
    read_header,
    read_json,
    weight_files,
)
from pytest_layerguard.checkpoints.formats import Format, Scheme, Weight, read_format
from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.captured_output import first_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

_BLOCK: Final = 2**22
"""The most values of one block."""
_QUANTO: Final = "quanto_qmap.json"
_PLAIN_GGUF: Final = frozenset({"F64", "F32", "F16", "BF16"})


class Checkpoint:
    """A folder of safetensors, of which only headers are read until a weight is asked for.

    Attributes:
        name: What messages call it.
        path: The folder or the file.
        config: Its configuration.
        files: The files of weights.
        format: What the weights are stored in.
        weights: The weights by name.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Read the headers.

        Raises:
            CheckpointError: If a file is missing or damaged, or the format is not supported.
        """
        self.name = name
        self.path = path
        self.config: Mapping[str, Any] = read_json(path / CONFIG, name)
        if (path / _QUANTO).exists():
            raise CheckpointError(
                f"{name}: is in optimum-quanto's own format ({_QUANTO}), which transformers loads as noise; "
                "save the dequantised weights, or quantise with another tool"
            )
        self.files = _weight_files(path, name)
        tensors, metadata = _headers(self.files, name)
        _check_shards(path, tensors, self.files, name)
        self.format: Format
        self.weights: Mapping[str, Weight]
        self.format, self.weights = read_format(self.config, tensors, metadata, name)

    @property
    def nbytes(self) -> int:
        """How many bytes the files of weights have."""
        return sum(file.stat().st_size for file in self.files)

    @property
    def digest(self) -> str:
        """The digest of its weights and its configuration, for which all files are read."""
        folder = self.path if self.path.is_dir() else self.path.parent
        files = {file.name: file for file in self.files}
        files |= {name: folder / name for name in (CONFIG, ADAPTER) if (folder / name).exists()}
        return file_digests.of_files(files)

    @cached_property
    def text_config(self) -> Mapping[str, Any]:
        """The configuration of the decoder, which a multimodal model keeps inside its own."""
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else self.config

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Read a weight, dequantised where it is quantised.

        Args:
            name: The weight.
            start: The first row.
            stop: The row after the last one; all of them by default.

        Returns:
            The plain values; a weight that is not quantised in the dtype in which it is stored.

        Raises:
            CheckpointError: If its bytes do not fit the header and the format.
            MissingLibraryError: If the format's library is not installed.
        """
        try:
            return self._read(name, start, stop)
        except (CheckpointError, MissingLibraryError):
            raise
        except Exception as error:  # each library fails on damaged bytes in its own way
            raise CheckpointError(
                f"{self.name}: {name} cannot be read: {first_line(error)}"
            ) from None

    def _read(self, name: str, start: int, stop: int | None) -> Tensor:
        weight = self.weights[name]
        if weight.scheme is None:
            (part,) = weight.parts.values()
            return self._stored(part, start, stop)
        if len(weight.shape) > 2:
            # Experts in one tensor: each part has them in its first dimension.
            parts = {
                part: self._stored(tensor, start, stop) for part, tensor in weight.parts.items()
            }
            return self.format.decode(weight, parts)
        parts = {part: self._stored(tensor) for part, tensor in weight.parts.items()}
        return self.format.decode(weight, parts)[start:stop]

    def blocks(
        self, name: str, start: int = 0, stop: int | None = None, rows: int | None = None
    ) -> Iterator[Tensor]:
        """Read a weight in blocks of rows.

        Args:
            name: The weight.
            start: The first row.
            stop: The row after the last one; all of them by default.
            rows: The rows of a block; by default as many as have some 4 million values.
        """
        weight = self.weights[name]
        end = weight.shape[0] if stop is None else stop
        step = rows or max(1, _BLOCK * weight.shape[0] // max(1, weight.numel))
        if self._is_read_whole(weight):
            whole = self.read(name, start, end)
            yield from (whole[at : at + step] for at in range(0, len(whole), step))
            return
        for at in range(start, end, step):
            yield self.read(name, at, min(at + step, end))

    def _is_read_whole(self, weight: Weight) -> bool:
        return weight.scheme is not None and len(weight.shape) == 2

    def _stored(self, tensor: StoredTensor, start: int = 0, stop: int | None = None) -> Tensor:
        from safetensors import safe_open

        # Opened anew each time: the pages that were read of an open file stay in memory.
        with safe_open(tensor.file, framework="pt") as opened:
            if not tensor.shape:
                whole: Tensor = opened.get_tensor(tensor.name)
                return whole
            rows: Tensor = opened.get_slice(tensor.name)[start:stop]
            return rows


class GgufCheckpoint(Checkpoint):
    """A GGUF file. Weights have llama.cpp's names and the layout of transformers.

    Attributes:
        architecture: What llama.cpp calls the architecture.
        has_tokenizer: Whether the file holds a tokenizer beside its weights.
    """

    def __init__(self, path: Path, name: str) -> None:
        """Read the header.

        Raises:
            MissingLibraryError: If gguf is not installed.
            CheckpointError: If the file is damaged, or transformers does not map its architecture.
        """
        self.name = name
        self.path = path
        self.files = (path,)
        header = _gguf_header(path, name)
        self.architecture = header.architecture
        self.config = header.config
        self.has_tokenizer = header.has_tokenizer
        self.weights = header.weights
        self.format = Format(name)
        sizes: Counter[str] = Counter()
        for weight in self.weights.values():
            sizes[weight.dtype] += weight.numel
        # A file that keeps its embeddings and head is called by what its other matrices are in.
        kinds = [kind for kind, _ in sizes.most_common()]
        quantized = [kind for kind in kinds if kind not in _PLAIN_GGUF]
        self.format.words = f"GGUF {(quantized or kinds)[0]}"

    def _read(self, name: str, start: int, stop: int | None) -> Tensor:
        import numpy as np
        import torch
        from gguf import GGMLQuantizationType, dequantize

        weight = self.weights[name]
        (part,) = weight.parts.values()
        whole = self._is_read_whole(weight)
        # Not through the reader, whose file is mapped: what was read of it would stay in memory.
        rows, *inner = weight.shape
        first, last, _ = slice(None if whole else start, None if whole else stop).indices(rows)
        width = part.nbytes // rows
        data = np.fromfile(
            self.path, np.uint8, (last - first) * width, offset=part.offset + first * width
        )
        if inner:
            data = data.reshape(last - first, *inner[:-1], -1)
        plain = dequantize(data, GGMLQuantizationType[part.dtype])
        values = self._processor.process(plain, name).weights
        read = torch.from_numpy(values.copy())
        return read[start:stop] if whole else read

    @override
    def _is_read_whole(self, weight: Weight) -> bool:
        # Rows of query and key are in another order there.
        return weight.name.startswith("blk.") and len(weight.shape) < 3

    @cached_property
    def _processor(self) -> Any:
        from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

        kind = TENSOR_PROCESSORS.get(self.architecture, TensorProcessor)
        return kind(config=self.config)  # type: ignore[no-untyped-call]


class Adapter(Checkpoint):
    """A LoRA adapter as peft saves it; its weights are the two factors of each module's change."""

    def __init__(self, path: Path, name: str) -> None:
        """Read the header.

        Raises:
            CheckpointError: If a file is missing or damaged, or it is more than a LoRA.
        """
        self.name = name
        self.path = path
        self.config = read_json(path / ADAPTER, name)
        if self.config.get("peft_type") != "LORA":
            raise CheckpointError(
                f"{name}: is an adapter of the type {self.config.get('peft_type')}; supported: LORA"
            )
        if saved := self.config.get("modules_to_save"):
            raise CheckpointError(
                f"{name}: its adapter replaces whole modules (modules_to_save: {', '.join(saved)}), which is "
                "more than a LoRA; merge it into the base and judge the result"
            )
        self.files = _weight_files(path, name, ADAPTER_WEIGHTS)
        tensors, _ = _headers(self.files, name)
        self.format = Format(name)
        self.format.words = f"LoRA adapter of rank {self.config.get('r')}"
        self.weights = self.format.weights(tensors)


def has_tokenizer(checkpoint: Checkpoint) -> bool:
    """Return whether a GGUF file holds a tokenizer beside its weights."""
    return isinstance(checkpoint, GgufCheckpoint) and checkpoint.has_tokenizer


def open_checkpoint(path: Path, name: str | None = None) -> Checkpoint:
    """Open a checkpoint, reading headers alone.

    Args:
        path: A folder of safetensors, a folder of a LoRA adapter, or a GGUF file.
        name: What messages call it; the path by default.

    Raises:
        CheckpointError: If it cannot be read, is not supported, or nothing is there.
    """
    name = name or str(path)
    if path.is_file():
        if path.suffix == ".gguf":
            return GgufCheckpoint(path, name)
        raise CheckpointError(f"{name}: is a file, and no GGUF file; name the folder that holds it")
    if not path.is_dir():
        raise CheckpointError(f"{name}: there is no such folder or file")
    if (path / ADAPTER).exists():
        return Adapter(path, name)
    if not (path / CONFIG).exists() and (files := sorted(path.glob("*.gguf"))):
        raise CheckpointError(f"{name}: holds GGUF files; name one, such as {files[0].name}")
    return Checkpoint(path, name)


def _weight_files(path: Path, name: str, single: str = WEIGHTS) -> tuple[Path, ...]:
    return tuple(weight_files({each.name: each for each in path.iterdir()}, name, single).values())


def _headers(
    files: tuple[Path, ...], name: str
) -> tuple[dict[str, StoredTensor], Mapping[str, str]]:
    tensors: dict[str, StoredTensor] = {}
    metadata: dict[str, str] = {}
    for file in files:
        found, more = read_header(file, name)
        tensors |= found
        metadata |= more
    if not tensors:
        raise CheckpointError(f"{name}: its safetensors files hold no tensor")
    return tensors, metadata


def _check_shards(
    path: Path, tensors: Mapping[str, StoredTensor], files: tuple[Path, ...], name: str
) -> None:
    """Refuse shards that lack a tensor which their index lists, or have one twice."""
    if (path / WEIGHTS).exists():
        return
    listed = read_json(path / INDEX, name)["weight_map"]
    if missing := [tensor for tensor in listed if tensor not in tensors]:
        raise CheckpointError(
            f"{name}: {listed[missing[0]]} lacks {missing[0]}, which the index lists; copy or download it again"
        )
    for file in files:
        for tensor in read_header(file, name)[0]:
            if tensors[tensor].file != file:
                raise CheckpointError(
                    f"{name}: {tensor} is in {file.name} and in {tensors[tensor].file.name}, and libraries differ "
                    "in which they load; save the model again"
                )


class _GgufHeader(NamedTuple):
    architecture: str
    config: Mapping[str, Any]
    has_tokenizer: bool
    weights: Mapping[str, Weight]


_known_headers: dict[tuple[Path, int, int, int], _GgufHeader] = {}


def _gguf_header(path: Path, name: str) -> _GgufHeader:
    """Return the header of a GGUF file; one whose size and time are those of the last call is not read again."""
    gguf = library("gguf", "gguf", name)
    status = path.stat()
    key = (path.resolve(), status.st_ino, status.st_size, status.st_mtime_ns)
    if key not in _known_headers:
        try:
            reader = gguf.GGUFReader(path)
            architecture = str(reader.fields["general.architecture"].contents())
            weights = {tensor.name: _gguf_weight(tensor, path) for tensor in reader.tensors}
        except Exception as error:  # the reader checks nothing: a damaged file fails anywhere
            raise CheckpointError(
                f"{name}: {path.name} is truncated or no GGUF file ({error}); copy or download it again"
            ) from None
        has_tokenizer = "tokenizer.ggml.tokens" in reader.fields
        # It holds two arrays for each token of a vocabulary, and transformers is about to read them again.
        del reader
        config = _gguf_config(path, name, architecture)
        _known_headers[key] = _GgufHeader(architecture, config, has_tokenizer, weights)
    return _known_headers[key]


def _gguf_config(path: Path, name: str, architecture: str) -> Mapping[str, Any]:
    from transformers.modeling_gguf_pytorch_utils import (
        GGUF_SUPPORTED_ARCHITECTURES,
        load_gguf_checkpoint,
    )

    try:
        config: Mapping[str, Any] = load_gguf_checkpoint(str(path))["config"]  # type: ignore[no-untyped-call]
    except ValueError:
        supported = ", ".join(sorted({*GGUF_SUPPORTED_ARCHITECTURES} - {"general", "tokenizer"}))
        raise CheckpointError(
            f"{name}: transformers does not map the GGUF architecture {architecture!r}; it maps {supported}"
        ) from None
    return config


def _gguf_weight(tensor: Any, path: Path) -> Weight:
    from gguf import GGML_QUANT_SIZES

    kind = tensor.tensor_type
    shape = tuple(int(size) for size in reversed(tensor.shape))
    stored = StoredTensor(
        tensor.name, kind.name, shape, int(tensor.n_bytes), path, int(tensor.data_offset)
    )
    scheme = None
    if kind.name not in _PLAIN_GGUF:
        bits = next((int(letter) for letter in kind.name if letter.isdigit()), 4)
        scheme = Scheme(f"{kind.name} values", f"blocks of {GGML_QUANT_SIZES[kind][0]}", 2**bits)
    return Weight(tensor.name, shape, {"weight": stored}, scheme)
