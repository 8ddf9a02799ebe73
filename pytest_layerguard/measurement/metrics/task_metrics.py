"""Judge answers to the questions of a task, paired by question.

Questions are independent of each other, answers to one question by base and variant are not. So the change of
accuracy is estimated from the questions that only one of them answers rightly. The ends of its interval lie where
those of the two shares, of the questions gained and of those lost, put them by the method of variance estimates
recovery, with the correlation of two shares of one sample (Newcombe, "Improved confidence intervals for the difference
between binomial proportions based on paired data", Statistics in Medicine 17, 1998; Zou and Donner, "Construction of
confidence limits about effect measures", Statistics in Medicine 27, 2008). Its coverage is in ``docs/statistics.md``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, Self

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.measurement.metrics.statistics import MOST_MISSED, counted_share
from pytest_layerguard.measurement.results import ChangedAnswer, TaskChange

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


ACCURACY: Final = ("accuracy", "base_accuracy", "accuracy_change", "flips")
"""What a task of right and wrong answers gives."""
_EXAMPLES: Final = 3
"""Questions lost, and as many gained, that a result keeps."""
_LONGEST_QUESTION: Final = 300
_LONGEST_ANSWER: Final = 200

_MOST_MISSED_OF_TWO: Final = 0.035
"""How often an end of either share may miss where questions were lost and gained; the change's then miss in 3 %."""


@dataclass(frozen=True)
class Question:
    """A question as it is shown: its text and the right answer.

    Attributes:
        text: The text.
        right: The right answer.
        chance: The probability that a guess is right; 0 where there is nothing to choose from.
    """

    text: str
    right: str
    chance: float = 0.0


@dataclass(frozen=True)
class Answer:
    """A model's answer.

    Attributes:
        right: Whether it is the right one.
        text: The answer as it is shown.
        evidence: What it was chosen by, such as the log-likelihoods of all choices.
    """

    right: bool
    text: str
    evidence: tuple[Any, ...]


@dataclass(frozen=True)
class TaskAnswers:
    """The answers of several models to the questions of a task.

    Attributes:
        questions: The questions.
        answers: Each model's answers, in the order of the questions, by its plan; by a name where it is not run here.
        provenance: Plain data: what was asked, its digest, and how.
    """

    questions: tuple[Question, ...]
    answers: Mapping[Any, tuple[Answer, ...]]
    provenance: Mapping[str, Any]

    def beside(self, answers: Mapping[Any, tuple[Any, ...]]) -> Self:
        """Return the task with the answers of other models beside these."""
        return replace(self, answers={**self.answers, **answers})

    @property
    def chance(self) -> float:
        """The share of right answers that guesses have."""
        return fmean(each.chance for each in self.questions)

    def base_metrics(self, base: Any) -> dict[str, Interval]:
        """Return the metrics of the untouched model."""
        return {"accuracy": accuracy(self.answers[base])}

    def metrics(
        self, base: Any, directions: Sequence[Any], comparisons: int
    ) -> dict[str, Interval]:
        """Return the metrics of a variant, as the function :func:`metrics` has them."""
        return metrics(self.answers[base], [self.answers[plan] for plan in directions], comparisons)

    def change(self, base: Any, directions: Sequence[Any]) -> TaskChange:
        """Return how a variant's answers differ from the base's."""
        return change(
            self.questions, self.answers[base], [self.answers[plan] for plan in directions]
        )


def accuracy(answers: Sequence[Answer], comparisons: int = 1) -> Interval:
    """Return the share of right answers."""
    return counted_share(sum(each.right for each in answers), len(answers), comparisons)


