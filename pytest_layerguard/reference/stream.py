"""The training text as windows of tokens: one endless stream, cut without regard to stories."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from pytest_layerguard.reference.shape import CONTEXT
from pytest_layerguard.reference.stories import books

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


def batches(tokenizer: PreTrainedTokenizerBase, seed: int, batch: int) -> Iterator[Tensor]:
    """Yields training batches without end; no token comes twice.

    Args:
        tokenizer: The tokenizer; its end-of-text token follows every book.
        seed: The seed of the stories.
        batch: Windows in one batch.

    Yields:
        Token ids of shape (batch, ``CONTEXT`` + 1): the last column is only predicted.
    """
    import torch

    size = CONTEXT + 1
    end = tokenizer.eos_token_id
    pending: list[int] = []
    shelf = books(seed)
    while True:
        while len(pending) < batch * size:
            for tokens in tokenizer(list(islice(shelf, 64)), add_special_tokens=False).input_ids:
                pending += [*tokens, end]
        taken, pending = pending[: batch * size], pending[batch * size :]
        yield torch.tensor(taken).view(batch, size)
