"""Token losses, samples and expert use of a model.

No code is shared with the package's measurements, so that the figures of the cards check them.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from copy import deepcopy
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENS: Final = 4096
WINDOW: Final = 128
PROMPT: Final = "Once upon a time"
SAMPLED: Final = 100


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch to one thread within the block.

    The order of a sum depends on the number of threads, and on a busy machine two threads that wait
    for each other can be a hundred times slower than one.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def token_losses(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """Return the losses of the first ``TOKENS`` tokens after the first, in whole windows.

    Args:
        model: The model.
        ids: The token ids of a text, more than ``TOKENS``.

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
    """Return the perplexity on the first ``TOKENS`` tokens of a text.

    Args:
        model: The model.
        ids: The token ids of a text, more than ``TOKENS``.

    Returns:
        The exponential of the mean token loss.
    """
    return math.exp(token_losses(model, ids).double().mean().item())


def losses_by_dtype(model: PreTrainedModel, ids: list[int]) -> dict[str, float]:
    """Return the loss with weights rounded to each dtype, computed in fp32 each time.

    Args:
        model: The model in fp32.
        ids: The token ids of a text, more than ``TOKENS``.

    Returns:
        The mean loss in nats per token by dtype.
    """
    import torch

    measured = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        rounded = deepcopy(model).to(dtype).float()  # type: ignore[arg-type]
        measured[str(dtype).removeprefix("torch.")] = token_losses(rounded, ids).mean().item()
    return measured


def sample(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Continue ``PROMPT`` greedily, without end-of-text and without a cache.

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
    """Return how often each expert is chosen for the tokens that ``token_losses`` scores.

    Args:
        model: The model.
        ids: The token ids of a text, more than ``TOKENS``.

    Returns:
        For each layer, the share of tokens of each expert.
    """
    import torch

    chosen: list[Tensor] = []
    hooks = [
        router.register_forward_hook(lambda module, inputs, output: chosen.append(output[2]))
        for router in routers(model)
    ]
    try:
        token_losses(model, ids)
    finally:
        for hook in hooks:
            hook.remove()
    experts: int = model.config.num_experts
    counts = [torch.bincount(indices.flatten(), minlength=experts) for indices in chosen]
    return [(count / count.sum()).tolist() for count in counts]


def routers(model: PreTrainedModel) -> list[nn.Module]:
    """Return the router of each layer.

    Args:
        model: A reference model.

    Returns:
        Modules whose output is (logits, weights, indices) over (tokens, experts).
    """
    layers: Any = model.get_decoder().layers  # type: ignore[no-untyped-call]
    return [layer.mlp.gate for layer in layers]
