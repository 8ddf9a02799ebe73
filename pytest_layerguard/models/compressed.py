"""Load models that are stored otherwise than as plain safetensors: quantised, as GGUF, or as a LoRA adapter."""

from __future__ import annotations

import json
import struct
import sys
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.checkpoints.checkpoint import GgufCheckpoint
from pytest_layerguard.checkpoints.checkpoint_errors import library
from pytest_layerguard.checkpoints.files import WEIGHTS
from pytest_layerguard.checkpoints.places import llama_names
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.models.model_folder import FLOATS, GENERATION_CONFIG, QUANTIZED

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from pytest_layerguard.models.model_folder import ModelFolder

ALIGNMENT: Final = 64
"""The bytes that addresses of new tensors are multiples of on a CPU."""

_LIBRARIES: Final = {
    "compressed-tensors": [("compressed_tensors", "compressed-tensors")],
    "gptq": [("optimum", "gptq"), ("gptqmodel", "gptq")],
    "awq": [("gptqmodel", "gptq")],
    "auto-round": [("auto_round", "auto-round")],
    "bitsandbytes": [("bitsandbytes", "bitsandbytes")],
    "torchao": [("torchao", "torchao")],
}
"""What transformers needs to run the layers of a quant_method: modules, with the extra that installs them."""


