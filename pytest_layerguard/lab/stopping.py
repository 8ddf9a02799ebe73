"""Stopping a variant as soon as nothing that is still to come could change what the bet says of it.

``exact``: token losses and KL are not negative, so what a variant has lost already bounds what it will have lost
at the end. A variant whose bound is past every bar cannot come back on this text; its metrics are bounds then,
and no sampling error is told of them.

``sequential``: windows are looked at in a drawn order, and after each micro-batch a confidence sequence, valid at
all looks together, says whether a bar is decided: the asymptotic confidence sequence of Waudby-Smith, Arbour,
Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences" (Annals of
Statistics 52, 2024; arXiv 2103.06476), on window means. It is wider than the interval of a fixed sample, which
is the price of looking often.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch

from pytest_layerguard.bet.criteria import Expression, Interval, Row
from pytest_layerguard.bet.interval import Truth
from pytest_layerguard.bet.student import CONFIDENCE
from pytest_layerguard.lab.errors import LabError
from pytest_layerguard.lab.head import Scores, joined
from pytest_layerguard.lab.intervals import FEWEST_WINDOWS, exponential
from pytest_layerguard.lab.sweep import Base, sweep

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from torch import Tensor

    from pytest_layerguard.bet.model import Bet
    from pytest_layerguard.interventions.plan import Plan
    from pytest_layerguard.lab.arms import Arm
    from pytest_layerguard.lab.contracts import Reading
    from pytest_layerguard.lab.subject import Subject
    from pytest_layerguard.lab.windows import Batch

_OVER_VARIANTS: Final = re.compile(r"\b(min|max|mean)\(")
_ORDER_SEED: Final = 0


@dataclass
class Watched:
    """One variant while it is measured.

    Attributes:
        arm: The variant.
        scores: What was scored so far, by plan, one entry for each micro-batch.
        batches: The micro-batches it was scored on.
        metrics: What can be said of it now.
        decided: Whether every criterion says the same of it whatever is still to come.
    """

    arm: Arm
    scores: dict[Plan, list[Scores]] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    metrics: dict[str, Interval] = field(default_factory=dict)
    decided: bool = False

    @property
    def tokens(self) -> int:
        """Tokens it was scored on."""
        return sum(int(batch.scored.sum()) for batch in self.batches)

    def finished(self) -> dict[Plan, Scores]:
        """Its scores by plan, in the order of its micro-batches."""
        return {plan: joined(parts) for plan, parts in self.scores.items()}

    def note(self, of: int, how: str) -> str | None:
        """What a reader must know of its numbers."""
        if self.tokens == of:
            return None
        told = "bounds" if how == "exact" else "intervals that hold at every look"
        return (
            f"stopped after {self.tokens:,} of {of:,} tokens (stop: {how}); its numbers are {told}"
        )


def watch(
    subject: Subject,
    bet: Bet,
    reading: Reading,
    arms: Sequence[Arm],
    known: Sequence[Mapping[str, Interval]],
    comparisons: int,
) -> tuple[Tensor, list[Watched]]:
    """Measures a bet's variants micro-batch by micro-batch, each for as long as it takes.

    Args:
        subject: The model.
        bet: What is asked, and how it may be stopped.
        reading: The windows.
        arms: The variants.
        known: For each variant the metrics that do not come from the text (unique tokens, sizes).
        comparisons: Over how many variants intervals hold together.

    Returns:
        The base's token losses, ``[n]``, and the variants.

    Raises:
        LabError: If the bet's criteria compare variants with one another, so that none is decided alone.
    """
    criteria = [
        each
        for each in (bet.criteria.strict, bet.criteria.lenient, bet.criteria.catastrophic)
        if each
    ]
    _check(bet, criteria)
    exact = bet.measure.stop == "exact"
    variants = [Watched(arm, {plan: [] for plan in arm.plans}) for arm in arms]
    whole = subject.scores(reading, [])[0]
    looks = list(zip(reading.batches, _bases(subject, reading, whole), strict=True))
    if not exact:
        # The beginning of a text does not stand for all of it.
        drawn = torch.randperm(len(looks), generator=torch.Generator().manual_seed(_ORDER_SEED))
        looks = [looks[index] for index in drawn.tolist()]
    bases: list[Tensor] = []
    for batch, base in looks:
        running = [each for each in variants if not each.decided]
        if not running:
            break
        plans = [plan for each in running for plan in each.arm.plans]
        swept = sweep(subject.runner, [batch], subject.base, plans, subject.vocabulary, known=base)
        subject.sweeps += 1
        bases.append(swept.base)
        for plan, scores in zip(plans, swept.variants, strict=True):
            for each in running:
                if plan in each.scores and len(each.scores[plan]) == len(each.batches):
                    each.scores[plan].append(scores)
        for each, told in zip(variants, known, strict=True):
            if each in running:
                each.batches.append(batch)
                each.metrics = {
                    **told,
                    **(
                        _bounds(each, whole, reading.scored)
                        if exact
                        else _sequence(each, torch.cat(bases), comparisons, reading.windows)
                    ),
                }
                each.decided = all(_decided(criterion, each) for criterion in criteria)
    return whole, variants


def _check(bet: Bet, criteria: Iterable[Expression]) -> None:
    if bet.arms is not None or len(bet.measure.named_texts) > 1 or len(bet.model.checkpoints()) > 1:
        raise LabError(
            f"measure.stop: {bet.measure.stop} works on one text, one checkpoint and no arms, where each variant is "
            "judged by itself; leave stop out"
        )
    for criterion in criteria:
        if _OVER_VARIANTS.search(criterion.text):
            raise LabError(
                f"measure.stop: {bet.measure.stop} cannot decide {criterion.text!r} one variant at a time; write it "
                "with any(...) or all(...), or leave stop out"
            )


def _bases(subject: Subject, reading: Reading, losses: Tensor) -> Iterator[Base | None]:
    """The base on each micro-batch, or None where its states were too large to keep."""
    kept = subject.kept_base(reading)
    final = None if kept is None else torch.cat(kept.final)
    start = 0
    for batch in reading.batches:
        end = start + int(batch.scored.sum())
        yield None if final is None else Base(losses[start:end], (final[start:end],))
        start = end


def _bounds(each: Watched, base: Tensor, tokens: int) -> dict[str, Interval]:
    """What the metrics can still become, for losses and KL that only grow."""
    done = [joined(parts) for parts in each.scores.values()]
    rest = tokens - len(done[0].losses)
    loss = max(float(scores.losses.double().sum()) for scores in done) / tokens
    kl = max(float(scores.kl.double().sum()) for scores in done) / tokens
    agreed = min(float(scores.agreement.double().sum()) for scores in done)
    mean = float(base.double().mean())
    open_end = math.inf if rest else None
    bounds = {
        "perplexity": exponential(_from(loss, open_end)),
        "base_perplexity": exponential(Interval.point(mean)),
        "perplexity_ratio": exponential(_from(loss - mean, open_end)),
        "kl": _from(kl, open_end),
        "top1_agreement": Interval(agreed / tokens, agreed / tokens, (agreed + rest) / tokens),
    }
    return bounds | ({"swap_kl": bounds["kl"]} if _is_pair(each) else {})


def _from(low: float, high: float | None) -> Interval:
    return Interval.point(low) if high is None else Interval(low, low, high)


def _sequence(each: Watched, base: Tensor, comparisons: int, expected: int) -> dict[str, Interval]:
    """Intervals that hold at every look together."""
    windows = torch.cat(
        [
            torch.tensor(batch.windows).repeat_interleave(batch.scored.sum(1))
            for batch in each.batches
        ]
    )

    def interval(pick: Tensor) -> Interval:
        return anytime(_window_means(pick, windows), expected, comparisons)

    def worst(intervals: Iterable[Interval], sign: int = 1) -> Interval:
        return max(intervals, key=lambda found: sign * found.value)

    done = [joined(parts) for parts in each.scores.values()]
    told = {
        "perplexity": exponential(worst(interval(scores.losses) for scores in done)),
        "base_perplexity": exponential(interval(base)),
        "perplexity_ratio": exponential(worst(interval(scores.losses - base) for scores in done)),
        "kl": worst(interval(scores.kl) for scores in done),
        "top1_agreement": worst((interval(scores.agreement) for scores in done), -1),
    }
    return told | ({"swap_kl": told["kl"]} if _is_pair(each) else {})


def anytime(means: Tensor, expected: int, comparisons: int = 1) -> Interval:
    """An asymptotic confidence sequence for a mean, at one look.

    With t observations of standard deviation s, the half-width is
    ``s * sqrt(2 (t r^2 + 1) / (t^2 r^2) * log(sqrt(t r^2 + 1) / alpha))`` (Waudby-Smith et al., theorem 2.2),
    narrowest near the sample size that ``r`` is chosen for (their appendix B.2).

    Args:
        means: Window means so far, ``[t]``.
        expected: How many windows there will be; the sequence is narrowest at a half of it.
        comparisons: Over how many sequences the level holds together.

    Returns:
        The mean and its interval, unbounded below eight windows.
    """
    values = means.double()
    count = len(values)
    mean = float(values.mean())
    if count < FEWEST_WINDOWS:
        return Interval(mean, -math.inf, math.inf)
    alpha = (1 - CONFIDENCE) / comparisons
    peak = max(FEWEST_WINDOWS, expected / 2)
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / peak
    scaled = count * rho2 + 1
    half = float(values.std()) * math.sqrt(
        2 * scaled / (count**2 * rho2) * math.log(math.sqrt(scaled) / alpha)
    )
    return Interval(mean, mean - half, mean + half)


def _window_means(values: Tensor, windows: Tensor) -> Tensor:
    _, index = torch.unique(windows, return_inverse=True)
    sums = torch.zeros(int(index.max()) + 1, dtype=torch.float64).index_add_(
        0, index, values.double()
    )
    return sums / torch.bincount(index)


def _is_pair(each: Watched) -> bool:
    return bool({"replace_layers", "interchange_layers"} & set(each.arm.kinds))


def _decided(criterion: Expression, each: Watched) -> bool:
    """Whether a criterion says the same of this variant whatever is still to come."""
    row = Row(each.arm.name, each.arm.target, None, None, None, each.metrics)
    return criterion.evaluate([row]).truth is not Truth.UNDECIDED