def metrics(
    base: Sequence[Answer], directions: Sequence[Sequence[Answer]], comparisons: int
) -> dict[str, Interval]:
    """Return the metrics of a variant on a task.

    Args:
        base: The base's answers.
        directions: The variant's, for each of its directed changes; the worse one counts.
        comparisons: How many variants the intervals hold for together.
    """
    worst = least_accurate(directions)
    together = comparisons * len(directions)
    lost, gained = _discordant(base, worst)
    total = len(base)
    if [each.evidence for each in base] == [each.evidence for each in worst]:
        # Nothing changed at all, which is known and not estimated.
        change = flips = Interval.point(0.0)
    else:
        change = paired_change(lost, gained, total, together)
        flips = counted_share(lost + gained, total, together)
    return {
        "accuracy": accuracy(worst, together),
        "base_accuracy": accuracy(base),
        "accuracy_change": change,
        "flips": flips,
    }


def change(
    questions: Sequence[Question], base: Sequence[Answer], directions: Sequence[Sequence[Answer]]
) -> TaskChange:
    """Return how a variant's answers differ from the base's; of directed changes the worse one counts."""
    worst = least_accurate(directions)
    lost, gained = _discordant(base, worst)
    changed = [
        ChangedAnswer(
            _ending(question.text),
            question.right[:_LONGEST_ANSWER],
            before.text[:_LONGEST_ANSWER],
            after.text[:_LONGEST_ANSWER],
            before.right,
        )
        for question, before, after in zip(questions, base, worst, strict=True)
        if before.right != after.right
    ]
    shown = [each for each in changed if each.lost][:_EXAMPLES]
    shown += [each for each in changed if not each.lost][:_EXAMPLES]
    return TaskChange(
        len(base),
        sum(each.right for each in base),
        lost,
        gained,
        mcnemar(lost, gained),
        tuple(each for each in changed if each in shown),
        fmean(each.chance for each in questions),
    )


def guesses(base: Interval, chance: float) -> dict[str, Interval]:
    """Return the metrics of a variant that guesses.

    Args:
        base: The base's accuracy.
        chance: The share of right answers that guesses have.
    """
    return {
        "accuracy": Interval.point(chance),
        "base_accuracy": base,
        "accuracy_change": Interval(chance - base.value, chance - base.high, chance - base.low),
        "flips": Interval.point(base.value * (1 - chance) + (1 - base.value) * chance),
    }


def least_accurate(directions: Sequence[Sequence[Answer]]) -> Sequence[Answer]:
    """Return the answers with the fewest right ones."""
    return min(directions, key=lambda answers: sum(each.right for each in answers))


def paired_change(lost: int, gained: int, total: int, comparisons: int = 1) -> Interval:
    """Return the change of a share, from the questions lost and gained among so many."""
    missed = _MOST_MISSED_OF_TWO if lost and gained else MOST_MISSED
    up, down = (counted_share(count, total, comparisons, missed) for count in (gained, lost))
    value = (gained - lost) / total
    odds = [each.value / (1 - each.value) if each.value < 1 else 0.0 for each in (up, down)]
    correlation = -math.sqrt(odds[0] * odds[1])

    def reach(one: float, other: float) -> float:
        return math.sqrt(one**2 - 2 * correlation * one * other + other**2)

    low = max(-1.0, value - reach(up.value - up.low, down.high - down.value))
    high = min(1.0, value + reach(up.high - up.value, down.value - down.low))
    return Interval(value, low, high)


def mcnemar(lost: int, gained: int) -> float:
    """Return the two-sided p-value of McNemar's exact test: the binomial test of the discordant pairs.

    McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12, 1947.
    """
    from scipy.special import bdtr

    discordant = lost + gained
    return min(1.0, 2 * float(bdtr(min(lost, gained), discordant, 0.5))) if discordant else 1.0


def _discordant(base: Sequence[Answer], variant: Sequence[Answer]) -> tuple[int, int]:
    """Return how many questions were lost and how many gained."""
    pairs = [(before.right, after.right) for before, after in zip(base, variant, strict=True)]
    return pairs.count((True, False)), pairs.count((False, True))


def _ending(text: str) -> str:
    """Return the end of a long question, which is where it asks."""
    return text if len(text) <= _LONGEST_QUESTION else f"\u2026{text[1 - _LONGEST_QUESTION :]}"
