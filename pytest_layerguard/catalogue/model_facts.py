"""What a model's configuration says of its shape, found without weights and remembered on disk.

The defaults that a configuration leaves out are those of its class in transformers, so the model
is built on the meta device, where parameters have shapes and no numbers. That takes seconds for
the import alone, so a shape is kept by the digest of its configuration.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard import reference
from pytest_layerguard.bet.errors import printable
from pytest_layerguard.catalogue.reviewed_json import laid_out
from pytest_layerguard.environment.atomic_write import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedConfig

_FORM: Final = 3
"""Counts the changes of what is remembered."""
_LARGEST_CONFIG: Final = 1_000_000
_LARGEST_DEPTH: Final = 2_048
"""No decoder is deeper, and building one would take for ever."""
_DEPTHS: Final = re.compile("layer|depth|block|stage")
_EXPERTS: Final = (
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_routed_experts",
)
_NOT_COUNTED: Final = (
    "auto_map",
    "quantization_config",
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "_experts_implementation",
    "dtype",
    "torch_dtype",
)
"""Keys that change how a model is run or stored and not how many parameters it has."""


class ShapeError(Exception):
    """A configuration of which not all can be told; the text says why."""


@dataclass(frozen=True)
class Shape:
    """What `closes.models` may ask of a model, but for its name; None where it is not known.

    Attributes:
        parameters: All of them, tied ones once.
        layers: Decoder layers.
        experts: Experts of a layer, the most over the layers; 0 for a dense model.
        hidden_size: Width of the residual stream.
        families: The configuration's `model_type`, and that of the decoder inside a wrapper.
    """

    parameters: int | None = None
    layers: int | None = None
    experts: int | None = None
    hidden_size: int | None = None
    families: tuple[str, ...] = ()

    @property
    def body(self) -> tuple[int, int, int] | None:
        """Layers, width and experts: what two copies of one model share; None if not all known."""
        if self.layers is None or self.hidden_size is None or self.experts is None:
            return None
        return self.layers, self.hidden_size, self.experts


def of_reference(name: str) -> Shape:
    """Return the shape of a reference model, without importing torch.

    Its configuration leaves nothing out, and its one file of weights says in its first bytes which
    tensors it has: both are the package's own.
    """
    folder = reference.folder(name)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    tensors = {key: tuple(entry["shape"]) for key, entry in header.items() if key != "__metadata__"}
    return Shape(
        parameters=sum(map(math.prod, tensors.values())),
        layers=config["num_hidden_layers"],
        experts=config["num_experts"],
        hidden_size=config["hidden_size"],
        families=(config["model_type"],),
    )


def of_config(config: Mapping[str, Any], cache: Path | None) -> Shape:
    """Return the shape of a model by its configuration; imports torch unless it is remembered.

    Raises ShapeError where transformers does not know such a model or will not build it.
    """
    text = json.dumps(config, sort_keys=True)
    if len(text) > _LARGEST_CONFIG:
        raise ShapeError(f"its config.json has more than {_LARGEST_CONFIG:,} characters")
    key = hashlib.sha256(f"{_FORM} {metadata.version('transformers')} {text}".encode()).hexdigest()
    kept = cache / "shapes" / f"{key}.json" if cache is not None else None
    if kept is not None and (known := _remembered(kept)) is not None:
        return known
    _refuse_deep(config)
    shape = _built(config)
    if kept is not None:
        _remember(kept, shape)
    return shape


def _remembered(path: Path) -> Shape | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Shape(**{**data, "families": tuple(data["families"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _remember(path: Path, shape: Shape) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, laid_out(asdict(shape)))
    except OSError:
        # A full or read-only disk costs the next run a few seconds and nothing else.
        return


def _refuse_deep(config: Mapping[str, Any]) -> None:
    for key, value in _deep(config):
        size = len(value) if isinstance(value, list) else value
        if isinstance(size, int | float) and size > _LARGEST_DEPTH and _DEPTHS.search(key):
            raise ShapeError(f"its config.json says {printable(key)}: {size}, too many to build")


def _deep(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key), inner
            yield from _deep(inner)


def _built(config: Mapping[str, Any]) -> Shape:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from pytest_layerguard.environment.library_output import first_line, quiet

    plain = {key: value for key, value in config.items() if key not in _NOT_COUNTED}
    family = plain.pop("model_type", None)
    if not isinstance(family, str):
        raise ShapeError("its config.json has no model_type")
    try:
        with quiet():
            made = AutoConfig.for_model(family, **plain)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(made, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except Exception as error:  # there are as many ways to fail as there are models
        raise ShapeError(f"transformers cannot build it: {first_line(error)}") from None
    sizes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    decoder = made.get_text_config(decoder=True)
    return Shape(
        parameters=sum(math.prod(shape) for shape in sizes.values()),
        layers=_whole(getattr(decoder, "num_hidden_layers", None)),
        experts=_experts(decoder, sizes),
        hidden_size=_whole(getattr(decoder, "hidden_size", None)),
        families=tuple(dict.fromkeys((family, str(decoder.model_type)))),
    )


def _experts(decoder: PreTrainedConfig, sizes: Mapping[str, tuple[int, ...]]) -> int:
    """Count experts by the tensors, where those are named so, or else by the configuration."""
    counts = [0]
    for name, shape in sizes.items():
        before, found, after = name.partition("experts.")
        if not found or before.endswith("shared_"):
            continue
        listed = re.match(r"(\d+)\.", after)
        if listed is not None:
            counts.append(int(listed[1]) + 1)
        elif len(shape) == 3:
            counts.append(shape[0])
    said = [getattr(decoder, key, None) for key in _EXPERTS]
    return max(counts) or max((_most(value) for value in said), default=0)


def _most(value: object) -> int:
    if isinstance(value, list | tuple):
        return max((_most(each) for each in value), default=0)
    return _whole(value) or 0


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
