"""Losses of documents of unequal length, variant minus base, whose mean over all words is 0 in the long run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.measurement.metrics.statistics import ratio

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], tuple[Array, Array]]
"""Draws so many documents: the sum of the losses and the number of words of each."""

_WORDS = 300


@dataclass(frozen=True)
class Losses:
    """How the losses of documents differ.

    Attributes:
        effects: Draws what the mean of each document differs by, with an expectation of 0.
        slope: How much the mean rises with the logarithm of the length, per standard deviation of it.
    """

    effects: Callable[[np.random.Generator, int], Array]
    slope: float = 0.0

    def of_lengths(self, spread: float) -> Draw:
        """Draw documents whose lengths are lognormal, with this standard deviation of their logarithms."""

        def draw(random: np.random.Generator, documents: int) -> tuple[Array, Array]:
            length = random.normal(size=documents)
            sizes = _WORDS * np.exp(spread * length)
            # Long documents have more of the words: the mean of `length` over words is `spread`.
            means = self.effects(random, documents) + self.slope * (length - spread)
            return sizes * means + 2 * np.sqrt(sizes) * random.normal(size=documents), sizes

        return draw


def _normal(random: np.random.Generator, documents: int) -> Array:
    return random.normal(0, 0.35, documents)


def _heavy_tailed(random: np.random.Generator, documents: int) -> Array:
    return np.asarray(0.2 * random.standard_t(3, documents))


def _skewed(random: np.random.Generator, documents: int) -> Array:
    """Draw from a gamma distribution with a skewness of 1, as a few documents suffer most."""
    return np.asarray(0.35 * (random.gamma(4, 1, documents) - 4) / 2)


SYNTHETIC: Mapping[str, Losses] = {
    "independent words": Losses(lambda _, documents: np.zeros(documents)),
    "normal": Losses(_normal),
    "heavy-tailed": Losses(_heavy_tailed),
    "skewed": Losses(_skewed),
    "worse with length, correlation 0.27": Losses(_normal, 0.1),
    "worse with length, correlation 0.71": Losses(_normal, 0.35),
}


def resampled(sums: Array, sizes: Array) -> Draw:
    """Measured documents, drawn with replacement, about their own mean."""
    centred = sums - sums.sum() / sizes.sum() * sizes

    def draw(random: np.random.Generator, documents: int) -> tuple[Array, Array]:
        drawn = random.integers(0, len(sizes), documents)
        return centred[drawn], sizes[drawn]

    return draw


def intervals(draw: Draw, documents: int, runs: int, random: np.random.Generator) -> list[Interval]:
    """The intervals of so many measurements of so many documents."""
    return [ratio(*draw(random, documents)).interval() for _ in range(runs)]


def missed(found: list[Interval]) -> tuple[float, float]:
    """How often the truth, 0, lies above an interval, so that a variant at the bar passes, and how often below."""
    above = sum(each.high < 0 for each in found) / len(found)
    return above, sum(each.low > 0 for each in found) / len(found)
