"""Models of a few thousand weights, and what may be done to them, as folders of safetensors."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch

State = dict[str, torch.Tensor]
Saver = Callable[..., Path]

FILES = Path(__file__).parents[1] / "checkpoints" / "files"
"""The first layer of real files of the formats, whose weights are those of stories260k."""
CONFIG = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_experts": 4,
    "vocab_size": 96,
    "dtype": "float32",
}


def state(layers: int = 4, experts: int = 4, width: int = 64, seed: int = 0) -> State:
    """Return the weights of a mixture of experts, drawn at random."""
    torch.manual_seed(seed)
    shapes = {"model.embed_tokens.weight": (96, width), "lm_head.weight": (96, width)}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{name}_proj.weight": (width, width) for name in "qkvo"}
        shapes[f"{at}.mlp.gate.weight"] = (experts, width)
        for expert in range(experts):
            shapes |= {
                f"{at}.mlp.experts.{expert}.{name}_proj.weight": (width, width)
                for name in ("gate", "up", "down")
            }
    made = {name: 0.02 * torch.randn(shape) for name, shape in shapes.items()}
    for layer in range(layers):
        made[f"model.layers.{layer}.input_layernorm.weight"] = 1 + 0.1 * torch.randn(width)
    return made


def of_layers(weights: State, order: list[int]) -> State:
    """Return a model of these layers, numbered anew."""
    made = {name: tensor for name, tensor in weights.items() if ".layers." not in name}
    for slot, layer in enumerate(order):
        for name, tensor in weights.items():
            if f".layers.{layer}." in name:
                made[name.replace(f".layers.{layer}.", f".layers.{slot}.")] = tensor
    return made


def of_experts(weights: State, kept: list[int]) -> State:
    """Return a model of these experts, numbered anew."""
    made = {}
    for name, tensor in weights.items():
        expert = re.search(r"experts\.(\d+)\.", name)
        if expert is None:
            made[name] = tensor[kept] if name.endswith("mlp.gate.weight") else tensor
        elif int(expert[1]) in kept:
            made[name.replace(expert[0], f"experts.{kept.index(int(expert[1]))}.")] = tensor
    return made


def mean_of_experts(weights: State, experts: int = 4) -> State:
    """Return a model whose experts are all the mean of the layer's experts."""
    made = {}
    for name, tensor in weights.items():
        each = [re.sub(r"experts\.\d+\.", f"experts.{expert}.", name) for expert in range(experts)]
        is_expert = ".experts." in name
        made[name] = torch.stack([weights[one] for one in each]).mean(0) if is_expert else tensor
    return made


def changed(
    weights: State, change: Callable[[torch.Tensor], torch.Tensor], pattern: str = r"_proj\."
) -> State:
    """Return a model in which the weights whose names match are changed."""
    return {
        name: change(tensor) if re.search(pattern, name) else tensor
        for name, tensor in weights.items()
    }


def rounded(tensor: torch.Tensor, bits: int, group: int | None = None) -> torch.Tensor:
    """Return a matrix rounded to the nearest of 2^bits - 1 even steps in groups of a row."""
    top = 2 ** (bits - 1) - 1
    grouped = tensor.reshape(-1, group or tensor.shape[1])
    step = grouped.abs().amax(1, keepdim=True) / top
    return ((grouped / step).round() * step).reshape(tensor.shape)


def halved(tensor: torch.Tensor) -> torch.Tensor:
    """Return a matrix without the smaller half of its values."""
    bar = tensor.abs().flatten().median()
    return torch.where(tensor.abs() <= bar, torch.zeros_like(tensor), tensor)
