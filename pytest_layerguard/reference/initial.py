"""The reference models before training, drawn so that every machine draws the same numbers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pytest_layerguard.reference import manifest
from pytest_layerguard.reference.shape import (
    EXPERT_WIDTH,
    EXPERTS,
    HEAD_WIDTH,
    HEADS,
    LAYERS,
    SHAPES,
    Shape,
    configuration,
)
from pytest_layerguard.reference.tokenizer import VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers import PreTrainedModel


class InitialWeightsError(RuntimeError):
    """This torch draws other initial weights than the recipe did."""


def initial_model(name: str) -> PreTrainedModel:
    """Builds a reference model as it was before its training.

    Args:
        name: ``reference`` or ``reference-wide``.

    Returns:
        The model in fp32, in evaluation mode, on the CPU.

    Raises:
        KeyError: There is no reference model of this name.
        InitialWeightsError: The numbers drawn are not those that the shipped model started from.
    """
    import torch

    weights = initial_weights(SHAPES[name], seed=0)
    expected, found = manifest()["models"][name]["initial"], weights_digest(weights)
    if found != expected:
        raise InitialWeightsError(
            f"{name}@init cannot be rebuilt here: torch {torch.__version__} draws weights with "
            f"digest {found}, but the shipped model started from {expected}"
        )
    return build(SHAPES[name], weights)


def build(shape: Shape, weights: Mapping[str, Tensor]) -> PreTrainedModel:
    """Makes a model of the given weights.

    Args:
        shape: The model's shape.
        weights: Tensors by their names in a stored model, as ``initial_weights`` gives them.

    Returns:
        The model in fp32, in evaluation mode, on the CPU.
    """
    import torch
    from transformers import Qwen3MoeForCausalLM

    # The loader, unlike load_state_dict, knows how this version of transformers holds its experts.
    model: PreTrainedModel = Qwen3MoeForCausalLM.from_pretrained(
        None, config=configuration(shape), state_dict=dict(weights), dtype=torch.float32
    )
    model.train(False)
    return model


def initial_weights(shape: Shape, seed: int) -> dict[str, Tensor]:
    """Draws the weights that training starts from.

    Args:
        shape: The model's shape.
        seed: The seed of the draw.

    Returns:
        fp32 tensors by their names in a stored model.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    bound = shape.initial_std * 3**0.5

    def draw(size: tuple[int, ...]) -> Tensor:
        if len(size) == 1:
            return torch.ones(size)
        # Uniform, not normal: the last bits of a normal draw depend on the processor's vector
        # instructions, those of a uniform one are the same everywhere.
        return (torch.rand(size, generator=generator) * 2 - 1) * bound

    return {name: draw(size) for name, size in _sizes(shape).items()}


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Digests tensors by name, size and value, whatever file or order they come in.

    Args:
        weights: The tensors, in any dtype that numpy knows.

    Returns:
        ``sha256:`` and 64 hex digits.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return f"sha256:{digest.hexdigest()}"


def _sizes(shape: Shape) -> dict[str, tuple[int, ...]]:
    width, inner = shape.width, HEADS * HEAD_WIDTH
    sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, width)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        sizes |= {
            f"{prefix}.input_layernorm.weight": (width,),
            f"{prefix}.self_attn.q_proj.weight": (inner, width),
            f"{prefix}.self_attn.k_proj.weight": (inner, width),
            f"{prefix}.self_attn.v_proj.weight": (inner, width),
            f"{prefix}.self_attn.o_proj.weight": (width, inner),
            f"{prefix}.self_attn.q_norm.weight": (HEAD_WIDTH,),
            f"{prefix}.self_attn.k_norm.weight": (HEAD_WIDTH,),
            f"{prefix}.post_attention_layernorm.weight": (width,),
            f"{prefix}.mlp.gate.weight": (EXPERTS, width),
        }
        for expert in range(EXPERTS):
            sizes |= {
                f"{prefix}.mlp.experts.{expert}.gate_proj.weight": (EXPERT_WIDTH, width),
                f"{prefix}.mlp.experts.{expert}.up_proj.weight": (EXPERT_WIDTH, width),
                f"{prefix}.mlp.experts.{expert}.down_proj.weight": (width, EXPERT_WIDTH),
            }
    sizes |= {"model.norm.weight": (width,), "lm_head.weight": (VOCABULARY, width)}
    return sizes