def quantization(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return how a configuration says that weights are quantised; nothing where they are not."""
    found: Mapping[str, Any] = next((config[key] for key in QUANTIZED if config.get(key)), {})
    return found


def require_library(folder: ModelFolder) -> None:
    """Import what transformers needs to run a quantised model.

    Raises:
        UnavailableError: If it is not installed; names the command that installs it.
    """
    method = str(quantization(folder.config).get("quant_method")).replace("_", "-").lower()
    for module, extra in _LIBRARIES.get(method.removeprefix("intel/"), ()):
        library(module, extra, folder.name)


def own_dtype(folder: ModelFolder) -> str | None:
    """Return the dtype that a quantised model must compute in as it is served, or None where any will do.

    The layers of FP4 formats compute in bfloat16 alone, those of torchao in the dtype that they were saved in.
    """
    how = quantization(folder.config)
    groups = how.get("config_groups") or {}
    formats = [str(how.get("format")), *(str(each.get("format")) for each in groups.values())]
    if any("fp4" in each for each in formats):
        return "bfloat16"
    return folder.stored_dtype if how.get("quant_method") == "torchao" else None


def stored_model(
    kind: type[PreTrainedModel],
    config: PreTrainedConfig,
    folder: ModelFolder,
    options: Mapping[str, Any],
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """Load the plain values of quantised weights into ordinary layers.

    Returns:
        The model, and what transformers reports of the tensors.
    """
    import torch

    _as_plain(config)
    dtype = getattr(torch, options["dtype"])
    weights = folder.checkpoint.weights
    values = {name: folder.checkpoint.read(name).to(dtype) for name in weights}
    load: Any = kind.from_pretrained
    model, report = load(
        None, config=config, state_dict=values, output_loading_info=True, **options
    )
    model.generation_config = _generation_config(folder, model)
    return model, report


def load_copy(
    empty: PreTrainedModel,
    config: PreTrainedConfig,
    folder: ModelFolder,
    options: Mapping[str, Any],
    *,
    offload_folder: str,
    **more: Any,
) -> tuple[PreTrainedModel, Mapping[str, Any]]:
    """Load a model from a copy of its weights in the dtype of the arithmetic, which stays on disk.

    Args:
        empty: The model on the meta device.
        config: Its configuration.
        folder: The model, quantised or in another dtype.
        options: Options of ``from_pretrained``.
        offload_folder: A folder for the copy, and for what accelerate puts on disk.
        more: Further options of ``from_pretrained``.

    Returns:
        The model, and what transformers reports of the tensors.

    Raises:
        MeasurementError: If it is a GGUF file with a mixture of experts.
    """
    _as_plain(config)
    copy = Path(offload_folder) / "plain"
    copy.mkdir()
    _write_plain(folder, empty, options["dtype"], copy / WEIGHTS)
    load: Any = type(empty).from_pretrained
    model, report = load(
        copy,
        config=config,
        generation_config=_generation_config(folder, empty),
        use_safetensors=True,
        output_loading_info=True,
        offload_folder=offload_folder,
        **options,
        **more,
    )
    return model, report


def _generation_config(folder: ModelFolder, model: PreTrainedModel) -> Any:
    """Return the settings of generation in a model's files, or those of its configuration where it has none."""
    from transformers import GenerationConfig

    if folder.gguf is None and (folder.path / GENERATION_CONFIG).exists():
        return GenerationConfig.from_pretrained(folder.path)
    return model.generation_config


def _as_plain(config: PreTrainedConfig) -> None:
    for key in QUANTIZED:
        if hasattr(config, key):
            delattr(config, key)


def _write_plain(folder: ModelFolder, empty: PreTrainedModel, dtype: str, file: Path) -> None:
    """Write plain values as a safetensors file, in blocks of rows, so that no more is in memory."""
    import torch

    weights = folder.checkpoint.weights
    placed = {name: (name, weight.shape) for name, weight in weights.items()}
    if isinstance(folder.checkpoint, GgufCheckpoint):
        if fused := [name for name, weight in weights.items() if len(weight.shape) > 2]:
            raise MeasurementError(
                f"{folder.name}: model.placement: stream reads no mixture of experts from a GGUF file "
                f"({fused[0]}); take placement: memory"
            )
        named = llama_names(folder.checkpoint, folder.config["num_hidden_layers"])
        placed = {
            name: (named(name), tuple(tensor.shape))
            for name, tensor in empty.state_dict().items()
            if named(name) in weights
        }
    kind = getattr(torch, dtype)
    # Those that would leave the next one unaligned come last.
    placed = dict(
        sorted(placed.items(), key=lambda each: prod(each[1][1]) * kind.itemsize % ALIGNMENT > 0)
    )
    header: dict[str, Any] = {}
    end = 0
    for name, (_, shape) in placed.items():
        start, end = end, end + prod(shape) * kind.itemsize
        header[name] = {"dtype": FLOATS[dtype], "shape": shape, "data_offsets": (start, end)}
    listed = json.dumps(header).encode()
    listed += b" " * (-(len(listed) + 8) % ALIGNMENT)
    with file.open("wb") as opened:
        opened.write(struct.pack("<Q", len(listed)) + listed)
        for stored, shape in placed.values():
            blocks = folder.checkpoint.blocks(stored) if shape else [folder.checkpoint.read(stored)]
            for block in blocks:
                plain = block.to(kind).contiguous().reshape(-1)
                opened.write(plain.view(torch.uint8).numpy().data)


def compute_in(model: PreTrainedModel, dtype: torch.dtype, plain: PreTrainedModel) -> None:
    """Make a quantised model compute in a dtype wherever it would compute in another.

    transformers dequantises fused experts as it loads them, into the dtype of their scales, and computes in
    that. Where a processor has AVX-512 for bfloat16, bitsandbytes computes in bfloat16, and fails on
    matrices whose rows are no multiple of 32.

    Args:
        model: The model, with the layers of its format.
        dtype: The dtype.
        plain: The same model without quantisation, of which the names of parameters are taken.
    """
    import torch

    others = {torch.float16, torch.bfloat16} - {dtype}
    names = {name for name, _ in plain.named_parameters()}
    for name, parameter in model.named_parameters():
        # The weights of quantised layers are of classes that hold several tensors.
        if name in names and type(parameter.data) is torch.Tensor and parameter.dtype in others:
            parameter.data = parameter.data.to(dtype)
    modules = sys.modules.get("bitsandbytes.nn.modules")
    if modules is None:
        return
    for module in model.modules():
        if isinstance(module, modules.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def adapted(model: PreTrainedModel, adapter: Path, *, merged: bool) -> PreTrainedModel:
    """Return a model with a LoRA adapter beside its layers, or merged into their weights."""
    peft = library("peft", "peft", str(adapter))
    wrapped = peft.PeftModel.from_pretrained(model, str(adapter), local_files_only=True)
    inside: PreTrainedModel = wrapped.merge_and_unload() if merged else wrapped.get_base_model()
    return inside
