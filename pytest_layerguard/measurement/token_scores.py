"""Compute token losses, KL and agreement from final hidden states, in chunks, never holding all logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CHUNK_ELEMENTS: Final = {"cpu": 2**22, "cuda": 2**27}
"""Logits held at a time, in elements; enough for the matrix product to run at full speed."""

_CHUNK_ROWS: Final = {"cpu": 512, "cuda": 2**20}
"""Rows of logits held at a time: on a CPU more gain nothing, and would leave its cache between two steps."""

_FAINT: Final = -69.0
"""Log-probability of 1e-30, below which a token counts as ruled out: 1/p must not overflow."""


@dataclass(frozen=True)
class TokenScores:
    """The scores of one plan on each scored token; three CPU tensors ``[n]``.

    Attributes:
        losses: Negative log-likelihood of the token, in nats, fp32.
        kl: KL(base ‖ variant) of the next-token distributions, in nats, fp32.
        agreement: 1 where the most likely token is the base's, else 0.
    """

    losses: Tensor
    kl: Tensor
    agreement: Tensor


def chunk_rows(vocabulary: int, device: str) -> int:
    """Return how many rows of logits are computed at a time for a vocabulary of this size on this kind of device."""
    kind = device if device in _CHUNK_ELEMENTS else "cpu"
    return max(1, min(_CHUNK_ROWS[kind], _CHUNK_ELEMENTS[kind] // vocabulary))


def compare(
    base: tuple[Tensor, Callable[[Tensor], Tensor]],
    variants: Sequence[tuple[Tensor, Callable[[Tensor], Tensor]]],
    labels: Tensor,
    vocabulary: int,
    advance: Callable[[int], None] = lambda rows: None,
) -> tuple[Tensor, list[TokenScores]]:
    """Score a base and its variants on the same tokens, the base's logits computed once for all of them.

    Args:
        base: Final hidden states ``[n, H]`` and the head that turns rows of them into logits ``[., V]``.
        variants: The same for each variant.
        labels: The tokens scored, ``[n]``.
        vocabulary: V, which decides how many rows a chunk has.
        advance: Called with the rows that one more head has turned into logits.

    Returns:
        The base's losses ``[n]`` and the scores of each variant, on the CPU.
    """
    rows = chunk_rows(vocabulary, base[0].device.type)
    base_losses: list[Tensor] = []
    parts: list[list[TokenScores]] = [[] for _ in variants]
    for start in range(0, len(labels), rows):
        span = slice(start, start + rows)
        wanted = labels[span].to(base[0].device)
        likeliest, reference = _predicted(base, span)
        base_losses.append(_losses(reference, wanted))
        divergence = _Divergence(reference)
        advance(len(wanted))
        for part, variant in zip(parts, variants, strict=True):
            likeliest_now, log_probabilities = _predicted(variant, span)
            losses = _losses(log_probabilities, wanted)
            agreement = (likeliest_now == likeliest).float().cpu()
            part.append(TokenScores(losses, divergence.to(log_probabilities), agreement))
            advance(len(wanted))
    return torch.cat(base_losses), [joined(part) for part in parts]


def joined(parts: Sequence[TokenScores]) -> TokenScores:
    """Join the scores of consecutive tokens."""
    return TokenScores(
        torch.cat([part.losses for part in parts]),
        torch.cat([part.kl for part in parts]),
        torch.cat([part.agreement for part in parts]),
    )


def _predicted(
    source: tuple[Tensor, Callable[[Tensor], Tensor]], span: slice
) -> tuple[Tensor, Tensor]:
    """Return the most likely token of each row ``[n]`` and the log-probabilities ``[n, V]``."""
    hidden, head = source
    logits = head(hidden[span]).float()
    # The argmax of the logits: normalising rounds, and could make two different tokens equal.
    return logits.argmax(-1), logits.log_softmax(-1)


def _losses(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    return -log_probabilities.gather(-1, labels.unsqueeze(-1)).squeeze(-1).cpu()


class _Divergence:
    """KL from one base to many variants, summed as p(r + exp(-r) - 1) with r = ln p - ln q.

    The terms add up to the sum of p r, because p and q each add up to 1. No term is below 0, and a rounding
    error of r, which has one size for all tokens of a row, counts only by its square. So a divergence far
    below the rounding of a log-probability is still right.
    """

    def __init__(self, reference: Tensor) -> None:
        """Prepare for the log-probabilities ``reference`` of the base, ``[n, V]``."""
        faint = reference < _FAINT
        self._faint = faint if bool(faint.any()) else None
        self._reference = reference if self._faint is None else reference.clamp_min(_FAINT)
        self._probabilities = self._reference.exp()

    def to(self, other: Tensor) -> Tensor:
        """Return KL(base ‖ other) of each row, ``[n]``, on the CPU; infinite where only the other rules a token out.

        Overwrites ``other``: a chunk is large, and fresh memory costs as much as the arithmetic.
        """
        if self._faint is not None:
            # A token that the base rules out adds the other's probability, which may be 0 as well.
            other = torch.where(self._faint, other.clamp_min(_FAINT), other)
        negative = other.sub_(self._reference)
        terms = torch.expm1(negative).sub_(negative).mul_(self._probabilities)
        return terms.sum(-1).cpu()
