"""How much of the held-out text stands in the training text as well."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Final

from pytest_layerguard.reference import HELDOUT
from pytest_layerguard.reference.stories import books, stories

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedTokenizerBase

SIZES: Final = (8, 13)

_WORD: Final = re.compile(r"\w+")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?]) |(?<=[.!?]\") ")
_BOOKS_AT_ONCE: Final = 64


def training_stories(tokenizer: PreTrainedTokenizerBase, seed: int, tokens: int) -> int:
    """Counts the stories that a training run reads.

    Args:
        tokenizer: The tokenizer.
        seed: The seed of the run's text.
        tokens: The tokens that it sees.

    Returns:
        The number of stories, rounded up to whole books.
    """
    from pytest_layerguard.reference.stories import STORIES_PER_BOOK

    shelf, read, count = books(seed), 0, 0
    while read < tokens:
        for ids in tokenizer(list(islice(shelf, _BOOKS_AT_ONCE)), verbose=False).input_ids:
            if read < tokens:
                read += len(ids) + 1
                count += STORIES_PER_BOOK
    return count


def overlap(seed: int, count: int) -> dict[str, float]:
    """Measures which share of the held-out text occurs in the first stories of a seed.

    Args:
        seed: The seed of the training text.
        count: How many of its stories to look through.

    Returns:
        Shares from 0 to 1 of the held-out ``stories``, ``sentences`` (each as often as it stands
        there) and word sequences (``8-grams``, ``13-grams``; within a story, case ignored).
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


_NAMES: Final = ("stories", "sentences", *(f"{size}-grams" for size in SIZES))


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
