"""Small randomly initialised models of every decoder family that the measurer must know."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 96
LAYERS = 4

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT2_LIKE = {"n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 64, "n_inner": 48}
_GEMMA = {"head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8}
_MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "phi3": {},
    "gpt_neox": {},
    "gpt2": _GPT2_LIKE,
    "gptj": {**_GPT2_LIKE, "rotary_dim": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 24},
    "bloom": {"n_layer": LAYERS, "n_head": 4},
    "falcon": {},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": LAYERS, "max_seq_len": 64},
    "olmo": {},
    "olmo2": {},
    "olmo3": {"sliding_window": 8},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 3.0},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {**_MIXTURE, "shared_expert_intermediate_size": 16},
    "qwen3_moe": {**_MIXTURE, "num_experts_per_tok": 1, "head_dim": 8, "norm_topk_prob": False},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "flex_olmo": {"num_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "head_dim": 8,
        "sliding_window": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    },
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2, "logits_scaling": 2.0},
    "jetmoe": {"num_local_experts": 4, "num_experts_per_tok": 2, "kv_channels": 8},
    "deepseek_v3": {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "num_key_value_heads": 4,
    },
    "qwen3-tied": {"head_dim": 8, "tie_word_embeddings": True},
    "qwen2_moe-mixed": {
        **_MIXTURE,
        "shared_expert_intermediate_size": 16,
        "decoder_sparse_step": 2,
    },
}

MIXTURES = tuple(
    name
    for name in FAMILIES
    if name.split("-")[0]
    in (
        "mixtral",
        "qwen2_moe",
        "qwen3_moe",
        "olmoe",
        "flex_olmo",
        "gpt_oss",
        "granitemoe",
        "jetmoe",
        "deepseek_v3",
    )
)
"""Families with experts."""

UNLIKE_LAYERS = ("deepseek_v3", "qwen2_moe-mixed")
"""Families some of whose layers are dense and some mixtures."""

ALIKE = tuple(name for name in FAMILIES if name not in UNLIKE_LAYERS)
"""Families whose layers all have one structure."""

REPRESENTATIVES = ("llama", "gemma2", "gpt2", "mixtral", "gpt_oss", "qwen2_moe-mixed")
"""One family of each structure: plain blocks, norms after the branches with sliding windows, matrices stored in
columns with learned positions, experts, experts stored in columns, and layers of different structures."""

OTHERS = tuple(name for name in FAMILIES if name not in REPRESENTATIVES)
"""Families whose structure a representative has."""


def each(names: Iterable[str] = FAMILIES) -> list[Any]:
    """Return the families as parameters of a test, all but the representatives marked ``slow``."""
    slow = pytest.mark.slow
    return [pytest.param(name, marks=slow if name in OTHERS else ()) for name in names]


@cache
def model(family: str) -> PreTrainedModel:
    """One model of a family, the same for every test; nothing may write to it."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family.split("-")[0]](**{**_COMMON, **FAMILIES[family]})
    made: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            # Wide enough that layers and experts matter, around one where a norm needs it.
            scale = 0.15 if parameter.dim() > 1 else 0.05
            noise = torch.randn_like(parameter) * scale
            norm = re.search(r"norm|\bln_", name) and name.endswith("weight")
            parameter.copy_(noise + 1 if norm else noise)
    return made.float().eval().requires_grad_(False)


@cache
def multimodal() -> PreTrainedModel:
    """Gemma 3 as its checkpoints come: a text decoder inside a wrapper that also sees."""
    from transformers import AutoModelForImageTextToText, Gemma3Config

    torch.manual_seed(0)
    config = Gemma3Config(
        text_config={**_COMMON, **_GEMMA},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=4,
    )
    made: PreTrainedModel = AutoModelForImageTextToText.from_config(config)
    return made.float().eval().requires_grad_(False)


def text(tokens: int, seed: int = 0) -> list[int]:
    """Token ids without any that mean something special."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[int] = torch.randint(3, VOCABULARY, (tokens,), generator=generator).tolist()
    return drawn
