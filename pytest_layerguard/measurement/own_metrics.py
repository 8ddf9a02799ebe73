"""What a metric of another package is measured on, and how the laboratory asks for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pytest_layerguard.bet.criteria.interval import Interval, greatest, least
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement import statistics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from pytest_layerguard.bet.criteria.metrics import OwnMetric
    from pytest_layerguard.measurement.head import Scores
    from pytest_layerguard.measurement.planning import Arm
    from pytest_layerguard.measurement.results import Continuation, VariantResult
    from pytest_layerguard.models.plan import Plan
    from pytest_layerguard.texts.windowed_text import WindowedText


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
        samples: What the variant says, where the bet has `measure.sample`.
        metrics: The built-in metrics of the variant, measured already.
        comparisons: Over how many variants intervals hold together.
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


def with_own_metrics(
    wanted: Sequence[OwnMetric],
    variants: Sequence[VariantResult],
    arms: Sequence[Arm],
    base: Tensor,
    scores: Mapping[Plan, Scores],
    reading: WindowedText,
    comparisons: int,
) -> list[VariantResult]:
    """Return the variants, one for each arm, with the metrics of other packages beside the built-in ones.

    After an overflow, which a variant's note tells of, each is at the worst that its definition allows.

    Raises:
        MeasurementError: If a metric's function does not return an interval.
    """
    told: list[VariantResult] = []
    for variant, arm in zip(variants, arms, strict=True):
        directions = [
            _seen(variant, base, scores[plan], reading, comparisons * len(arm.plans))
            for plan in arm.plans
        ]
        found = {
            metric.name: _at_worst(metric)
            if variant.note is not None
            else _measured(metric, directions)
            for metric in wanted
        }
        told.append(replace(variant, metrics={**variant.metrics, **found}))
    return told


def _at_worst(metric: OwnMetric) -> Interval:
    return Interval.point(metric.high if metric.larger_is_worse else metric.low)


def _measured(metric: OwnMetric, directions: Sequence[ScoredTokens]) -> Interval:
    measure = metric.load()
    found = [measure(seen) for seen in directions]
    for value in found:
        if not isinstance(value, Interval):
            raise MeasurementError(
                f"metric {metric.name}: {metric.implementation} returned {type(value).__name__}; "
                "allowed: an Interval, such as ScoredTokens.mean returns, or Interval.point(x)"
            )
    return greatest(found) if metric.larger_is_worse else least(found)


def _seen(
    variant: VariantResult, base: Tensor, scores: Scores, reading: WindowedText, comparisons: int
) -> ScoredTokens:
    ground = reading.positions
    return ScoredTokens(
        base=base.double().numpy(),
        losses=scores.losses.double().numpy(),
        kl=scores.kl.double().numpy(),
        agreement=scores.agreement.double().numpy(),
        windows=ground.windows,
        positions=ground.positions,
        tokens=ground.tokens,
        samples=variant.samples,
        metrics=variant.metrics,
        comparisons=comparisons,
    )
