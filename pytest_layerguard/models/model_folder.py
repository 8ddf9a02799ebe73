"""Read and check the files of a model folder before transformers loads any of them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.checkpoints.checkpoint import Checkpoint, open_checkpoint
from pytest_layerguard.checkpoints.facts import CheckpointFacts
from pytest_layerguard.checkpoints.files import ADAPTER, CONFIG, read_json, weight_files
from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.allowed_paths import quoted
from pytest_layerguard.environment.captured_output import first_line
from pytest_layerguard.environment.conditions import REMOTE_CODE_FLAG
from pytest_layerguard.environment.measurement_errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping
    from pathlib import Path

TOKENIZER_FILES: Final[tuple[str, ...]] = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "tekken.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
)
GENERATION_CONFIG: Final = "generation_config.json"
VOCABULARIES: Final = frozenset(TOKENIZER_FILES) - {
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
}
QUANTIZED: Final = ("quantization_config", "compression_config")
"""The keys of config.json that say how weights are quantised."""
FLOATS: Final = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Plain dtypes by their torch name, and what safetensors calls them."""
_CODE_BY_NAME: Final = ("attn_implementation", "experts_implementation")


@dataclass(frozen=True)
class ModelFolder:
    """A model folder's files, or the one file of a model in GGUF.

    Attributes:
        name: The model's name in messages.
        path: The folder.
        config: ``config.json``.
        weights: Safetensors files by name, or the GGUF file.
        tokenizer: Tokenizer files by name; none where the weights' file holds the tokenizer.
        gguf: The GGUF file, or None.
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    weights: Mapping[str, Path]
    tokenizer: Mapping[str, Path]
    gguf: Path | None = None

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The weights, whatever they are stored in.

        Raises:
            MeasurementError: If the files are damaged, or the format is not supported.
            UnavailableError: If the library that reads them is not installed.
        """
        return open_checkpoint(self.gguf or self.path, self.name)

    @property
    def is_compressed(self) -> bool:
        """Whether the weights are something else than plain safetensors."""
        return self.gguf is not None or any(self.config.get(key) for key in QUANTIZED)

    @property
    def bytes(self) -> int:
        """The bytes of the files of weights."""
        return sum(file.stat().st_size for file in self.weights.values())

    @cached_property
    def tensors(self) -> Mapping[str, tuple[str, tuple[int, ...]]]:
        """The dtype, by its safetensors name, and the shape of every stored tensor.

        Raises:
            MeasurementError: If a file is truncated or its header is damaged.
        """
        if self.is_compressed:
            weights = self.checkpoint.weights.values()
            return {weight.name: (weight.dtype, weight.shape) for weight in weights}
        return {name: entry for file in self.weights for name, entry in self._header(file)}

    @property
    def parameters(self) -> int:
        """The number of stored parameters, after dequantising."""
        return sum(prod(shape) for _, shape in self.tensors.values())

    @property
    def stored_dtype(self) -> str:
        """The dtype of most stored parameters, by its torch name; that of the arithmetic where they are compressed.

        Raises:
            MeasurementError: If it is not a floating-point dtype of at least 16 bits.
        """
        if self.is_compressed:
            return CheckpointFacts.of(self.checkpoint).dtype
        sizes: Counter[str] = Counter()
        for dtype, shape in self.tensors.values():
            sizes[dtype] += prod(shape)
        if not sizes:
            raise MeasurementError(f"{self.name}: its safetensors files hold no tensor")
        dtype = sizes.most_common(1)[0][0]
        names = {name: key for key, name in FLOATS.items()}
        if dtype not in names:
            raise MeasurementError(
                f"{self.name}: most weights are stored as {dtype}; interventions need plain "
                f"floating-point weights ({', '.join(names)}). Take an unquantised checkpoint."
            )
        return names[dtype]

    def digests(self) -> dict[str, str]:
        """Return the digests of ``weights``, ``config`` and ``tokenizer``."""
        if self.gguf is not None:
            return dict.fromkeys(
                ("weights", "config", "tokenizer"), file_digests.of_file(self.gguf)
            )
        return {
            "weights": file_digests.of_files(self.weights),
            "config": file_digests.of_file(self.path / CONFIG),
            "tokenizer": file_digests.of_files(self.tokenizer),
        }

    def decisive(self) -> dict[str, str]:
        """Return the digests of all files that decide a number, of which a record holds only `digests`.

        Those are also the ends of text in ``generation_config.json``, and code that a model brings.
        """
        if self.gguf is not None:
            return self.digests()
        more = [*self.path.glob(GENERATION_CONFIG), *self.path.glob("*.py")]
        return self.digests() | {"more": file_digests.of_files({file.name: file for file in more})}

    def _header(self, file: str) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.weights[file], framework="np") as opened:
                for name in opened.keys():  # noqa: SIM118 - it is no mapping
                    entry = opened.get_slice(name)
                    yield name, (str(entry.get_dtype()), tuple(entry.get_shape()))
        except (SafetensorError, OSError, ValueError) as error:
            raise MeasurementError(
                f"{self.name}: {file} is truncated or damaged ({first_line(error)}). "
                "Copy or download it again."
            ) from None


