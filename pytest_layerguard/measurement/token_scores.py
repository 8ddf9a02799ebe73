"""Compute token losses, KL and agreement from final hidden states, in chunks, never holding all logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CHUNK_ELEMENTS: Final = {"cpu": 2**23 - 2**14, "cuda": 2**27}
"""Logits held at a time, in elements: the more rows, the faster the matrix product.

On a CPU they stay just below 32 MiB, above which glibc maps fresh memory for every block.
"""

_CHUNK_ROWS: Final = {"cpu": 512, "cuda": 2**20}
"""Rows of logits held at a time: on a CPU more gain nothing, and would leave its cache between two steps."""

_BLOCKS: Final = {"cpu": 8}
"""Parts in which a chunk is scored, so that what is computed on the way takes little beside it."""

_FAINT: Final = -69.0
"""Log-probability of 1e-30, below which a token counts as ruled out: 1/p must not overflow."""


@dataclass(frozen=True)
class TokenScores:
    """The scores of one plan on each scored token; four CPU tensors ``[n]``.

    Attributes:
        losses: Negative log-likelihood of the token, in nats, fp32.
        kl: KL(base ‖ variant) of the next-token distributions, in nats, fp32.
        agreement: 1 where the most likely token is the base's, else 0.
        correct: Whether the most likely token is the one scored.
    """

    losses: Tensor
    kl: Tensor
    agreement: Tensor
    correct: Tensor


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
        variants: The same for each variant. The base's head, the same object, does not run again on a chunk of
            hidden states that are the base's. What that head returns is overwritten.
        labels: The tokens scored, ``[n]``.
        vocabulary: V, which decides how many rows a chunk has.
        advance: Called with the rows that one more head has turned into logits.

    Returns:
        The base's losses ``[n]`` and the scores of each variant, on the CPU.
    """
    hidden, head = base
    rows = chunk_rows(vocabulary, hidden.device.type)
    # Made first: what is made between two chunks of logits would keep the memory of one from serving the next. On
    # the device, so that it need not be waited for until all is done.
    base_losses = hidden.new_empty(len(labels), dtype=torch.float32)
    found = hidden.new_empty((len(variants), 4, len(labels)), dtype=torch.float32)
    wanted = labels.to(hidden.device)
    equal = _equal_rows(hidden, [final if own is head else None for final, own in variants])
    for start in range(0, len(labels), rows):
        span = slice(start, start + rows)
        reference = _Reference(head(hidden[span]).float(), wanted[span])
        base_losses[span] = reference.losses
        advance(len(reference.losses))
        for scores, same, (final, own_head) in zip(found, equal, variants, strict=True):
            if same[span].all():
                scores[:, span] = reference.own
            else:
                reference.score(own_head(final[span]).float(), scores[:, span])
            advance(len(reference.losses))
        # Or else it would still be held while the next one is made.
        del reference
    return base_losses.cpu(), [
        TokenScores(losses, kl, agreement, correct.bool())
        for losses, kl, agreement, correct in found.cpu()
    ]


def _equal_rows(base: Tensor, variants: Sequence[Tensor | None]) -> Tensor:
    """Return which rows of each variant are equal to the base's ``[n, H]``, as a CPU tensor ``[., n]``.

    None of a variant that is None. All of them at once, as a device is waited for each time that it is asked.
    """
    equal = torch.zeros((len(variants), len(base)), dtype=torch.bool, device=base.device)
    for rows, final in zip(equal, variants, strict=True):
        if final is not None:
            torch.all(final == base, dim=-1, out=rows)
    return equal.cpu()


def joined(parts: Sequence[TokenScores]) -> TokenScores:
    """Join the scores of consecutive tokens."""
    return TokenScores(
        torch.cat([part.losses for part in parts]),
        torch.cat([part.kl for part in parts]),
        torch.cat([part.agreement for part in parts]),
        torch.cat([part.correct for part in parts]),
    )


class _Reference:
    """The base's predictions on a chunk of tokens, with which those of variants are compared.

    KL is summed as p(r + exp(-r) - 1) with r = ln p - ln q. The terms add up to the sum of p r, because p and q
    each add up to 1. No term is below 0, and a rounding error of r, which has one size for all tokens of a row,
    counts only by its square. So a divergence far below the rounding of a log-probability is still right.

    Attributes:
        losses: The base's losses ``[n]``.
    """

    def __init__(self, logits: Tensor, labels: Tensor) -> None:
        """Prepare for the base's fp32 ``logits`` ``[n, V]`` of the tokens ``labels``, ``[n]``.

        The logits are overwritten.
        """
        self._labels = labels
        self._likeliest = logits.argmax(-1)
        for block in logits.tensor_split(_blocks(logits)):
            block.copy_(_log_probabilities(block))
        self.losses = _losses(logits, labels)
        faint = logits < _FAINT
        self._faint = faint if bool(faint.any()) else None
        self._reference = logits if self._faint is None else logits.clamp_min_(_FAINT)
        self._probabilities = self._reference.exp()

    @property
    def own(self) -> Tensor:
        """The base's scores against itself, ``[4, n]``."""
        correct = (self._likeliest == self._labels).float()
        nothing = torch.zeros_like(self.losses)
        return torch.stack([self.losses, nothing, torch.ones_like(nothing), correct])

    def score(self, logits: Tensor, out: Tensor) -> None:
        """Write the scores of a variant's fp32 ``logits`` ``[n, V]`` to ``out``, ``[4, n]``."""
        tensors = [logits, self._labels, self._likeliest, self._reference, self._probabilities]
        tensors += [] if self._faint is None else [self._faint]
        count = _blocks(logits)
        blocks = zip(*(tensor.tensor_split(count) for tensor in tensors), strict=True)
        for block, rows in zip(blocks, out.tensor_split(count, dim=1), strict=True):
            rows[0], rows[1], rows[2], rows[3] = _scores(*block)


def _blocks(logits: Tensor) -> int:
    """Return in how many blocks of rows logits ``[n, V]`` are scored."""
    # Never a single row of many: torch would sum it in another order.
    return max(1, min(_BLOCKS.get(logits.device.type, 1), len(logits) // 2))


def _scores(
    logits: Tensor,
    labels: Tensor,
    likeliest: Tensor,
    reference: Tensor,
    probabilities: Tensor,
    faint: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return losses, KL and agreement with the base of rows of logits, and whether they predict the token scored.

    KL is infinite where only the variant rules a token out.
    """
    # The argmax of the logits: normalising rounds, and could make two different tokens equal.
    predicted = logits.argmax(-1)
    other = _log_probabilities(logits)
    losses = _losses(other, labels)
    if faint is not None:
        # A token that the base rules out adds the variant's probability, which may be 0 as well.
        other = torch.where(faint, other.clamp_min(_FAINT), other)
    negative = other.sub_(reference)
    terms = torch.expm1(negative).sub_(negative).mul_(probabilities)
    return losses, terms.sum(-1), predicted == likeliest, predicted == labels


def _losses(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    return -log_probabilities.gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def _log_probabilities(logits: Tensor) -> Tensor:
    """Return the log-probabilities of fp32 logits ``[n, V]``.

    torch's own ``log_softmax`` adds up a row one by one, which at a vocabulary of 262,144 makes all of its
    log-probabilities too large by 1e-5.
    """
    shifted = logits - logits.amax(-1, keepdim=True)
    return shifted.sub_(shifted.exp().sum(-1, keepdim=True).log_())
