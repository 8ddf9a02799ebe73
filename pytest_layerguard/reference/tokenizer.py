"""The tokenizer of the reference models: byte-level BPE, trained on the recipe's own text."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from pytest_layerguard.reference.stories import books

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT: Final = "<|endoftext|>"
VOCABULARY: Final = 1024
TRAINING_BOOKS: Final = 625


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Trains the byte-level BPE on the first books of a seed.

    No beginning-of-text token is added by default: the models are trained on windows cut anywhere
    from one stream of text, so a window that starts in the middle of a story is what they know.

    Args:
        seed: The seed of the stories.

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
    tokenizer.train_from_iterator(islice(books(seed), TRAINING_BOOKS), trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        bos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )
