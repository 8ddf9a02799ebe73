"""Cut a text into windows by a bet's ``measure``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor

from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.models import tokenization
from pytest_layerguard.texts.windows import (
    Batch,
    Contract,
    TokenPositions,
    batched,
    cut,
    cut_chunks,
    cut_halves,
    cut_rolling,
    cut_strided,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_layerguard.bet.bet import Measure
    from pytest_layerguard.models.loading import LoadedModel

_DEFAULT_WINDOW: Final = 512
_LM_EVAL_CONTEXT: Final = 2048
AS_PUBLISHED: Final = "nfs-512-256-as-published"
"""The preset that reads, cuts and scores a text as the evaluator of "No Free Swap" does."""

_STRIDED: Final = ("nfs-512-256", AS_PUBLISHED)
_CHUNKED: Final = ("gptq-2048", "llama-cpp")
_PRESET_WINDOWS: Final = {"gptq-2048": 2048, "llama-cpp": 512, **dict.fromkeys(_STRIDED, 512)}
"""The tokens that the presets read at a time where the bet has no window."""

Window = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class WindowedText:
    """One text, cut into micro-batches for one model.

    Attributes:
        batches: Micro-batches of windows.
        provenance: Digests and counts of what was read.
        neighbours: The number of consecutive windows that share text.
        whole: The text, if all of it is scored.
    """

    batches: tuple[Batch, ...]
    provenance: Mapping[str, Any]
    neighbours: int = 1
    whole: str | None = None

    @cached_property
    def positions(self) -> TokenPositions:
        """The cluster, position and id of each scored token."""
        return TokenPositions.of(self.batches, self.neighbours)

    @cached_property
    def key(self) -> str:
        """A key that is equal for texts with the same scored tokens in the same windows."""
        content = {name: value for name, value in self.provenance.items() if name != "text"}
        return json.dumps(content, sort_keys=True)

    @property
    def start(self) -> str:
        """A description of how windows start."""
        bos = self.provenance["bos"]
        if bos is None:
            return "windows start without BOS"
        return f"windows start with {_named(bos if isinstance(bos, list) else [bos])}"

    @property
    def scored(self) -> int:
        """The number of scored tokens."""
        return len(self.positions.windows)

    @property
    def windows(self) -> int:
        """The number of windows that can be taken as independent."""
        return self.positions.count


def contract_key(measure: Measure, bet_file: Path) -> str:
    """Return a key that is equal for two bets that score the same texts by the same contract."""
    contract = measure.model_dump_json(
        include={"text", "texts", "tokens", "window", "stride", "bos", "positions", "preset"}
    )
    return f"{bet_file.parent}\n{contract}"


def tokens_needed(measure: Measure) -> int | None:
    """Return how many tokens of a text a bet's contract can use; None for all of it."""
    if measure.tokens is None or measure.preset not in _CHUNKED:
        return None if measure.tokens is None else measure.tokens + 1
    window = measure.window or _PRESET_WINDOWS[measure.preset]
    scored = window - 1 - (window // 2 if measure.preset == "llama-cpp" else 0)
    return measure.tokens // scored * window


def windowed(text: str, measure: Measure, loaded: LoadedModel, micro_batch: int) -> WindowedText:
    """Tokenise a text without special tokens and cut it by the bet's contract.

    Args:
        text: The text.
        measure: The bet's tokens, window, stride, BOS and positions, or its preset.
        loaded: The model, whose context bounds the window, and its tokenizer.
        micro_batch: The most tokens that go through a block at a time.

    Raises:
        MeasurementError: If the text is too short or the window longer than the model's context.
    """
    start = tokenization.start_ids(loaded.tokenizer, measure.bos)
    ids = tokenization.encode(loaded.tokenizer, text)
    tokenization.check_ids(ids, loaded.model)
    if start and tuple(ids[: len(start)]) == start and measure.preset is None:
        raise MeasurementError(
            f"the text itself starts with the tokenizer's BOS ({_named(start)}), and so does every window: two of "
            "them are as wrong as none. Take it out of the text"
        )
    windows = _windows(ids, measure, loaded, start)
    length = max(len(inputs) for inputs, _ in windows)
    batches = tuple(batched(windows, max(1, micro_batch // length)))
    return WindowedText(
        batches,
        {
            "text": file_digests.of_text(text),
            "token_ids": file_digests.of_ids(
                [token for row, _ in windows for token in row.tolist()]
            ),
            "scored_tokens": sum(int(batch.scored.sum()) for batch in batches),
            "windows": len(windows),
            "window": length,
            "stride": measure.stride,
            # One number for one token, as records have it.
            "bos": list(start) if len(start) > 1 else next(iter(start), None),
            "positions": measure.positions,
            "preset": measure.preset,
        },
        _neighbours(measure, length),
        text if measure.preset == "lm-eval" and measure.tokens is None else None,
    )


def _named(tokens: Sequence[int]) -> str:
    return f"token{'s' if len(tokens) > 1 else ''} {', '.join(map(str, tokens))}"


def _neighbours(measure: Measure, length: int) -> int:
    """Return how many windows share text: a window's length over the stride, rounded up."""
    if measure.preset in _STRIDED:
        window = measure.window or _PRESET_WINDOWS[measure.preset]
        return -(-window // (window // 2))
    if measure.preset is not None:
        return 1
    return -(-length // min(measure.stride or length, length))


def context_of(loaded: LoadedModel) -> int | None:
    """Return the longest text that the model was made for, in tokens, or None if it states none."""
    config = loaded.model.config.get_text_config(decoder=True)
    stated = (
        getattr(config, name, None)
        for name in ("max_position_embeddings", "n_positions", "max_seq_len")
    )
    return next((int(value) for value in stated if isinstance(value, int) and value > 0), None)


def _most(loaded: LoadedModel, start: Sequence[int]) -> int | None:
    """Return the most scored tokens of a window that starts so, or None if the model states no context."""
    context = context_of(loaded)
    # The last token of the start predicts the first one that is scored.
    return None if context is None else context - max(0, len(start) - 1)


def default_window(measure: Measure, loaded: LoadedModel, start: Sequence[int]) -> int:
    """Return the scored tokens per window: the bet's own, else 512 or the model's context if shorter.

    Raises:
        MeasurementError: If the window is longer than the model's context.
    """
    most = _most(loaded, start)
    if measure.window is None:
        return min(_DEFAULT_WINDOW, most or _DEFAULT_WINDOW)
    if most is not None and measure.window > most:
        raise MeasurementError(
            f"measure.window is {measure.window} and the model's context is {context_of(loaded)} tokens; "
            f"allowed: 1 to {most}"
        )
    return measure.window


def _windows(
    ids: Sequence[int], measure: Measure, loaded: LoadedModel, start: tuple[int, ...]
) -> list[Window]:
    if measure.preset is None:
        window = default_window(measure, loaded, start)
        stride = measure.stride or window
        if stride > window:
            raise MeasurementError(
                f"measure.stride is {stride} and the window is the model's context, {window} tokens; "
                f"allowed: 1 to {window}"
            )
        return _own(ids, measure, window, stride, start)
    if measure.preset == "lm-eval":
        return _rolling(ids, measure, loaded, start)
    if measure.preset == "nfs-512-256":
        window = _preset_window(measure.preset, measure, loaded, start)
        return _own(ids, measure, window, window // 2, start)
    window = _preset_window(measure.preset, measure, loaded, ())
    whole = [*start, *ids]
    if measure.preset == AS_PUBLISHED:
        return cut_strided(
            whole[: measure.tokens], window, window // 2, measure.positions == "last"
        )
    if measure.preset == "llama-cpp":
        return cut_halves(whole, window, measure.tokens, next(iter(start), None))
    return cut_chunks(whole, window, measure.tokens)


def _own(
    ids: Sequence[int], measure: Measure, window: int, stride: int, start: tuple[int, ...]
) -> list[Window]:
    spare = 0 if start else 1
    scored = measure.tokens if measure.tokens is not None else len(ids) - spare
    return cut(ids, Contract(scored, window, stride, start, measure.positions == "last"))


def _preset_window(preset: str, measure: Measure, loaded: LoadedModel, start: Sequence[int]) -> int:
    """Return how many tokens a preset reads at a time: the bet's window, else the preset's own.

    Raises:
        MeasurementError: If the model's context is shorter.
    """
    if measure.window is not None:
        return default_window(measure, loaded, start)
    window = _PRESET_WINDOWS[preset]
    most = _most(loaded, start)
    if most is not None and most < window:
        raise MeasurementError(
            f"preset {preset} reads {window} tokens at a time and the model's context is {context_of(loaded)} tokens; "
            f"write measure.window: {most} beside it for the preset's rule in windows of {most} tokens"
        )
    return window


def _rolling(
    ids: Sequence[int], measure: Measure, loaded: LoadedModel, start: tuple[int, ...]
) -> list[Window]:
    """Return windows as lm-evaluation-harness 0.4.13 makes them.

    If the tokenizer adds BOS by default, the text has it as its first token, which is scored. The prefix
    token comes before it all the same.

    Raises:
        MeasurementError: If there is no token to start with.
    """
    prefix = loaded.tokenizer.bos_token_id
    prefix = loaded.tokenizer.eos_token_id if prefix is None else prefix
    if prefix is None:
        raise MeasurementError(
            "preset lm-eval: the tokenizer has neither a BOS nor an end-of-text token to start with"
        )
    if start and list(ids[:1]) != [prefix]:
        ids = [*start, *ids]
    taken = ids if measure.tokens is None else ids[: measure.tokens]
    if measure.window is not None:
        return cut_rolling(taken, default_window(measure, loaded, ()), prefix)
    return cut_rolling(taken, context_of(loaded) or _LM_EVAL_CONTEXT, prefix)


def training_windows(
    text_ids: Sequence[Sequence[int]], window: int, start: tuple[int, ...], most: int
) -> list[Window]:
    """Return windows of several texts, one of each in turn, at most ``most`` in all.

    Args:
        text_ids: The tokens of each text.
        window: The tokens of a window.
        start: The tokens before every window.
        most: The number of windows that the training can use.

    Raises:
        MeasurementError: If a text has not even one whole window.
    """
    columns: list[list[Window]] = []
    for ids in text_ids:
        spare = 0 if start else 1
        count = min((len(ids) - spare) // window, -(-most // len(text_ids)))
        if count < 1:
            raise MeasurementError(
                f"train.text has {len(ids):,} tokens; one window of {window} needs {window + spare:,}"
            )
        columns.append(cut(ids, Contract(count * window, window, window, start)))
    shortest = min(map(len, columns))
    return [column[index] for index in range(shortest) for column in columns]
