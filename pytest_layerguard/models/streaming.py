"""Read the layers of a model from disk when a sweep needs them.

Accelerate's offloading puts a model's blocks on disk. Its hooks would read a block at every call; they are
removed here, and a sweep reads each layer once for all variants.
"""

from __future__ import annotations

import shutil
import weakref
from importlib.util import find_spec
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import torch

from pytest_layerguard.environment.measurement_errors import (
    Lack,
    MeasurementError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel


class LayerStore:
    """The tensors of a model's layers, on disk.

    Attributes:
        bytes_read: Bytes read so far.
        reads: The number of times that each layer was read so far, by index.
    """

    def __init__(self, model: PreTrainedModel, path: str, folder: str) -> None:
        self._path = path
        # The folder holds weights that accelerate had to convert.
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self._kept = _detached(model)
        self.bytes_read = 0
        self.reads: dict[int, int] = {}

    def tensors(self, layer: int, own: Mapping[str, Tensor], device: Any) -> dict[str, Tensor]:
        """Read a layer's tensors from disk.

        Args:
            layer: The layer's index.
            own: Its tensors by name, on the meta device, for their dtypes.
            device: The device to read them to.
        """
        found: dict[str, Tensor] = {}
        for name, tensor in own.items():
            if not tensor.is_meta:
                found[name] = tensor
                continue
            read = self._kept[f"{self._path}.{layer}.{name}"]
            self.bytes_read += read.nbytes
            found[name] = read.to(device=device, dtype=tensor.dtype)
        self.reads[layer] = self.reads.get(layer, 0) + 1
        return found


def load_streamed(
    make: Any,
    config: PreTrainedConfig,
    device: str,
    load: Callable[..., tuple[PreTrainedModel, Any]],
) -> tuple[PreTrainedModel, Any, LayerStore]:
    """Load a model whose layers stay on disk.

    Args:
        make: The auto class.
        config: The model's configuration.
        device: The device of everything else, and of layers when they run.
        load: Calls ``from_pretrained`` with additional options.

    Returns:
        The model with its layers on the meta device, the report of loading, and the layers.

    Raises:
        UnavailableError: If accelerate is not installed.
        MeasurementError: If the model's layers cannot be found.
    """
    if find_spec("accelerate") is None:
        raise UnavailableError(
            "model.placement: stream needs the package accelerate; pip install pytest-layerguard[stream]",
            Lack("package", "accelerate"),
        )
    from pytest_layerguard.models.anatomy import Anatomy

    # Not accelerate's init_empty_weights, which takes memory for each weight before it lets go of it.
    with torch.device("meta"):
        anatomy = Anatomy.of(make.from_config(config))
    places = dict.fromkeys(_beside(anatomy.model, anatomy.path), device)
    places |= {f"{anatomy.path}.{index}": "disk" for index in range(len(anatomy))}
    folder = mkdtemp(prefix="layerguard-")
    try:
        model, report = load(device_map=places, offload_folder=folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return model, report, LayerStore(model, anatomy.path, folder)


def _beside(model: PreTrainedModel, path: str) -> Iterator[str]:
    """Yield the paths of the largest modules that hold no layer, and of tensors that stand beside these."""
    above = path.split(".")
    for depth in range(len(above)):
        prefix = ".".join(above[:depth])
        module = model.get_submodule(prefix)
        for name in (*module._modules, *module._parameters, *module._buffers):
            if name != above[depth]:
                yield f"{prefix}.{name}" if prefix else name


def _detached(model: PreTrainedModel) -> Mapping[str, Tensor]:
    """Remove accelerate's hooks from a model and return the weights that they would have read."""
    from accelerate.hooks import remove_hook_from_module

    maps = [
        found.dataset
        for module in model.modules()
        if (found := getattr(getattr(module, "_hf_hook", None), "weights_map", None)) is not None
    ]
    if not maps:
        raise MeasurementError(
            "model.placement: stream found no layer on disk; take placement: memory"
        )
    remove_hook_from_module(model, recurse=True)
    kept: Mapping[str, Tensor] = maps[0]
    return kept
