"""Load models that are stored otherwise than as plain safetensors: quantised, as GGUF, or as a LoRA adapter."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.checkpoints.checkpoint_errors import library
from pytest_layerguard.models.model_folder import QUANTIZED

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from pytest_layerguard.models.model_folder import ModelFolder

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

    for key in QUANTIZED:
        if hasattr(config, key):
            delattr(config, key)
    dtype = getattr(torch, options["dtype"])
    weights = folder.checkpoint.weights
    values = {name: folder.checkpoint.read(name).to(dtype) for name in weights}
    load: Any = kind.from_pretrained
    model, report = load(
        None, config=config, state_dict=values, output_loading_info=True, **options
    )
    return model, report


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
