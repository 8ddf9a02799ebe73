"""From final hidden states to token losses, KL and agreement, in chunks, without ever holding all logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_CHUNK_ELEMENTS: Final = {"cpu": 2**22, "cuda": 2**27}
"""Logits held at a time, in elements; enough for the matrix product to run at full speed."""


@dataclass(frozen=True)
class Scores:
    """What one plan does to each scored token; three CPU tensors ``[n]``.

    Attributes:
        losses: Negative log-likelihood of the token, in nats, fp32.
        kl: KL(base ‖ variant) of the next-token distributions, in nats, fp32.
        agreement: 1 where the most likely token is the base's, else 0.
    """

    losses: Tensor
    kl: Tensor
    agreement: Tensor


def chunk_rows(vocabulary: int, device: str) -> int:
    """How many rows of logits are computed at a time for a vocabulary of this size on this kind of device."""
    return max(1, _CHUNK_ELEMENTS.get(device, _CHUNK_ELEMENTS["cpu"]) // vocabulary)


def compare(
    base: tuple[Tensor, Callable[[Tensor], Tensor]],
    variants: Sequence[tuple[Tensor, Callable[[Tensor], Tensor]]],
    labels: Tensor,
    vocabulary: int,
) -> tuple[Tensor, list[Scores]]:
    """Scores a base and its variants on the same tokens, the base's logits computed once for all of them.

    Args:
        base: Final hidden states ``[n, H]`` and the head that turns rows of them into logits ``[., V]``.
        variants: The same for each variant.
        labels: The tokens scored, ``[n]``.
        vocabulary: V, which decides how many rows a chunk has.

    Returns:
        The base's losses ``[n]`` and the scores of each variant, on the CPU.
    """
    rows = chunk_rows(vocabulary, base[0].device.type)
    base_losses: list[Tensor] = []
    parts: list[list[Scores]] = [[] for _ in variants]
    for start in range(0, len(labels), rows):
        span = slice(start, start + rows)
        wanted = labels[span].to(base[0].device)
        reference = _log_probabilities(base, span)
        base_losses.append(_losses(reference, wanted))
        likeliest = reference.argmax(-1)
        probabilities = reference.exp()
        for part, variant in zip(parts, variants, strict=True):
            log_probabilities = _log_probabilities(variant, span)
            part.append(
                Scores(
                    _losses(log_probabilities, wanted),
                    _divergence(probabilities, reference, log_probabilities),
                    (log_probabilities.argmax(-1) == likeliest).float().cpu(),
                )
            )
    return torch.cat(base_losses), [joined(part) for part in parts]


def joined(parts: Sequence[Scores]) -> Scores:
    """Joins the scores of consecutive tokens."""
    return Scores(
        torch.cat([part.losses for part in parts]),
        torch.cat([part.kl for part in parts]),
        torch.cat([part.agreement for part in parts]),
    )


def _log_probabilities(source: tuple[Tensor, Callable[[Tensor], Tensor]], span: slice) -> Tensor:
    hidden, head = source
    return head(hidden[span]).float().log_softmax(-1)


def _losses(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    return -log_probabilities.gather(-1, labels.unsqueeze(-1)).squeeze(-1).cpu()


def _divergence(probabilities: Tensor, reference: Tensor, other: Tensor) -> Tensor:
    # A token that the base rules out entirely adds nothing, whatever the variant makes of it; without the
    # mask, minus infinity less minus infinity would make it NaN.
    terms = torch.where(probabilities > 0, probabilities * (reference - other), 0.0)
    return terms.sum(-1).cpu()
