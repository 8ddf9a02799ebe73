"""Judge how likely the documents of a task are to a model, paired by document.

Documents are independent of each other, the tokens of one are not, and base and variant see the same. So the document
is the unit of the intervals, whose form is that of :mod:`~pytest_layerguard.measurement.metrics.statistics`. The
perplexity is by the word or the byte, as the task counts them, and does not depend on a tokenizer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from pytest_layerguard.bet.criteria.interval import Interval, greatest
from pytest_layerguard.measurement.metrics.statistics import exponential, ratio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


PERPLEXITY: Final = ("perplexity", "base_perplexity", "perplexity_ratio")
"""What a task of perplexity gives."""
BITS: Final = ("bits_per_byte", "base_bits_per_byte")
"""What it gives beside them where it counts bytes."""


@dataclass(frozen=True)
class Documents:
    """The sizes of the documents of a task.

    Attributes:
        units: The number of words or bytes of each, or whatever the task's perplexity is by.
        bytes: The number of bytes of each, or None if the task gives no bits per byte.
    """

    units: tuple[float, ...]
    bytes: tuple[float, ...] | None

    def __len__(self) -> int:
        """Return the number of documents."""
        return len(self.units)


@dataclass(frozen=True)
class TaskLikelihoods:
    """The log-likelihoods that several models give to the documents of a task.

    Attributes:
        documents: The documents.
        answers: Each model's log-likelihood of each document, in nats, by its plan; by a name where it is not run here.
        provenance: Plain data: what was asked, its digest, and how.
    """

    documents: Documents
    answers: Mapping[Any, tuple[float, ...]]
    provenance: Mapping[str, Any]

    def beside(self, answers: Mapping[Any, tuple[Any, ...]]) -> Self:
        """Return the task with the answers of other models beside these."""
        return replace(self, answers={**self.answers, **answers})

    def base_metrics(self, base: Any) -> dict[str, Interval]:
        """Return the metrics of the untouched model."""
        return base_metrics(self.documents, self.answers[base])

    def metrics(
        self, base: Any, directions: Sequence[Any], comparisons: int
    ) -> dict[str, Interval]:
        """Return the metrics of a variant, as the function :func:`metrics` has them."""
        return metrics(
            self.documents,
            self.answers[base],
            [self.answers[plan] for plan in directions],
            comparisons,
        )


def base_metrics(
    documents: Documents, likelihoods: Sequence[float], comparisons: int = 1
) -> dict[str, Interval]:
    """Return the perplexity, and the bits per byte of a task that has them."""
    losses = _losses(likelihoods)
    found = {
        "perplexity": exponential(ratio(losses, np.array(documents.units)).interval(comparisons))
    }
    if documents.bytes is not None:
        mean = ratio(losses, np.array(documents.bytes)).times(1 / math.log(2))
        found["bits_per_byte"] = mean.interval(comparisons)
    return found


def metrics(
    documents: Documents,
    base: Sequence[float],
    directions: Sequence[Sequence[float]],
    comparisons: int,
) -> dict[str, Interval]:
    """Return the metrics of a variant on a task.

    Args:
        documents: The documents.
        base: The base's log-likelihoods.
        directions: The variant's, for each of its directed changes; the worse one counts.
        comparisons: How many variants the intervals hold for together.
    """
    together = comparisons * len(directions)
    alone = [base_metrics(documents, each, together) for each in directions]
    ratios = [
        ratio(_losses(each) - _losses(base), np.array(documents.units)).interval(together)
        for each in directions
    ]
    return {
        **{name: greatest(each[name] for each in alone) for name in alone[0]},
        **{f"base_{name}": value for name, value in base_metrics(documents, base).items()},
        "perplexity_ratio": exponential(greatest(ratios)),
    }


def _losses(likelihoods: Sequence[float]) -> NDArray[np.float64]:
    """Return losses, infinite where a variant overflowed."""
    losses = -np.array(likelihoods)
    return np.where(np.isfinite(losses), losses, math.inf)
