"""The texts of the recipe: held-out text, training batches and the tokenizer trained on them."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from pytest_layerguard.reference import HELDOUT
from pytest_layerguard.reference.story_generator import books, stories

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

HELDOUT_SEED: Final = 1
HELDOUT_STORIES: Final = 110

CONTEXT: Final = 256
END_OF_TEXT: Final = "<|endoftext|>"
VOCABULARY: Final = 1024
TOKENIZER_SEED: Final = 0
TOKENIZER_BOOKS: Final = 625

_BOOKS_AT_ONCE: Final = 64


def heldout_text() -> str:
    """Generate the held-out text.

    Returns:
        ``HELDOUT_STORIES`` stories with a blank line between them and a line feed at the end.
    """
    return "\n\n".join(islice(stories(HELDOUT_SEED), HELDOUT_STORIES)) + "\n"


def heldout_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Tokenize the shipped held-out text, without special tokens.

    Args:
        tokenizer: The tokenizer.

    Returns:
        The token ids.
    """
    ids: list[int] = tokenizer(
        HELDOUT.read_text(encoding="utf-8"), add_special_tokens=False, verbose=False
    ).input_ids
    return ids


def batches(tokenizer: PreTrainedTokenizerBase, seed: int, batch: int) -> Iterator[Tensor]:
    """Yield training batches without end, cut from one stream of books; no token is repeated.

    Args:
        tokenizer: The tokenizer; its end-of-text token follows every book.
        seed: The seed of the stories.
        batch: The number of windows in a batch.

    Yields:
        Token ids of shape (batch, ``CONTEXT`` + 1); the last column is only a target.
    """
    import torch

    size = CONTEXT + 1
    pending: list[int] = []
    tokenized = tokenized_books(tokenizer, seed)
    while True:
        while len(pending) < batch * size:
            pending += next(tokenized)
        taken, pending = pending[: batch * size], pending[batch * size :]
        yield torch.tensor(taken).view(batch, size)


def tokenized_books(tokenizer: PreTrainedTokenizerBase, seed: int) -> Iterator[list[int]]:
    """Yield the token ids of books without end.

    Args:
        tokenizer: The tokenizer.
        seed: The seed of the stories.

    Yields:
        The token ids of one book, with the end-of-text token after it.
    """
    shelf = books(seed)
    while True:
        some = list(islice(shelf, _BOOKS_AT_ONCE))
        for ids in tokenizer(some, add_special_tokens=False, verbose=False).input_ids:
            yield [*ids, tokenizer.eos_token_id]


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Train the byte-level BPE tokenizer on the first books of ``TOKENIZER_SEED``.

    It adds no beginning-of-text token by default: the models are trained on windows cut anywhere
    from one stream of text, so a window that starts in the middle of a story is what they know.

    Returns:
        A tokenizer of ``VOCABULARY`` tokens with ``END_OF_TEXT`` as its token 0.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(islice(books(TOKENIZER_SEED), TOKENIZER_BOOKS), trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        bos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )
