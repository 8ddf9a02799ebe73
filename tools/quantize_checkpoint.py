"""Quantise a checkpoint to 4 bits by compressed-tensors, as llm-compressor's W4A16 without data does.

    python -m tools.quantize_checkpoint SOURCE FOLDER

SOURCE is a folder of plain safetensors. The matrices of all layers, each expert's by itself, are rounded
to nearest with one symmetric scale for each row; routers, norms, embeddings and head stay as they are.
It needs the extra ``compressed-tensors``. The candidates of `bets/candidates` were made by it.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import torch
from compressed_tensors.compressors import PackedQuantizationCompressor
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
)
from compressed_tensors.quantization.utils import calculate_qparams
from safetensors.torch import load_file, save_file

LINEAR = re.compile(r"\.layers\..*_proj\.weight$")
WEIGHTS = QuantizationArgs(num_bits=4, type="int", strategy="channel", symmetric=True)
SCHEME = QuantizationScheme(targets=["Linear"], weights=WEIGHTS)
UNTOUCHED = ["lm_head", r"re:.*\.gate$"]


def quantize(source: Path, folder: Path) -> None:
    """Write a checkpoint whose linear weights have 4 bits.

    Args:
        source: A folder with ``model.safetensors``.
        folder: The folder to write, which must not exist.
    """
    weights = load_file(source / "model.safetensors")
    made: dict[str, torch.Tensor] = {}
    for name, weight in weights.items():
        made |= _packed(name, weight) if LINEAR.search(name) else {name: weight}
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("README.md", "*.safetensors"))
    save_file(made, folder / "model.safetensors", metadata={"format": "pt"})
    how = QuantizationConfig(
        config_groups={"group_0": SCHEME},
        format="pack-quantized",
        ignore=UNTOUCHED,
        quantization_status=QuantizationStatus.COMPRESSED,
    )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["quantization_config"] = how.model_dump(mode="json")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _packed(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    values = weight.float()
    scale, zero = calculate_qparams(
        values.amin(1, keepdim=True), values.amax(1, keepdim=True), WEIGHTS
    )
    scale = scale.half()
    parts = PackedQuantizationCompressor.compress(
        {"weight": values, "weight_scale": scale.float(), "weight_zero_point": zero}, SCHEME
    )
    module = name.removesuffix("weight")
    return {f"{module}{part}": tensor for part, tensor in (parts | {"weight_scale": scale}).items()}


if __name__ == "__main__":
    quantize(*map(Path, sys.argv[1:3]))
