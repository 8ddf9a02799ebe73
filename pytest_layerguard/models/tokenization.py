"""Tokenise texts and prompts, and find special tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pytest_layerguard.environment.captured_output import first_line, quiet
from pytest_layerguard.environment.measurement_errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Tokenise a text without special tokens and without a warning about its length.

    Raises:
        MeasurementError: If the tokenizer fails on it.
    """
    with quiet():
        try:
            ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        except Exception as error:
            raise MeasurementError(
                f"the tokenizer fails on the text: {first_line(error)}"
            ) from None
    return ids


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Tokenise a prompt as the tokenizer does by default, without an end of text, after which nothing comes.

    Raises:
        MeasurementError: If it has no tokens.
    """
    _, end = _added_ids(tokenizer)
    with quiet():
        ids: list[int] = tokenizer(prompt, verbose=False)["input_ids"]
    if end and tuple(ids[-len(end) :]) == end:
        ids = ids[: -len(end)]
    if not ids:
        raise MeasurementError("a prompt of no tokens cannot be continued; write at least one word")
    return ids


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> list[tuple[list[int], list[int]]]:
    """Tokenise contexts and what follows each of them, as lm-evaluation-harness does.

    Spaces at the end of a context belong to what follows. Both are tokenised as one text, which begins as the
    tokenizer's texts do by default; what follows is what comes after the tokens of the context alone.
    """
    start, _ = _added_ids(tokenizer)
    contexts = [context.rstrip() for context, _ in pairs]
    with quiet():
        given = {"add_special_tokens": False, "verbose": False}
        alone: list[list[int]] = tokenizer(contexts, **given)["input_ids"]
        whole: list[list[int]] = tokenizer([one + other for one, other in pairs], **given)[
            "input_ids"
        ]
    return [
        ([*start, *context], text[len(context) :])
        for context, text in zip(alone, whole, strict=True)
    ]


def check_chat(tokenizer: PreTrainedTokenizerBase, key: str) -> None:
    """Refuse a tokenizer without a chat template, for a bet that asks for one by `key`."""
    if tokenizer.chat_template is None:
        raise MeasurementError(f"{key}: the tokenizer has no chat template; leave chat out")


def encode_chat(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """Tokenise a prompt as a user's message by the model's chat template, up to where the answer starts.

    Raises:
        MeasurementError: If there is no chat template, or it fails on the prompt.
    """
    check_chat(tokenizer, "measure.generate.chat")
    with quiet():
        try:
            made: Any = tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=True
            )
        except Exception as error:
            raise MeasurementError(
                f"the tokenizer's chat template fails on a prompt: {first_line(error)}"
            ) from None
    ids: list[int] = made["input_ids"]
    return ids


def start_ids(
    tokenizer: PreTrainedTokenizerBase, bos: Literal["auto", "always", "never"]
) -> tuple[int, ...]:
    """Return the tokens before every window.

    Args:
        tokenizer: The model's tokenizer.
        bos: ``auto`` for the tokens that it puts before every text by default, mostly one or none; ``always``
            for its BOS if these are none.

    Raises:
        MeasurementError: If ``always`` asks for a BOS that the tokenizer does not have.
    """
    if bos == "never":
        return ()
    start, _ = _added_ids(tokenizer)
    if start or bos == "auto":
        return start
    own: int | None = tokenizer.bos_token_id
    if own is None:
        raise MeasurementError(
            "measure.bos: this tokenizer has no beginning-of-text token; allowed: auto or never"
        )
    return (own,)


def _added_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what the tokenizer puts before and after a text by default.

    It is found by what the tokenizer does: its settings differ from class to class, and may not be true.
    """
    with quiet():
        plain: list[int] = tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"]
        whole: list[int] = tokenizer("a", verbose=False)["input_ids"]
    for at in range(len(whole) - len(plain) + 1):
        if whole[at : at + len(plain)] == plain:
            return tuple(whole[:at]), tuple(whole[at + len(plain) :])
    raise MeasurementError(
        f"the tokenizer makes {plain} of a letter, and {whole} with its special tokens; cannot tell which tokens "
        "it puts before a text"
    )


