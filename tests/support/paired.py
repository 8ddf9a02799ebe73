"""How often the intervals of a task hold the truth, summed over all that can come out."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pytest_layerguard.measurement.metrics.statistics import counted_share
from pytest_layerguard.measurement.metrics.task_metrics import paired_change

Array = NDArray[np.float64]


class Coverage(NamedTuple):
    """How often the truth is held, and how often it lies below and above an interval."""

    held: float
    below: float
    above: float


def of_change(
    questions: int, discordant: float, share_lost: float, comparisons: int = 1
) -> Coverage:
    """Of the change of accuracy.

    ``discordant`` is how many questions change on average, and ``share_lost`` the share of them that are lost.
    """
    lost, gained = discordant * share_lost / questions, discordant * (1 - share_lost) / questions
    counts, low, high = _changes(
        questions, min(questions, round(discordant + 8 * discordant**0.5 + 8)), comparisons
    )
    chances = stats.multinomial.pmf(counts, questions, [lost, gained, 1 - lost - gained])
    return _coverage(low, high, gained - lost, chances)


def of_share(questions: int, share: float, comparisons: int = 1) -> Coverage:
    """Of an accuracy, or of the share of flips."""
    low, high = _shares(questions, comparisons)
    chances = stats.binom.pmf(np.arange(questions + 1), questions, share)
    return _coverage(low, high, share, chances)


@cache
def _changes(questions: int, most: int, comparisons: int) -> tuple[NDArray[np.int64], Array, Array]:
    """The counts of lost, gained and other questions with up to so many changed, and the ends of their intervals."""
    outcomes = [(lost, gained) for lost in range(most + 1) for gained in range(most + 1 - lost)]
    found = [paired_change(*outcome, questions, comparisons) for outcome in outcomes]
    counts = np.array([(lost, gained, questions - lost - gained) for lost, gained in outcomes])
    return counts, np.array([each.low for each in found]), np.array([each.high for each in found])


@cache
def _shares(questions: int, comparisons: int) -> tuple[Array, Array]:
    found = [counted_share(hits, questions, comparisons) for hits in range(questions + 1)]
    return np.array([each.low for each in found]), np.array([each.high for each in found])


def _coverage(low: Array, high: Array, truth: float, chances: Array) -> Coverage:
    below = float(chances[truth < low - 1e-12].sum())
    above = float(chances[truth > high + 1e-12].sum())
    return Coverage(1 - below - above, below, above)
