"""Cut a tokenised text into windows that score each token once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from pytest_layerguard.environment.measurement_errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

IGNORED: Final = -100
"""The label of a position that is not scored, as in ``torch.nn.functional.cross_entropy``."""


@dataclass(frozen=True)
class Contract:
    """Which tokens are scored, and in what context.

    Attributes:
        tokens: The number of scored tokens.
        window: The scored tokens of a whole window.
        stride: The tokens from the start of a window to the start of the next. If it is below ``window``, windows
            overlap, and each window after the first scores only its last ``stride`` tokens.
        start: The tokens before every window; none if empty.
        last_only: Whether only the last position of each window is scored.
    """

    tokens: int
    window: int
    stride: int
    start: tuple[int, ...]
    last_only: bool = False

    @property
    def needed(self) -> int:
        """The number of tokens that the text must have."""
        return self.tokens if self.start else self.tokens + 1


@dataclass(frozen=True)
class Batch:
    """A micro-batch of windows of one length: ``[B, T]`` token ids, ``[B, T]`` labels, window numbers."""

    input_ids: Tensor
    labels: Tensor
    windows: tuple[int, ...]

    @property
    def scored(self) -> Tensor:
        """The mask ``[B, T]`` of the scored positions."""
        return self.labels != IGNORED


def cut(ids: Sequence[int], contract: Contract) -> list[tuple[Tensor, Tensor]]:
    """Cut a text into windows.

    Window k of W scored tokens reads, with a start, ``start t[kS] .. t[kS+W-2]`` and scores
    ``t[kS] .. t[kS+W-1]``; without one it reads ``t[kS] .. t[kS+W-1]`` and scores ``t[kS+1] .. t[kS+W]``.

    Args:
        ids: The tokenised text, without special tokens.
        contract: Which tokens to score, in what context.

    Returns:
        For each window its inputs ``[T]`` and labels ``[T]``; positions that are not scored have the label
        :data:`IGNORED`.

    Raises:
        MeasurementError: If the text is too short.
    """
    if len(ids) < contract.needed:
        raise MeasurementError(
            f"the text has {len(ids):,} tokens and {contract.needed:,} are needed to score "
            f"{contract.tokens:,}; lower measure.tokens or take a longer text"
        )
    text = torch.tensor(ids[: contract.needed], dtype=torch.long)
    before, last = torch.tensor(contract.start[:-1], dtype=torch.long), contract.start[-1:]
    if last:
        text = torch.cat([torch.tensor(last), text])
    windows: list[tuple[Tensor, Tensor]] = []
    scored = 0
    start = 0
    while scored < contract.tokens:
        end = min(start + contract.window, contract.tokens)
        inputs = text[start:end].clone()
        labels = text[start + 1 : end + 1].clone()
        if last:
            inputs[0] = last[0]
        labels[: scored - start] = IGNORED
        if contract.last_only:
            labels[:-1] = IGNORED
        windows.append(
            (torch.cat([before, inputs]), torch.cat([torch.full_like(before, IGNORED), labels]))
        )
        scored = end
        start += contract.stride
    return windows


def cut_chunks(ids: Sequence[int], size: int, tokens: int | None) -> list[tuple[Tensor, Tensor]]:
    """Cut a text into whole chunks that score all but their first token, as GPTQ's evaluation does.

    Frantar et al., "GPTQ" (arXiv 2210.17323), ``datautils.py`` and ``opt_eval``: the text is tokenised with
    its special tokens, chunks do not overlap, and a last chunk that is not full is left out.

    Args:
        ids: The tokenised text, special tokens included.
        size: The tokens of a chunk.
        tokens: The most tokens to score, or None for all; rounded down to whole chunks.

    Raises:
        MeasurementError: If there is not one whole chunk.
    """
    return [(chunk[:-1], chunk[1:]) for chunk in _chunks(ids, size, size - 1, tokens)]


def cut_halves(
    ids: Sequence[int], size: int, tokens: int | None, bos: int | None
) -> list[tuple[Tensor, Tensor]]:
    """Cut a text into whole chunks that score their second half, as llama.cpp's ``llama-perplexity`` does.

    A chunk of N tokens scores the last N - 1 - N/2 of them. Its first token is replaced by BOS where the tokenizer
    adds one. A last chunk that is not full is left out.

    Args:
        ids: The tokenised text, special tokens included.
        size: N, the tokens of a chunk.
        tokens: The most tokens to score, or None for all; rounded down to whole chunks.
        bos: The token at the start of every chunk, or None.

    Raises:
        MeasurementError: If there is not one whole chunk.
    """
    windows: list[tuple[Tensor, Tensor]] = []
    for chunk in _chunks(ids, size, size - 1 - size // 2, tokens):
        inputs, labels = chunk[:-1].clone(), chunk[1:].clone()
        if bos is not None:
            inputs[0] = bos
        labels[: size // 2] = IGNORED
        windows.append((inputs, labels))
    return windows


def _chunks(ids: Sequence[int], size: int, scored: int, tokens: int | None) -> Tensor:
    """Return chunks ``[C, size]`` that do not overlap, of which each scores ``scored`` tokens."""
    count = len(ids) // size
    if tokens is not None:
        count = min(count, tokens // scored)
    if count < 1:
        raise MeasurementError(
            f"not one whole chunk of {size:,} tokens can be scored: the text has {len(ids):,} tokens and "
            f"measure.tokens is {tokens if tokens is not None else 'not given'}; a chunk scores {scored:,}"
        )
    return torch.tensor(ids[: count * size], dtype=torch.long).view(count, size)


def cut_rolling(ids: Sequence[int], context: int, prefix: int) -> list[tuple[Tensor, Tensor]]:
    """Cut a text as lm-evaluation-harness's ``get_rolling_token_windows`` does with one token of context.

    The first window starts with a prefix token, each next one with the token before its first scored one. The
    last window is filled up with earlier text, which is not scored.

    Args:
        ids: The tokenised text, without special tokens.
        context: The most tokens that the model reads at a time.
        prefix: The token before the text.

    Raises:
        MeasurementError: If the text is empty.
    """
    if not ids:
        raise MeasurementError("the text has no tokens")
    text = torch.tensor([prefix, *ids], dtype=torch.long)
    windows: list[tuple[Tensor, Tensor]] = []
    scored = 0
    while scored < len(ids):
        end = min(scored + context, len(ids))
        start = max(0, end - context)
        labels = text[start + 1 : end + 1].clone()
        labels[: scored - start] = IGNORED
        windows.append((text[start:end], labels))
        scored = end
    return windows


def cut_strided(
    ids: Sequence[int], window: int, stride: int, last_only: bool
) -> list[tuple[Tensor, Tensor]]:
    """Cut a text as the evaluator of "No Free Swap" does (arXiv 2605.16234, ``matched_eval_qwen3.py``).

    Window k reads the tokens ``kS .. kS+W-1`` and scores those that no earlier window read, but for the first of
    them. So the first window scores W-1 tokens and each later one S-1. Only the first window starts with BOS.

    Args:
        ids: The tokenised text, special tokens included.
        window: W, the tokens of a window.
        stride: S, the tokens from the start of a window to the start of the next.
        last_only: Whether only the last position of each window is scored.

    Raises:
        MeasurementError: If there is nothing to score.
    """
    if len(ids) < 2:
        raise MeasurementError("the text has fewer than two tokens; there is nothing to score")
    text = torch.tensor(ids, dtype=torch.long)
    windows: list[tuple[Tensor, Tensor]] = []
    read = 0
    for start in range(0, len(ids), stride):
        end = min(start + window, len(ids))
        if end - read > 1:
            labels = text[start + 1 : end].clone()
            labels[: read - start] = IGNORED
            if last_only:
                labels[:-1] = IGNORED
            windows.append((text[start : end - 1], labels))
        read = end
        if end == len(ids):
            break
    return windows


def batched(windows: Sequence[tuple[Tensor, Tensor]], rows: int) -> list[Batch]:
    """Group windows of equal length into micro-batches of at most ``rows`` windows, in order."""
    batches: list[Batch] = []
    first = 0
    while first < len(windows):
        length = len(windows[first][0])
        last = first
        while last < len(windows) and last - first < rows and len(windows[last][0]) == length:
            last += 1
        taken = windows[first:last]
        batches.append(
            Batch(
                torch.stack([inputs for inputs, _ in taken]),
                torch.stack([labels for _, labels in taken]),
                tuple(range(first, last)),
            )
        )
        first = last
    return batches


@dataclass(frozen=True)
class TokenPositions:
    """The cluster, the position in its window and the id of each scored token, each ``[n]``.

    Clusters are taken as independent of one another. A cluster is a window or, if windows overlap, as many
    consecutive windows as share text.

    Attributes:
        windows: The cluster of each token.
        positions: Its position in its window.
        tokens: Its id.
    """

    windows: NDArray[np.int64]
    positions: NDArray[np.int64]
    tokens: NDArray[np.int64]

    @classmethod
    def of(cls, batches: Sequence[Batch], neighbours: int = 1) -> TokenPositions:
        """Return those of micro-batches, in the order in which tokens are scored.

        Args:
            batches: The windows.
            neighbours: The number of consecutive windows that make a cluster. A last cluster of less than
                half as many tokens is joined to the one before it: it would count as a full degree of
                freedom and give less.
        """
        windows, positions, tokens = [], [], []
        for batch in batches:
            rows, columns = torch.nonzero(batch.scored, as_tuple=True)
            windows.append(torch.tensor(batch.windows)[rows])
            positions.append(columns)
            tokens.append(batch.labels[batch.scored])
        of_window, *rest = (torch.cat(each).numpy() for each in (windows, positions, tokens))
        clusters = of_window // neighbours
        sizes = np.bincount(clusters)
        if len(sizes) > 1 and 2 * sizes[-1] < sizes[0]:
            clusters = np.minimum(clusters, len(sizes) - 2)
        return cls(clusters, *rest)

    @property
    def count(self) -> int:
        """The number of clusters."""
        return int(self.windows.max()) + 1
