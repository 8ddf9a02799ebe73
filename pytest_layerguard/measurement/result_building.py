"""Build the results of a bet on one text, from token scores and samples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.measurement import sanity_checks
from pytest_layerguard.measurement.generation import Samples, fewest_unique
from pytest_layerguard.measurement.metrics import variant_metrics
from pytest_layerguard.measurement.metrics.free_text import FreeTexts
from pytest_layerguard.measurement.metrics.own_metrics import ScoredTokens, measured
from pytest_layerguard.measurement.metrics.task_metrics import TaskAnswers
from pytest_layerguard.measurement.results import BaseResult, LossProfile, TaskChange, VariantResult

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pytest_layerguard.bet.bet import Bet
    from pytest_layerguard.bet.criteria.metrics import OwnMetric
    from pytest_layerguard.measurement.model_outputs import ModelOutputs
    from pytest_layerguard.measurement.planning import PlannedVariant
    from pytest_layerguard.measurement.results import Continuation
    from pytest_layerguard.measurement.session import ModelSession
    from pytest_layerguard.measurement.token_scores import TokenScores
    from pytest_layerguard.models.plan import Plan
    from pytest_layerguard.texts.windowed_text import WindowedText
    from pytest_layerguard.texts.windows import TokenPositions

_PAIRS: Final = frozenset({"replace_layers", "interchange_layers"})


@dataclass(frozen=True, kw_only=True)
class ResultBuilder:
    """Builds the results of a bet on one text and checkpoint.

    Attributes:
        session: The model.
        bet: The bet.
        variants: Its variants.
        outputs: The texts and answers of every plan.
        own_metrics: The metrics of other packages that the criteria name.
        sizes: The ``size_ratio`` of each plan that stores weights differently.
        checkpoint: The checkpoint's name, or None where the bet has but one.
        text_name: The text's name, or None where the bet has but one text.
        text: The text, cut into windows.
        losses: The base's token losses, ``[n]``.
        scores: Token scores of each plan.
        comparisons: How many variants the intervals hold for together.
    """

    session: ModelSession
    bet: Bet
    variants: Sequence[PlannedVariant]
    outputs: ModelOutputs
    own_metrics: Sequence[OwnMetric]
    sizes: Mapping[Plan, float]
    checkpoint: str | None
    text_name: str | None
    text: WindowedText
    losses: Tensor
    scores: Mapping[Plan, TokenScores]
    comparisons: int

    @cached_property
    def samples(self) -> Samples:
        """Greedy continuations."""
        return Samples.of(self.outputs.samples, self.session.base, self.variants)

    @cached_property
    def eye_test(self) -> Samples:
        """Continuations drawn at a temperature."""
        return Samples.of(self.outputs.eye_test, self.session.base, self.variants)

    @cached_property
    def free(self) -> FreeTexts | None:
        """Greedy continuations that run free, or None where the bet has none."""
        spec = self.bet.measure.generate
        return FreeTexts.of(self.outputs.free, self.session.base, self.variants, spec)

    def base(self) -> BaseResult:
        """Return the result of the untouched model.

        Raises:
            MeasurementError: If the base is unsound, so that nothing can be compared with it.
        """
        metrics = variant_metrics.base_metrics(self.losses, self.text.positions, self.text.whole)
        sanity_checks.check_base(
            self.losses,
            metrics["perplexity"],
            self.samples.base,
            self.bet.measure,
            self.session.vocabulary,
            self.text.start,
        )
        if self.samples.base:
            metrics["unique_tokens"] = fewest_unique(self.samples.base)
        if self.free is not None:
            metrics |= self.free.base_metrics()
        for name, task in self.outputs.answers.items():
            of_base = task.base_metrics(self.session.base)
            metrics |= {f"{name}.{metric}": value for metric, value in of_base.items()}
        return BaseResult(
            self.text_name,
            self.checkpoint,
            metrics,
            self.samples.base,
            self.eye_test.base,
            self.free.shown(self.session.decode) if self.free is not None else (),
        )

    def all_variants(self) -> list[VariantResult]:
        """Return the result of each variant, with the metrics of other packages after the built-in ones.

        After an overflow, each metric of another package has the worst value that its definition allows.

        Raises:
            MeasurementError: If a metric's function does not return an interval.
        """
        gaps = protocol_gaps(self.variants, self.scores, self.text.positions, self.comparisons)
        return [
            self._variant(index, variant, gaps.get(index))
            for index, variant in enumerate(self.variants)
        ]

    def _variant(self, index: int, variant: PlannedVariant, gap: Interval | None) -> VariantResult:
        scores = [self.scores[plan] for plan in variant.plans]
        named = self.bet.criteria.metrics
        note = sanity_checks.overflow(scores)
        if note is None:
            metrics = variant_metrics.variant_metrics(
                self.losses, scores, self.text.positions, self.comparisons
            ) | variant_metrics.requested_metrics(
                named, self.losses, scores, self.text.positions, self.comparisons
            )
        else:
            metrics = variant_metrics.overflowed(self.losses, self.text.positions, named)
        samples = self.samples.variants[index]
        if _PAIRS & set(variant.kinds):
            metrics["swap_kl"] = metrics["kl"]
        metrics |= self.samples.unique_tokens(index)
        if self.free is not None:
            metrics |= self.free.metrics(index)
        changes: dict[str, TaskChange] = {}
        documents: dict[str, int] = {}
        for name, task in self.outputs.answers.items():
            found = task.metrics(self.session.base, variant.plans, self.comparisons)
            metrics |= {f"{name}.{metric}": value for metric, value in found.items()}
            if isinstance(task, TaskAnswers):
                changes[name] = task.change(self.session.base, variant.plans)
            else:
                documents[name] = len(task.documents)
        if sizes := [self.sizes[plan] for plan in variant.plans if plan in self.sizes]:
            metrics["size_ratio"] = Interval.point(max(sizes))
        if gap is not None:
            metrics["protocol_gap"] = gap
        if note is None:
            directions = [self._tokens(each, samples, metrics, len(scores)) for each in scores]
            own = {each.name: measured(each, directions) for each in self.own_metrics}
        else:
            own = {
                each.name: Interval.point(each.high if each.larger_is_worse else each.low)
                for each in self.own_metrics
            }
        return VariantResult(
            variant.name,
            variant.target,
            variant.arm,
            self.text_name,
            self.checkpoint,
            metrics | own,
            samples,
            self.eye_test.variants[index],
            self._profile(scores) if note is None else None,
            changes,
            variant.notes,
            note,
            self.free.shown(self.session.decode, index) if self.free is not None else (),
            variant_metrics.kl_tail(scores) if note is None else {},
            documents,
        )

    def _tokens(
        self,
        scores: TokenScores,
        samples: tuple[Continuation, ...],
        metrics: Mapping[str, Interval],
        directions: int,
    ) -> ScoredTokens:
        positions = self.text.positions
        return ScoredTokens(
            base=self.losses.double().numpy(),
            losses=scores.losses.double().numpy(),
            kl=scores.kl.double().numpy(),
            agreement=scores.agreement.double().numpy(),
            windows=positions.windows,
            positions=positions.positions,
            tokens=positions.tokens,
            samples=samples,
            metrics=metrics,
            comparisons=self.comparisons * directions,
        )

    def _profile(self, scores: Sequence[TokenScores]) -> LossProfile:
        worst = max(scores, key=lambda each: float(each.losses.double().mean()))
        return variant_metrics.profile(
            self.losses, worst, self.text.positions, lambda token: self.session.decode([token])
        )


def protocol_gaps(
    variants: Sequence[PlannedVariant],
    scores: Mapping[Plan, TokenScores],
    positions: TokenPositions,
    comparisons: int,
) -> dict[int, Interval]:
    """Return the protocol gap of each pair that has both a replacement and an interchange, and nothing else done.

    It is infinite where the replacement overflowed, and minus infinity where the interchange alone did.

    Args:
        variants: The variants of a bet.
        scores: Token scores of each plan.
        positions: The cluster of each token.
        comparisons: How many variants the intervals hold for together.

    Returns:
        The gap by the place of each of the two among ``variants``.
    """
    replaced, interchanged = (
        {each.target: place for place, each in enumerate(variants) if each.kinds == (kind,)}
        for kind in ("replace_layers", "interchange_layers")
    )
    gaps: dict[int, Interval] = {}
    for target in replaced.keys() & interchanged.keys():
        places = replaced[target], interchanged[target]
        before, after = ([scores[plan] for plan in variants[place].plans] for place in places)
        if sanity_checks.overflow(before) is not None:
            found = Interval.point(math.inf)
        elif sanity_checks.overflow(after) is not None:
            found = Interval.point(-math.inf)
        else:
            found = variant_metrics.gap(before, after[0], positions, comparisons)
        gaps |= dict.fromkeys(places, found)
    return gaps
