"""How often the intervals of a task hold the truth, summed over all that can come out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

from pytest_layerguard.measurement.metrics.statistics import exact_share
from pytest_layerguard.measurement.metrics.task_metrics import mcnemar, paired_change


class Coverage(NamedTuple):
    """How often the truth is held, and how often it lies below and above an interval."""

    held: float
    below: float
    above: float


def of_change(questions: int, discordant: float, share_lost: float) -> tuple[Coverage, float]:
    """Of the change of accuracy; and how often the interval agrees with McNemar's exact test on 0.

    ``discordant`` is how many questions change on average, and ``share_lost`` the share of them that are lost.
    """
    lost, gained = discordant * share_lost / questions, discordant * (1 - share_lost) / questions
    most = min(questions, round(discordant + 8 * discordant**0.5 + 8))
    outcomes = [(one, other) for one in range(most + 1) for other in range(most + 1 - one)]
    counts = np.array([(one, other, questions - one - other) for one, other in outcomes])
    chances = stats.multinomial.pmf(counts, questions, [lost, gained, 1 - lost - gained])
    found = [paired_change(one, other, questions) for one, other in outcomes]
    agree = [
        (each.low > 0 or each.high < 0) == (mcnemar(*outcome) < 0.05)
        for each, outcome in zip(found, outcomes, strict=True)
    ]
    low, high = np.array([each.low for each in found]), np.array([each.high for each in found])
    return _coverage(low, high, gained - lost, chances), float(chances[agree].sum())


def of_share(questions: int, share: float) -> Coverage:
    """Of an accuracy, or of the share of flips."""
    found = [exact_share(hits, questions) for hits in range(questions + 1)]
    low, high = np.array([each.low for each in found]), np.array([each.high for each in found])
    chances = stats.binom.pmf(np.arange(questions + 1), questions, share)
    return _coverage(low, high, share, chances)


def _coverage(low: np.ndarray, high: np.ndarray, truth: float, chances: np.ndarray) -> Coverage:
    below = float(chances[truth < low - 1e-12].sum())
    above = float(chances[truth > high + 1e-12].sum())
    return Coverage(1 - below - above, below, above)