def inspect(path: Path, name: str, *, inside: Callable[[Path], bool]) -> ModelFolder:
    """Return the files of a model folder; load none of them.

    Args:
        path: The folder.
        name: The model's name in messages.
        inside: Return whether a resolved path may be read.

    Raises:
        MeasurementError: If a file that is needed is missing or damaged, or if transformers would load
            another model, a kernel or a file outside the folder.
    """
    files = {entry.name: entry for entry in sorted(path.iterdir())}
    refuse_links(path, name, inside)
    refuse_parts(files, name)
    config = read_json(path / CONFIG, name)
    _refuse_indirections(config, name)
    tokenizer = {file: files[file] for file in TOKENIZER_FILES if file in files}
    if not VOCABULARIES & tokenizer.keys():
        raise MeasurementError(
            f"{name}: has no tokenizer (looked for {', '.join(sorted(VOCABULARIES))}). "
            "Save the model's own tokenizer beside its weights."
        )
    return ModelFolder(name, path, config, weight_files(files, name), tokenizer)


def as_candidate(path: Path) -> dict[str, str]:
    """Return the arguments of ``load_checkpoint`` for a folder, a GGUF file or an adapter.

    Raises:
        MeasurementError: If it is none of them.
    """
    if path.is_file() and path.suffix == ".gguf":
        return {"gguf": str(path), "sha256": file_digests.of_file(path).removeprefix("sha256:")}
    for file, key in ((ADAPTER, "adapter"), (CONFIG, "path")):
        if (path / file).is_file():
            return {key: str(path)}
    raise MeasurementError(
        f"there is no checkpoint in {quoted(str(path))}; allowed: a folder with {CONFIG}, a folder with "
        "adapter_config.json, a GGUF file"
    )


def refuse_links(path: Path, name: str, inside: Callable[[Path], bool]) -> None:
    """Refuse a folder with a link that leads out of what bets may read.

    Raises:
        MeasurementError: If there is one; names it.
    """
    for file in sorted(path.iterdir()):
        if not inside(file.resolve()):
            raise MeasurementError(
                f"{name}: {quoted(file.name)} is a link that leads out of what bets may read"
            )


def inspect_gguf(file: Path, name: str) -> ModelFolder:
    """Return a GGUF file as a model; read its header alone.

    Raises:
        MeasurementError: If it is damaged, or of an architecture that transformers does not map.
        UnavailableError: If the library that reads it is not installed.
    """
    config = open_checkpoint(file, name).config
    return ModelFolder(name, file.parent, config, {file.name: file}, {}, file)


def refuse_parts(files: Collection[str], name: str) -> None:
    """Refuse a folder that holds a part of a model, which may have no config.json; raise MeasurementError."""
    if ADAPTER in files:
        raise MeasurementError(
            f"{name}: is an adapter (adapter_config.json) and no model; as a candidate: "
            "load_checkpoint: {adapter: DIR}"
        )
    if any(file.startswith("shard-") and file.endswith(".safetensors") for file in files):
        raise MeasurementError(
            f"{name}: is a distributed checkpoint (shard-*); save it as one model"
        )


def _refuse_indirections(config: Mapping[str, Any], name: str) -> None:
    """Refuse what would make transformers load anything but the files that were checked."""
    for key in ("transformers_weights", "fusion_config"):
        if config.get(key) is not None:
            raise MeasurementError(
                f"{name}: config.json sets {key}, which is not supported; remove it"
            )
    for key, value in _deep(config):
        if key.strip("_").startswith(_CODE_BY_NAME) and "/" in json.dumps(value):
            raise MeasurementError(
                f"{name}: config.json names a kernel to download ({key}); never loaded"
            )


def refuse_code(folder: ModelFolder) -> None:
    """Refuse a model whose architecture transformers does not know.

    A known one may bring code for older versions of transformers; that code does not run.

    Raises:
        MeasurementError: If transformers does not know the architecture.
    """
    from transformers import CONFIG_MAPPING

    kind = folder.config.get("model_type")
    known = isinstance(kind, str) and kind in CONFIG_MAPPING
    if not known and folder.config.get("auto_map"):
        raise MeasurementError(
            f"{folder.name}: wants to run Python code of its own (auto_map); refused. If you have read that "
            f"code and trust it, {REMOTE_CODE_FLAG} allows it; a bet cannot."
        )
    if kind is None:
        raise MeasurementError(
            f"{folder.name}: config.json has no model_type; transformers cannot load it"
        )
    if not known:
        import transformers

        raise MeasurementError(
            f"{folder.name}: config.json says model_type {quoted(str(kind))}, an architecture that "
            f"transformers {transformers.__version__} does not know. A newer version may."
        )


def _deep(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield str(key), inner
            yield from _deep(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _deep(inner)
