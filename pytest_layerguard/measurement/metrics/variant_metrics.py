"""Compute metrics with intervals from token scores."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from pytest_layerguard.bet.criteria.interval import Interval, greatest, least
from pytest_layerguard.bet.criteria.metrics import METRICS, PERCENTILES
from pytest_layerguard.measurement.metrics.statistics import (
    Mean,
    at_place,
    clustered,
    exponential,
    percentile,
    share,
)
from pytest_layerguard.measurement.results import LossProfile, TokenHarm
from pytest_layerguard.models import stored_size

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from pytest_layerguard.measurement.token_scores import TokenScores
    from pytest_layerguard.models.anatomy import Anatomy
    from pytest_layerguard.models.plan import Plan
    from pytest_layerguard.texts.windows import TokenPositions

_FEWEST_PLACES: Final = 4
_WORST_TOKENS: Final = 20
_TAIL: Final = {
    "p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999, "max": 1.0,
}  # fmt: skip


def base_metrics(
    losses: Tensor, positions: TokenPositions, whole: str | None = None
) -> dict[str, Interval]:
    """Return the base's perplexity, from its token losses ``[n]``.

    Where the whole text is scored, also by word and by byte, as lm-evaluation-harness counts them: pieces
    between runs of white space, and bytes of UTF-8.
    """
    mean = _mean(losses, positions)
    units = {"perplexity": len(losses)}
    if whole is not None:
        units["word_perplexity"] = len(re.split(r"\s+", whole))
        units["byte_perplexity"] = len(whole.encode())
    return {
        name: exponential(mean.times(len(losses) / count).interval())
        for name, count in units.items()
    }


def variant_metrics(
    base: Tensor, directions: Sequence[TokenScores], positions: TokenPositions, comparisons: int
) -> dict[str, Interval]:
    """Return the metrics of a variant.

    Args:
        base: Token losses of the base, ``[n]``.
        directions: Scores of the variant, one for each of its directed changes; the worse one counts.
        positions: The cluster, position and id of each token.
        comparisons: How many variants the intervals hold for together.

    Returns:
        Intervals of ``perplexity``, ``base_perplexity``, ``perplexity_ratio``, ``kl`` and ``top1_agreement``.
    """
    together = comparisons * len(directions)

    def worst(pick: Callable[[TokenScores], Tensor]) -> Interval:
        return greatest(_mean(pick(scores), positions).interval(together) for scores in directions)

    return {
        "perplexity": exponential(worst(lambda scores: scores.losses)),
        "base_perplexity": exponential(_mean(base, positions).interval()),
        "perplexity_ratio": exponential(worst(lambda scores: scores.losses - base)),
        "kl": _not_negative(worst(lambda scores: scores.kl)),
        "top1_agreement": least(_agreement(scores, positions, together) for scores in directions),
    }


def requested_metrics(
    names: Collection[str],
    base: Tensor,
    directions: Sequence[TokenScores],
    positions: TokenPositions,
    comparisons: int,
) -> dict[str, Interval]:
    """Return those metrics of a variant that are measured for criteria that name them.

    Args:
        names: The metrics that the criteria name.
        base: Token losses of the base, ``[n]``.
        directions: Scores of the variant, one for each of its directed changes; the worse one counts.
        positions: The cluster, position and id of each token.
        comparisons: How many variants the intervals hold for together.
    """
    together = comparisons * len(directions)

    def percentile_of(name: str) -> Interval:
        return greatest(
            _kl_percentile(scores.kl, positions, PERCENTILES[name], together)
            for scores in directions
        )

    def change_of_probability() -> Interval:
        return greatest(
            _mean(
                (torch.exp(-scores.losses.double()) - torch.exp(-base.double())) ** 2, positions
            ).root(together)
            for scores in directions
        )

    measured: Mapping[str, Callable[[], Interval]] = {
        "kl_p99": lambda: percentile_of("kl_p99"),
        "kl_p999": lambda: percentile_of("kl_p999"),
        "kl_max": lambda: Interval.point(max(float(scores.kl.max()) for scores in directions)),
        "rms_dp": change_of_probability,
    }
    return {name: measure() for name, measure in measured.items() if name in names}


def overflowed(
    base: Tensor, positions: TokenPositions, names: Collection[str]
) -> dict[str, Interval]:
    """Return the metrics of a variant whose activations overflowed: infinite, and no agreement.

    Of the metrics that the criteria name, those that are measured on request are at their upper bound.
    """
    endless = Interval.point(float("inf"))
    return {
        "perplexity": endless,
        "base_perplexity": exponential(_mean(base, positions).interval()),
        "perplexity_ratio": endless,
        "kl": endless,
        "top1_agreement": Interval.point(0.0),
    } | {
        name: Interval.point(METRICS[name].high)
        for name in METRICS
        if name in names and METRICS[name].needs == "criterion"
    }


def gap(
    replacement: Sequence[TokenScores],
    interchange: TokenScores,
    positions: TokenPositions,
    comparisons: int,
) -> Interval:
    """Return replacement swap-KL minus interchange swap-KL of one pair, paired token by token."""
    together = comparisons * len(replacement)
    return greatest(
        _mean(scores.kl - interchange.kl, positions).interval(together) for scores in replacement
    )


def size_ratios(plans: Iterable[Plan], anatomy: Anatomy, stored_dtype: str) -> dict[Plan, float]:
    """Return the ``size_ratio`` of each plan that stores weights differently.

    Args:
        plans: The plans.
        anatomy: The model, its layers in memory or on disk.
        stored_dtype: The dtype of the model's files, by torch's name.
    """
    item = getattr(torch, stored_dtype).itemsize
    found = {
        plan: stored_size.size_ratio(
            (
                (anatomy.parts[weights.layer], weights.edits)
                for weights in dict.fromkeys(step.weights for step in plan.steps)
            ),
            item,
        )
        for plan in plans
    }
    return {plan: ratio for plan, ratio in found.items() if ratio is not None}


def profile(
    base: Tensor, scores: TokenScores, positions: TokenPositions, decode: Callable[[int], str]
) -> LossProfile:
    """Return the positions and the tokens whose loss grows, from losses ``[n]`` of base and variant."""
    difference = (scores.losses.double() - base.double()).numpy()
    by_position = _means(positions.positions, difference)
    length = int(positions.positions.max()) + 1
    by_token = _means(positions.tokens, difference)
    often = [
        (token, mean, count) for token, (mean, count) in by_token.items() if count >= _FEWEST_PLACES
    ]
    worst = sorted(often, key=lambda each: (-each[1], each[0]))[:_WORST_TOKENS]
    return LossProfile(
        tuple(
            round(by_position[index][0], 4) if index in by_position else None
            for index in range(length)
        ),
        tuple(TokenHarm(decode(token), count, round(mean, 4)) for token, mean, count in worst),
    )


def kl_tail(directions: Sequence[TokenScores]) -> dict[str, float]:
    """Return percentiles and the maximum over tokens of KL(base || variant), in nats, from ``p50`` to ``max``.

    Of several directed changes the greatest counts, as for the metrics ``kl_p99``, ``kl_p999`` and ``kl_max``.
    """
    ordered = [np.sort(scores.kl.double().numpy()) for scores in directions]
    return {
        name: max(at_place(each, share * (len(each) - 1)) for each in ordered)
        for name, share in _TAIL.items()
    }


def _means(
    groups: NDArray[np.int64], values: NDArray[np.float64]
) -> Mapping[int, tuple[float, int]]:
    labels, index = np.unique(groups, return_inverse=True)
    counts = np.bincount(index)
    sums = np.bincount(index, weights=values)
    return {
        int(label): (float(total / count), int(count))
        for label, total, count in zip(labels, sums, counts, strict=True)
    }


def _mean(values: Tensor, positions: TokenPositions) -> Mean:
    return clustered(values.double().numpy(), positions.windows)


def _agreement(scores: TokenScores, positions: TokenPositions, comparisons: int) -> Interval:
    if not bool(scores.kl.any()):
        # Nothing changed: the share is known, not estimated.
        return Interval.point(float(scores.agreement.double().mean()))
    return share(scores.agreement.double().numpy(), positions.windows, comparisons)


def _kl_percentile(
    kl: Tensor, positions: TokenPositions, share: float, comparisons: int
) -> Interval:
    if not bool(kl.any()):
        # Nothing changed at all, which is known and not estimated.
        return Interval.point(0.0)
    return _not_negative(percentile(kl.double().numpy(), positions.windows, share, comparisons))


def _not_negative(interval: Interval) -> Interval:
    return Interval(interval.value, max(0.0, interval.low), interval.high)
