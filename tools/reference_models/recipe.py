"""The recipe of the reference models: their architecture and the settings of their training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from tools.reference_models.text import CONTEXT, VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transformers import Qwen3MoeConfig

LAYERS: Final = 4
EXPERTS: Final = 16
EXPERT_WIDTH: Final = 256
HEADS: Final = 4
HEAD_WIDTH: Final = 16
ROPE_THETA: Final = 10_000.0


@dataclass(frozen=True)
class Recipe:
    """What decides a reference model, but for the seed.

    Attributes:
        name: The name that a bet gives the model.
        width: The hidden size.
        steps: Optimizer steps.
        learning_rate: The peak of the schedule.
        batch: Windows of ``CONTEXT`` tokens in one step.
        warmup: Steps up to the peak.
        weight_decay: Of AdamW, on matrices only.
        balance: The weight of the balancing loss, beside a loss in nats per token.
    """

    name: str
    width: int
    steps: int
    learning_rate: float
    batch: int = 16
    warmup: int = 100
    weight_decay: float = 0.1
    balance: float = 0.01

    @property
    def tokens(self) -> int:
        """The number of training tokens, each of them used once."""
        return self.steps * self.batch * CONTEXT


RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        "reference": Recipe(name="reference", width=16, steps=3000, learning_rate=2e-2),
        "reference-wide": Recipe(name="reference-wide", width=64, steps=2500, learning_rate=8e-3),
    }
)


def configuration(recipe: Recipe) -> Qwen3MoeConfig:
    """Build the configuration of a model.

    The weight of the one chosen expert is left as the router's own probability
    (``norm_topk_prob=False``). Normalized it would always be 1, and the router would learn nothing
    from the text.

    Args:
        recipe: The model's recipe.

    Returns:
        The configuration.
    """
    from transformers import Qwen3MoeConfig

    figures: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": recipe.width,
        "intermediate_size": EXPERT_WIDTH,
        "moe_intermediate_size": EXPERT_WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HEAD_WIDTH,
        "num_experts": EXPERTS,
        "num_experts_per_tok": 1,
        "norm_topk_prob": False,
        "output_router_logits": False,
        "router_aux_loss_coef": recipe.balance,
        "max_position_embeddings": CONTEXT,
        "rope_theta": ROPE_THETA,
        "rms_norm_eps": 1e-6,
        # A fixed 0.02 would leave the narrow model's layers near nothing for most of its training.
        "initializer_range": 0.5 / math.sqrt(recipe.width),
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    return Qwen3MoeConfig(**figures)