def end_of_text_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return every id that would end a generation: of the model's configurations and the tokenizer."""
    stated: list[Any] = [
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
        getattr(model.config.get_text_config(decoder=True), "eos_token_id", None),
        tokenizer.eos_token_id,
    ]
    ids = {
        each for value in stated for each in (value if isinstance(value, list | tuple) else [value])
    }
    return tuple(sorted(each for each in ids if isinstance(each, int)))


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, name: str) -> None:
    """Refuse a tokenizer whose ordinary tokens the model has no embedding for.

    Added tokens may lie beyond, as the image token of a text model does; text that brings one up is
    refused when it is tokenised.

    Raises:
        MeasurementError: If an ordinary token's id, or that of a token that is put before every text, lies
            beyond the embedding, or if a plain sentence makes no tokens.
    """
    rows = _rows(model)
    added = set(tokenizer.get_added_vocab())
    largest = max(
        (index for token, index in tokenizer.get_vocab().items() if token not in added), default=-1
    )
    default = encode_prompt(tokenizer, "a")
    if max(largest, *default) >= rows:
        raise MeasurementError(
            f"{name}: the tokenizer does not fit: its largest id is {max(largest, *default)}, and the "
            f"model has embeddings for {rows:,} tokens (ids 0 to {rows - 1})"
        )


def check_same(
    base: PreTrainedTokenizerBase,
    candidate: PreTrainedTokenizerBase,
    texts: Iterable[str],
    prompts: Iterable[str],
    name: str,
) -> None:
    """Refuse a candidate whose tokenizer is not the base's: their losses would be of other tokens.

    Args:
        base: The base's.
        candidate: The candidate's.
        texts: The texts that are scored.
        prompts: The prompts that are continued.
        name: The candidate's name in messages.

    Raises:
        MeasurementError: If special tokens, or the ids of a text or a prompt, differ; names the first difference.
    """
    # Padding is not among them: nothing that is measured is padded.
    for special in ("bos_token", "eos_token", "unk_token"):
        ours, theirs = (
            (getattr(each, special), getattr(each, f"{special}_id")) for each in (base, candidate)
        )
        if ours != theirs:
            raise MeasurementError(
                f"{name}: its tokenizer is not the base's: {special} is {theirs[0]!r} ({theirs[1]}), "
                f"the base's {ours[0]!r} ({ours[1]})"
            )
    pairs = [(encode(base, text), encode(candidate, text)) for text in texts]
    pairs += [
        (encode_prompt(base, prompt), encode_prompt(candidate, prompt))
        for prompt in ("a", *prompts)
    ]
    for ours_ids, their_ids in pairs:
        if ours_ids != their_ids:
            both = zip(ours_ids, their_ids, strict=False)
            shorter = min(len(ours_ids), len(their_ids))
            at = next((place for place, (one, two) in enumerate(both) if one != two), shorter)
            found = [
                f"{ids[at]} ({tokenizer.decode([ids[at]])!r})" if at < len(ids) else "nothing"
                for tokenizer, ids in ((candidate, their_ids), (base, ours_ids))
            ]
            raise MeasurementError(
                f"{name}: its tokenizer is not the base's: token {at} is {found[0]}, the base's {found[1]}"
            )


def check_ids(ids: list[int], model: PreTrainedModel) -> None:
    """Refuse token ids that the model has no embedding for.

    Raises:
        MeasurementError: If there is one; names it.
    """
    rows = _rows(model)
    if ids and max(ids) >= rows:
        raise MeasurementError(
            f"the text has a token with id {max(ids)}, and the model has embeddings for {rows:,} tokens; "
            "the text holds a special token that this model does not know"
        )


def _rows(model: PreTrainedModel) -> int:
    weight: Tensor = model.get_input_embeddings().weight  # type: ignore[assignment]
    return weight.shape[0]
