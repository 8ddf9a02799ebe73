"""Read the weights of a model from disk when a sweep needs them.

Accelerate's offloading leaves a model's blocks, embeddings and head on disk. Its hooks would read a block at every
call; they are removed here, and a sweep reads each layer once for all variants.
"""

from __future__ import annotations

import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from pytest_layerguard.environment.measurement_errors import (
    Lack,
    MeasurementError,
    UnavailableError,
)
from pytest_layerguard.models.compressed import ALIGNMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from accelerate.utils import OffloadedWeightsLoader
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

_CONVERTED: Final = "layerguard-weights-"
_LOCK: Final = "lock"
_NEW: Final = 60.0
"""Seconds within which a folder is locked after it was made."""


class ConvertedWeights:
    """A new temporary folder for weights that have to be converted, which can be as large as the model.

    A lock in it, the system's own, ends with this process. So a folder that a killed run left is known by its lock,
    and is removed when the next one is made.
    """

    def __init__(self) -> None:
        from filelock import FileLock, Timeout

        for left in Path(tempfile.gettempdir()).glob(f"{_CONVERTED}*/{_LOCK}"):
            # A folder of another user cannot be locked. A new one may not be locked yet.
            with suppress(Timeout, OSError, NotImplementedError):
                if time.time() - left.stat().st_mtime > _NEW:
                    with FileLock(left, timeout=0):
                        shutil.rmtree(left.parent, ignore_errors=True)
        self.path = Path(tempfile.mkdtemp(prefix=_CONVERTED))
        self._lock = FileLock(self.path / _LOCK)
        # Some file systems have no locks. There no folder is ever taken for one that was left.
        with suppress(OSError, NotImplementedError):
            self._lock.acquire()

    def remove(self) -> None:
        """Remove the folder."""
        self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)


class LayerStore:
    """The tensors of a model that stay on disk: those of its layers, of its embeddings and of its head.

    Attributes:
        device: The device to read them to.
        outer: Those outside the layers, on the meta device, by each of their names: a tied one has several.
        bytes_read: Bytes read so far.
        reads: The number of times that each layer, by its index, and each tensor outside the layers, by its name,
            was read so far.
    """

    def __init__(
        self, model: PreTrainedModel, path: str, folder: ConvertedWeights, device: Any
    ) -> None:
        self._path = path
        weakref.finalize(self, folder.remove)
        self._folder = str(folder.path)
        self._kept = _detached(model)
        # Each of several names of a tensor is now another empty tensor.
        model.tie_weights()
        self.device = device
        self.outer: dict[str, Tensor] = {
            name: tensor
            for name, tensor in model.named_parameters(remove_duplicate=False)
            if tensor.is_meta and not name.startswith(f"{path}.")
        }
        self.bytes_read = 0
        self.reads: dict[int | str, int] = {}

    def tensors(self, layer: int, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read a layer's tensors from disk.

        Args:
            layer: The layer's index.
            own: Its tensors by name, on the meta device, for their dtypes.
        """
        found = {
            name: self._read(f"{self._path}.{layer}.{name}", tensor) if tensor.is_meta else tensor
            for name, tensor in own.items()
        }
        self.reads[layer] = self.reads.get(layer, 0) + 1
        return found

    def outside(self, name: str) -> Tensor:
        """Read a tensor of :attr:`outer` from disk; on a CPU only what is used of it will take memory."""
        self.reads[name] = self.reads.get(name, 0) + 1
        return self._read(name, self.outer[name])

    def _read(self, name: str, empty: Tensor) -> Tensor:
        read: Tensor = self._kept[name]
        self.bytes_read += read.nbytes
        made = read.to(device=self.device, dtype=empty.dtype)
        # What is written to the folder is made anew in a model in memory, where torch aligns it; some products of
        # matrices depend on that in their last bit.
        is_written = self._kept.index[name]["safetensors_file"].startswith(self._folder)
        return made.clone() if is_written and made.data_ptr() % ALIGNMENT else made


def load_streamed(
    make: Any,
    config: PreTrainedConfig,
    device: str,
    load: Callable[..., tuple[PreTrainedModel, Any]],
) -> tuple[PreTrainedModel, Any, LayerStore]:
    """Load a model whose layers, embeddings and head stay on disk.

    Args:
        make: The auto class.
        config: The model's configuration.
        device: The device of everything else, and of what is read.
        load: Calls ``from_pretrained`` with additional options.

    Returns:
        The model with what stays on disk on the meta device, the report of loading, and what stays on disk.

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
    places = {
        name: "disk" if _has_vocabulary(anatomy.model, name) else device
        for name in _beside(anatomy.model, anatomy.path)
    }
    places |= {f"{anatomy.path}.{index}": "disk" for index in range(len(anatomy))}
    folder = ConvertedWeights()
    try:
        model, report = load(device_map=places, offload_folder=str(folder.path))
    except BaseException:
        folder.remove()
        raise
    return model, report, LayerStore(model, anatomy.path, folder, device)


def _beside(model: PreTrainedModel, path: str) -> Iterator[str]:
    """Yield the paths of the largest modules that hold no layer, and of tensors that stand beside these."""
    above = path.split(".")
    for depth in range(len(above)):
        prefix = ".".join(above[:depth])
        module = model.get_submodule(prefix)
        for name in (*module._modules, *module._parameters, *module._buffers):
            if name != above[depth]:
                yield f"{prefix}.{name}" if prefix else name


def _has_vocabulary(model: PreTrainedModel, path: str) -> bool:
    """Return whether a part of the model is an embedding or its head."""
    part = getattr(model.get_submodule(path.rpartition(".")[0]), path.rpartition(".")[2])
    return isinstance(part, nn.Embedding) or part is model.get_output_embeddings()  # type: ignore[no-untyped-call]


def _detached(model: PreTrainedModel) -> OffloadedWeightsLoader:
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
    kept: OffloadedWeightsLoader = maps[0]
    return kept
