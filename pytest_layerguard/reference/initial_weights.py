"""The reference models before training, drawn so that every machine draws the same numbers."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pytest_layerguard.reference import folder, manifest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers import PreTrainedModel, Qwen3MoeConfig


class InitialWeightsError(RuntimeError):
    """The installed torch draws other initial weights than those that training started from."""


def initial_model(name: str) -> PreTrainedModel:
    """Build a reference model as it was before its training.

    Args:
        name: ``reference`` or ``reference-wide``.

    Returns:
        The model in fp32, in evaluation mode, on the CPU.

    Raises:
        KeyError: There is no reference model of this name.
        InitialWeightsError: The weights drawn are not those that training started from.
    """
    import torch
    from transformers import Qwen3MoeConfig

    config = Qwen3MoeConfig.from_pretrained(folder(name), local_files_only=True)
    weights = initial_weights(config, seed=0)
    expected, found = manifest()["models"][name]["initial"], weights_digest(weights)
    if found != expected:
        raise InitialWeightsError(
            f"{name}@init cannot be rebuilt here: torch {torch.__version__} draws weights with "
            f"digest {found}, but the shipped model started from {expected}"
        )
    return build(config, weights)


def build(config: Qwen3MoeConfig, weights: Mapping[str, Tensor]) -> PreTrainedModel:
    """Build a model that has the given weights.

    Args:
        config: The model's configuration.
        weights: Tensors by their names in a checkpoint, as ``initial_weights`` returns them.

    Returns:
        The model in fp32, in evaluation mode, on the CPU.
    """
    import torch
    from transformers import Qwen3MoeForCausalLM

    # The loader, unlike load_state_dict, knows how this version of transformers holds its experts.
    model: PreTrainedModel = Qwen3MoeForCausalLM.from_pretrained(
        None, config=config, state_dict=dict(weights), dtype=torch.float32
    )
    model.train(False)
    return model


def initial_weights(config: Qwen3MoeConfig, seed: int) -> dict[str, Tensor]:
    """Draw the weights that training starts from.

    Args:
        config: The model's configuration. ``initializer_range`` is the standard deviation of the
            matrices; vectors are ones.
        seed: The seed of the draw.

    Returns:
        fp32 tensors by their names in a checkpoint.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    bound = config.initializer_range * 3**0.5

    def draw(size: tuple[int, ...]) -> Tensor:
        if len(size) == 1:
            return torch.ones(size)
        # Uniform, not normal: the last bits of a normal draw depend on the processor's vector
        # instructions, those of a uniform one are the same everywhere.
        return (torch.rand(size, generator=generator) * 2 - 1) * bound

    return {name: draw(size) for name, size in _sizes(config).items()}


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Return a digest of tensors by name, size and value, whatever their order.

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


def _sizes(config: Qwen3MoeConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor, in the order of the draw."""
    width, head, expert_width = config.hidden_size, config.head_dim, config.moe_intermediate_size
    inner = config.num_attention_heads * head
    sizes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config.vocab_size, width)}
    for layer in range(config.num_hidden_layers):
        prefix = f"model.layers.{layer}"
        sizes |= {
            f"{prefix}.input_layernorm.weight": (width,),
            f"{prefix}.self_attn.q_proj.weight": (inner, width),
            f"{prefix}.self_attn.k_proj.weight": (inner, width),
            f"{prefix}.self_attn.v_proj.weight": (inner, width),
            f"{prefix}.self_attn.o_proj.weight": (width, inner),
            f"{prefix}.self_attn.q_norm.weight": (head,),
            f"{prefix}.self_attn.k_norm.weight": (head,),
            f"{prefix}.post_attention_layernorm.weight": (width,),
            f"{prefix}.mlp.gate.weight": (config.num_experts, width),
        }
        for expert in range(config.num_experts):
            sizes |= {
                f"{prefix}.mlp.experts.{expert}.gate_proj.weight": (expert_width, width),
                f"{prefix}.mlp.experts.{expert}.up_proj.weight": (expert_width, width),
                f"{prefix}.mlp.experts.{expert}.down_proj.weight": (width, expert_width),
            }
    sizes |= {"model.norm.weight": (width,), "lm_head.weight": (config.vocab_size, width)}
    return sizes
