"""Small random models of every causal family of transformers, from one table of sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

VOCABULARY = 96
LAYERS = 4
LARGEST = 12_000_000
"""Parameters of the largest model that is built."""

ALL = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))

_SIZES: dict[str, int] = {
    **dict.fromkeys(
        ("vocab_size", "vocab_size_per_layer_input", "unpadded_vocab_size"), VOCABULARY
    ),
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "n_embed", "dim_model", "embedding_size"), 32
    ),
    **dict.fromkeys(
        (
            "intermediate_size",
            "ffn_dim",
            "d_ff",
            "n_inner",
            "dim_ff",
            "ffn_hidden_size",
            "intermediate_size_mlp",
            "dense_intermediate_size",
            "encoder_ffn_dim",
            "decoder_ffn_dim",
        ),
        48,
    ),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), LAYERS),
    **dict.fromkeys(
        (
            "num_attention_heads",
            "n_head",
            "n_heads",
            "encoder_attention_heads",
            "decoder_attention_heads",
        ),
        4,
    ),
    "num_key_value_heads": 2,
    "head_dim": 8,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 64),
    **dict.fromkeys(
        (
            "moe_intermediate_size",
            "shared_expert_intermediate_size",
            "expert_intermediate_size",
            "moe_shared_expert_intermediate_size",
            "shared_intermediate_size",
            "expert_ffn_hidden_size",
        ),
        16,
    ),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(
        ("num_experts_per_tok", "moe_topk", "top_k_experts", "moe_k", "num_experts_per_token"), 2
    ),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(
        (
            "n_group",
            "topk_group",
            "num_shared_experts",
            "n_shared_experts",
            "first_k_dense_replace",
        ),
        1,
    ),
    "sliding_window": 8,
    "query_pre_attn_scalar": 8,
    "word_embed_proj_dim": 24,
    "rotary_dim": 4,
    "kv_channels": 8,
    "mamba_d_state": 16,
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 16),
    **dict.fromkeys(("linear_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("linear_num_heads", "linear_num_value_heads"), 4),
    "linear_num_key_heads": 2,
    "index_topk": 8,
    # So many that few scores are sums of zeros, which choose positions by the length of the text alone.
    "index_n_heads": 16,
    "index_head_dim": 16,
}
_OPTIONAL = (
    "n_inner",
    "head_dim",
    "num_key_value_heads",
    "q_lora_rank",
    "moe_intermediate_size",
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
)
"""Sizes to set although their default is None."""
_MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_expand": 2}
_HYBRID = ["mamba", "attention", "mamba", "attention"]

CHANGED: dict[str, dict[str, Any]] = {
    "bamba": {**_MAMBA, "attn_layer_indices": [1, 3]},
    "bailing_hybrid": {"head_dim": 16, "num_expert_group": 2, "num_experts": 8},
    "cohere_compass_text": {
        "layer_types": ["full_attention"] * LAYERS,
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}},
    },
    "deepseek_v2": {"topk_method": "greedy"},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {
            "hidden_size": 32,
            "ffn_hidden_size": 16,
            "moe_num_experts": 4,
            "moe_top_k": 2,
        },
    },
    "falcon": {"head_dim": None},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8},
    "gemma3n_text": {
        "num_kv_shared_layers": 2,
        "layer_types": ["full_attention", "sliding_attention"] * 2,
        "hidden_size_per_layer_input": 8,
        "laurel_rank": 4,
        "intermediate_size": 48,
        "vocab_size_per_layer_input": VOCABULARY,
        "altup_num_inputs": 2,
        "activation_sparsity_pattern": None,
    },
    "gemma4_text": {
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "hidden_size_per_layer_input": 8,
        "global_head_dim": 8,
    },
    "gemma4_unified_text": {
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "hidden_size_per_layer_input": 8,
        "global_head_dim": 8,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": 8},
    "granitemoehybrid": {**_MAMBA, "layer_types": _HYBRID},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2, "num_dense_layers": 1},
    "longcat_flash": {"ffn_hidden_size": 48, "zero_expert_num": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 16, "n_groups": 1},
    "zamba": {
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "attention_head_dim": 16,
    },
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "n_mamba_heads": 4,
        "mamba_headdim": 16,
        "adapter_rank": 4,
        "attention_head_dim": 16,
    },
    "zaya": {"num_experts_per_tok": 1},
}


class NotSmallError(Exception):
    """A family that this table does not make small."""


def model(family: str, **changed: Any) -> PreTrainedModel:
    """Return a random model of a family; nothing may write to it.

    Raises:
        NotSmallError: If it stays large, or cannot be built from these sizes.
    """
    torch.manual_seed(0)
    try:
        made = configured(family, {**CHANGED.get(family, {}), **changed})
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(made)
    except Exception as error:
        # Another version of transformers, or a library that is not installed, wants other sizes.
        raise NotSmallError(f"{type(error).__name__}: {error}") from error
    size = sum(each.numel() for each in built.parameters())
    if size > LARGEST:
        raise NotSmallError(f"{size:,} parameters")
    built: PreTrainedModel = AutoModelForCausalLM.from_config(made)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            scale = 0.15 if parameter.dim() > 1 else 0.05
            noise = torch.randn_like(parameter) * scale
            parameter.copy_(noise + 1 if "norm" in name and name.endswith("weight") else noise)
        for module in built.modules():
            # Loading draws it so again.
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0
    return built.float().eval().requires_grad_(False)


def configured(family: str, changed: Mapping[str, Any]) -> Any:
    """Return a family's configuration with every size that it has from the table."""
    kind = CONFIG_MAPPING[family]
    default = kind()
    renamed = getattr(kind, "attribute_map", {})
    # Latent attention has as many keys as queries, and heads of two parts.
    latent = hasattr(default, "qk_rope_head_dim")
    left_out = {"head_dim", "num_key_value_heads"} if latent else set()
    sizes: dict[str, Any] = {
        name: size
        for name, size in _SIZES.items()
        if name not in renamed and name not in left_out and _settable(default, name)
    }
    sizes |= {"num_key_value_heads": 4} if latent else {}
    sizes |= {"is_decoder": True} if hasattr(default, "is_decoder") else {}
    sizes |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    chosen = {name: value for name, value in {**sizes, **changed}.items() if value is not None}
    return kind(**chosen)


def _settable(default: Any, name: str) -> bool:
    if isinstance(getattr(type(default), name, None), property):
        return False
    try:
        value = getattr(default, name, False)
    except Exception:  # some configurations refuse to say what differs from layer to layer
        return name in vars(default)
    if value is None:
        return name in _OPTIONAL
    return isinstance(value, int) and not isinstance(value, bool)


def text(tokens: int, seed: int = 0) -> list[int]:
    """Return token ids without any that mean something special."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[int] = torch.randint(3, VOCABULARY, (tokens,), generator=generator).tolist()
    return drawn
