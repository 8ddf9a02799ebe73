"""Losses and samples of a model, measured plainly on the held-out text.

Nothing here is shared with the laboratory, so that the cards' figures are a check of it.
"""

from __future__ import annotations

import math
from copy import deepcopy
from typing import TYPE_CHECKING, Final

from pytest_layerguard.reference import HELDOUT
from pytest_layerguard.reference.anatomy import routers_of

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENS: Final = 4096
WINDOW: Final = 128
PROMPT: Final = "Once upon a time"
SAMPLED: Final = 100


def heldout_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokenises the held-out text, once and without special tokens.

    Args:
        tokenizer: The tokenizer.

    Returns:
        The token ids.
    """
    ids: list[int] = tokenizer(
        HELDOUT.read_text(encoding="utf-8"), add_special_tokens=False, verbose=False
    ).input_ids
    return ids


def token_losses(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """Measures the losses of the first ``TOKENS`` tokens after the first, in whole windows.

    Args:
        model: The model.
        ids: A text of more than ``TOKENS`` tokens.

    Returns:
        fp32 losses in nats, of shape (``TOKENS`` / ``WINDOW``, ``WINDOW``).

    Raises:
        ValueError: The text is too short.
    """
    import torch
    from torch.nn import functional

    if len(ids) <= TOKENS:
        raise ValueError(f"{len(ids)} tokens of text; more than {TOKENS} are needed")
    starts = range(0, TOKENS, WINDOW)
    inputs = torch.tensor([ids[start : start + WINDOW] for start in starts])
    targets = torch.tensor([ids[start + 1 : start + WINDOW + 1] for start in starts])
    with torch.inference_mode():
        logits = model(input_ids=inputs, use_cache=False).logits.float()
    return functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")


def perplexity(model: PreTrainedModel, ids: list[int]) -> float:
    """Measures the perplexity on the first ``TOKENS`` tokens of a text.

    Args:
        model: The model.
        ids: A text of more than ``TOKENS`` tokens.

    Returns:
        The exponential of the mean token loss.
    """
    return math.exp(token_losses(model, ids).double().mean().item())


def losses_by_dtype(model: PreTrainedModel, ids: list[int]) -> dict[str, float]:
    """Measures what rounding the weights to 16 bits costs, computing in fp32 each time.

    Args:
        model: The model in fp32.
        ids: A text of more than ``TOKENS`` tokens.

    Returns:
        The mean loss in nats per token for weights of each dtype.
    """
    import torch

    measured = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        rounded = deepcopy(model).to(dtype).float()  # type: ignore[arg-type]
        measured[str(dtype).removeprefix("torch.")] = token_losses(rounded, ids).mean().item()
    return measured


def sample(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Continues ``PROMPT`` greedily, end-of-text masked out, without a cache.

    Args:
        model: The model.
        tokenizer: Its tokenizer.

    Returns:
        ``SAMPLED`` new token ids.
    """
    import torch

    ids: list[int] = list(tokenizer(PROMPT).input_ids)
    prompt = len(ids)
    with torch.inference_mode():
        for _ in range(SAMPLED):
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            logits[tokenizer.eos_token_id] = -math.inf
            ids.append(int(logits.argmax()))
    return ids[prompt:]


def expert_shares(model: PreTrainedModel, ids: list[int]) -> list[list[float]]:
    """Measures how often each expert is chosen, over the tokens that ``token_losses`` scores.

    Args:
        model: The model.
        ids: A text of more than ``TOKENS`` tokens.

    Returns:
        For each layer the share of tokens that each expert receives.
    """
    import torch

    chosen: list[Tensor] = []
    hooks = [
        router.register_forward_hook(lambda module, inputs, output: chosen.append(output[2]))
        for router in routers_of(model)
    ]
    try:
        token_losses(model, ids)
    finally:
        for hook in hooks:
            hook.remove()
    experts: int = model.config.num_experts
    counts = [torch.bincount(indices.flatten(), minlength=experts) for indices in chosen]
    return [(count / count.sum()).tolist() for count in counts]
