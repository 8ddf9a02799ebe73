"""Metrics of other packages, and the token scores that they are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_layerguard.bet.criteria.interval import Interval, greatest, least
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement.metrics import statistics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pytest_layerguard.bet.criteria.metrics import OwnMetric
    from pytest_layerguard.measurement.results import Continuation


@dataclass(frozen=True)
class ScoredTokens:
    """One directed change of the model on one text, token by token.

    Attributes:
        base: Token losses of the untouched model, in nats, ``[n]``.
        losses: Token losses of the variant on the same tokens, ``[n]``.
        kl: KL(base || variant) of the next-token distributions, in nats, ``[n]``.
        agreement: 1 where the most likely token is the base's, else 0, ``[n]``.
        windows: The cluster of each token, ``[n]``; tokens of one are not independent.
        positions: The position of each token in its window, ``[n]``.
        tokens: The id of each token, ``[n]``.
        samples: The variant's greedy continuations, where the bet has `measure.sample`.
        metrics: The built-in metrics of the variant, measured already.
        comparisons: How many variants the intervals hold for together.
    """

    base: NDArray[np.float64]
    losses: NDArray[np.float64]
    kl: NDArray[np.float64]
    agreement: NDArray[np.float64]
    windows: NDArray[np.int64]
    positions: NDArray[np.int64]
    tokens: NDArray[np.int64]
    samples: tuple[Continuation, ...]
    metrics: Mapping[str, Interval]
    comparisons: int = 1

    def mean(self, values: NDArray[np.float64]) -> Interval:
        """Return the mean of one number per token, ``[n]``, with its 95 % interval."""
        return statistics.clustered(values, self.windows).interval(self.comparisons)

    def share(self, values: NDArray[np.float64]) -> Interval:
        """Return the share of tokens, of one 0 or 1 per token, ``[n]``, with its 95 % interval."""
        return statistics.share(values, self.windows, self.comparisons)


def measured(metric: OwnMetric, directions: Sequence[ScoredTokens]) -> Interval:
    """Return a metric of a variant: the worst over its directed changes.

    Raises:
        MeasurementError: If the metric's function does not return an interval.
    """
    measure = metric.load()
    found = [measure(tokens) for tokens in directions]
    for value in found:
        if not isinstance(value, Interval):
            raise MeasurementError(
                f"metric {metric.name}: {metric.implementation} returned {type(value).__name__}; "
                "allowed: an Interval, such as ScoredTokens.mean returns, or Interval.point(x)"
            )
    return greatest(found) if metric.larger_is_worse else least(found)
