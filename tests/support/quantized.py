"""Write a plain folder once more in a format that quantises, by the format's own library where that can."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

GROUP = 32


def bitsandbytes(source: Path, folder: Path) -> None:
    """NF4."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    model = AutoModelForCausalLM.from_pretrained(
        source, quantization_config=how, device_map="cpu", dtype="auto"
    )
    model.save_pretrained(folder)


def torchao(source: Path, folder: Path) -> None:
    """INT8, a scale for each row."""
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import AutoModelForCausalLM, TorchAoConfig

    how = TorchAoConfig(Int8WeightOnlyConfig(version=2))
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=how, dtype="auto")
    model.save_pretrained(folder)


def w4a16(source: Path, folder: Path) -> None:
    """Four bits in groups, packed, as llm-compressor writes them without calibration."""
    _compressed(source, folder, "pack-quantized", {"num_bits": 4, "group_size": GROUP})


def w8a8(source: Path, folder: Path) -> None:
    """Eight bits in weights and, chosen token by token, in activations."""
    inputs = {"num_bits": 8, "strategy": "token", "dynamic": True}
    _compressed(source, folder, "int-quantized", {"num_bits": 8, "strategy": "channel"}, inputs)


def gptq(source: Path, folder: Path) -> None:
    """Round-to-nearest in GPTQ's layout: gptqmodel makes such files with data and much time alone."""
    how = {"quant_method": "gptq", "checkpoint_format": "gptq", "desc_act": False}
    _packed(source, folder, how)


def auto_round(source: Path, folder: Path) -> None:
    """The same in AutoRound's layout."""
    how = {"quant_method": "auto-round", "packing_format": "auto_round:auto_gptq"}
    _packed(source, folder, {**how, "data_type": "int"})


MAKERS: dict[str, tuple[tuple[str, ...], Callable[[Path, Path], None]]] = {
    "bitsandbytes": (("bitsandbytes",), bitsandbytes),
    "torchao": (("torchao",), torchao),
    "w4a16": (("compressed_tensors",), w4a16),
    "w8a8": (("compressed_tensors",), w8a8),
    "gptq": (("optimum", "gptqmodel"), gptq),
    "auto-round": (("auto_round",), auto_round),
}
"""The modules that serve each, and what writes it."""


def _compressed(
    source: Path,
    folder: Path,
    form: str,
    weights: dict[str, Any],
    inputs: dict[str, Any] | None = None,
) -> None:
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationScheme,
        apply_quantization_config,
    )
    from compressed_tensors.quantization.quant_args import QuantizationArgs
    from compressed_tensors.quantization.utils import calculate_qparams
    from transformers import AutoModelForCausalLM

    args = QuantizationArgs(**weights)
    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=args,
        input_activations=None if inputs is None else QuantizationArgs(**inputs),
    )
    how = QuantizationConfig(
        config_groups={"group_0": scheme},
        ignore=["lm_head"],
        quantization_status="frozen",
        format=form,
    )
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    apply_quantization_config(model, how)
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            width = args.group_size or module.weight.shape[1]
            groups = module.weight.detach().unflatten(-1, (-1, width))
            scale, _ = calculate_qparams(groups.amin(-1), groups.amax(-1), args)
            module.weight_scale.data.copy_(scale)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))


def _packed(source: Path, folder: Path, how: dict[str, Any]) -> None:
    """Write 4 bits in groups, eight values to a 32-bit word, zero points one below what they are."""
    shutil.copytree(source, folder)
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if name.endswith("proj.weight")]:
        groups = weights.pop(name).float().unflatten(-1, (-1, GROUP))
        scales = (groups.abs().amax(-1, keepdim=True) / 7).half()
        values = ((groups / scales.float()).round() + 8).clamp(0, 15).flatten(1).T.int()
        stem = name.removesuffix("weight")
        weights[f"{stem}qweight"] = _words(values.unflatten(0, (-1, 8)).transpose(1, 2))
        weights[f"{stem}scales"] = scales.squeeze(-1).T.contiguous()
        zeros = torch.full(weights[f"{stem}scales"].shape, 7, dtype=torch.int32)
        weights[f"{stem}qzeros"] = _words(zeros.unflatten(1, (-1, 8)))
        if how["quant_method"] == "gptq":
            weights[f"{stem}g_idx"] = torch.arange(len(values), dtype=torch.int32) // GROUP
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"bits": 4, "group_size": GROUP, "sym": True, **how}
    (folder / "config.json").write_text(json.dumps(config))


def _words(values: torch.Tensor) -> torch.Tensor:
    """Pack the eight values of the last dimension into one word, the first in the lowest bits."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int64)
    packed = (values.long() << shifts).sum(-1)
    return torch.where(packed >= 2**31, packed - 2**32, packed).int().contiguous()
