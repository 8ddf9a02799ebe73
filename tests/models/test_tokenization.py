"""What a tokenizer makes of a text, and which ids mean something special."""

from __future__ import annotations

import pytest
from hub.tiny import WORDS, model, tokenizer
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.models.tokenization import (
    check_ids,
    check_tokenizer,
    encode,
    encode_prompt,
    end_of_text_ids,
    start_ids,
)


@pytest.mark.parametrize(
    ("adds", "bos", "expected"),
    [
        (True, "auto", (1,)),
        (False, "auto", ()),
        (False, "always", (1,)),
        (True, "always", (1,)),
        (True, "never", ()),
    ],
)
def test_bos(adds: bool, bos: str, expected: tuple[int, ...]) -> None:
    assert start_ids(tokenizer(adds_bos=adds), bos) == expected


def framed(single: str, *, bos: str | None = "<s>") -> PreTrainedTokenizerFast:
    """A tokenizer that puts tokens before and after every text, whatever BOS it states."""
    made = tokenizer(adds_bos=False)
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", 1), ("</s>", 2), ("<unk>", 0)]
    )
    made.bos_token = bos
    return made


@pytest.mark.parametrize(
    ("single", "bos", "expected"),
    [
        ("<unk> <s> $A", "<s>", (0, 1)),
        ("<s> $A", None, (1,)),
        ("</s> $A", "<s>", (2,)),
        ("<s> $A </s>", "<s>", (1,)),
        ("$A </s>", "<s>", ()),
    ],
)
def test_windows_and_samples_start_as_the_tokenizer_does(
    single: str, bos: str | None, expected: tuple[int, ...]
) -> None:
    made = framed(single, bos=bos)
    assert start_ids(made, "auto") == expected
    assert encode_prompt(made, "a b") == [*expected, 3, 4]
    assert start_ids(made, "always") == (expected or (1,))
    assert start_ids(made, "never") == ()


def test_a_prompt_that_is_nothing_but_an_end_of_text() -> None:
    with pytest.raises(MeasurementError, match="no tokens"):
        encode_prompt(framed("$A </s>"), "")


def test_bos_always_without_one() -> None:
    without = tokenizer(adds_bos=False)
    without.bos_token = None

    assert start_ids(without, "auto") == ()
    with pytest.raises(MeasurementError, match="no beginning-of-text token"):
        start_ids(without, "always")


def test_a_text_gets_no_special_tokens_and_a_prompt_gets_its_own() -> None:
    assert encode(tokenizer(), "a b") == [3, 4]
    assert encode_prompt(tokenizer(), "a b") == [1, 3, 4]


def test_a_long_text_warns_nobody() -> None:
    short = tokenizer()
    short.model_max_length = 2

    assert len(encode(short, "a " * 100)) == 100


def test_an_empty_prompt() -> None:
    with pytest.raises(MeasurementError, match="no tokens"):
        encode_prompt(tokenizer(adds_bos=False), "")


def test_every_end_of_text() -> None:
    ends = model(eos_token_id=5)
    ends.generation_config.eos_token_id = [7, 5]

    assert end_of_text_ids(ends, tokenizer()) == (2, 5, 7)


def test_a_tokenizer_that_does_not_fit() -> None:
    with pytest.raises(
        MeasurementError, match=r"does not fit: its largest id is 28, .* for 20 tokens"
    ):
        check_tokenizer(tokenizer(), model(vocab_size=20), "model x")


def test_an_added_token_beyond_the_embedding_counts_only_where_it_occurs() -> None:
    image = tokenizer()
    image.add_tokens(["<image>"])
    small = model()

    check_tokenizer(image, small, "model x")
    check_ids(encode(image, "a b"), small)
    with pytest.raises(MeasurementError, match=f"id {len(WORDS)}"):
        check_ids(encode(image, "a <image> b"), small)


def test_digests_of_ids_depend_on_value_and_order() -> None:
    assert file_digests.of_ids([1, 2]) == file_digests.of_ids((1, 2))
    assert len({file_digests.of_ids(ids) for ids in ([], [1, 2], [2, 1], [12])}) == 4
    assert (
        file_digests.of_ids([1])
        == "sha256:7c9fa136d4413fa6173637e883b6998d32e1d675f88cddff9dcbcf331820f4b8"
    )
