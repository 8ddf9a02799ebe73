"""The share of the held-out text that occurs in the training text."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Final

from pytest_layerguard.reference import HELDOUT
from pytest_layerguard.reference.story_generator import STORIES_PER_BOOK, stories
from tools.reference_models.text import tokenized_books

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

_NAMES: Final = ("stories", "sentences", "8-grams", "13-grams")

_WORD: Final = re.compile(r"\w+")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?]) |(?<=[.!?]\") ")


def training_stories(tokenizer: PreTrainedTokenizerBase, seed: int, tokens: int) -> int:
    """Return the number of stories that a training run reads.

    Args:
        tokenizer: The tokenizer.
        seed: The seed of the run's text.
        tokens: The number of training tokens.

    Returns:
        The number of stories, rounded up to whole books.
    """
    count = 0
    for ids in tokenized_books(tokenizer, seed):
        if tokens <= 0:
            break
        tokens -= len(ids)
        count += STORIES_PER_BOOK
    return count


def overlap(seed: int, count: int) -> dict[str, float]:
    """Return the share of the held-out text that occurs in the first stories of a seed.

    Args:
        seed: The seed of the training text.
        count: The number of stories.

    Returns:
        Shares from 0 to 1 of the held-out ``stories``, ``sentences`` (repetitions count) and word
        sequences (``8-grams``, ``13-grams``; within a story, regardless of case).
    """
    heldout = HELDOUT.read_text(encoding="utf-8").rstrip("\n").split("\n\n")
    wanted = {name: [_pieces(name, text) for text in heldout] for name in _NAMES}
    missing = {name: {piece for text in texts for piece in text} for name, texts in wanted.items()}
    for text in islice(stories(seed), count):
        for name, left in missing.items():
            left.difference_update(_pieces(name, text))
    shares = {}
    for name, texts in wanted.items():
        pieces = [piece for text in texts for piece in text]
        shares[name] = sum(piece not in missing[name] for piece in pieces) / len(pieces)
    return shares


def _pieces(name: str, text: str) -> list[str]:
    if name == "stories":
        return [text]
    if name == "sentences":
        return _SENTENCE_END.split(text)
    return list(_grams(text, int(name.removesuffix("-grams"))))


def _grams(text: str, size: int) -> Iterator[str]:
    found = _WORD.findall(text.lower())
    for start in range(len(found) - size + 1):
        yield " ".join(found[start : start + size])
