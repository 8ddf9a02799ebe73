"""Build the results of a bet on one text, from token scores and samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.measurement import sanity_checks
from pytest_layerguard.measurement.generation import Samples, fewest_unique
from pytest_layerguard.measurement.metrics import variant_metrics
from pytest_layerguard.measurement.metrics.own_metrics import ScoredTokens, measured
from pytest_layerguard.measurement.metrics.task_metrics import TaskAnswers
from pytest_layerguard.measurement.results import BaseResult, LossProfile, TaskChange, VariantResult

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor

    from pytest_layerguard.bet.bet import Measure
    from pytest_layerguard.bet.criteria.metrics import OwnMetric
    from pytest_layerguard.measurement.metrics.free_text import FreeTexts
    from pytest_layerguard.measurement.metrics.task_perplexity import TaskLikelihoods
    from pytest_layerguard.measurement.planning import PlannedVariant
    from pytest_layerguard.measurement.results import Continuation
    from pytest_layerguard.measurement.session import ModelSession
    from pytest_layerguard.measurement.token_scores import TokenScores
    from pytest_layerguard.models.plan import Plan
    from pytest_layerguard.texts.windowed_text import WindowedText

_PAIRS: Final = frozenset({"replace_layers", "interchange_layers"})


@dataclass(frozen=True, kw_only=True)
class ResultBuilder:
    """Builds the results of a bet on one text and checkpoint.

    Attributes:
        session: The model.
        measure: The bet's ``measure``.
        text_name: The text's name, or None where the bet has but one text.
        text: The text, cut into windows.
        checkpoint: The checkpoint's name, or None where the bet has but one.
        samples: Greedy continuations.
        eye_test: Continuations drawn at a temperature.
        free: Greedy continuations that run free, or None where the bet has none.
        tasks: The answers of every plan to each task.
        losses: The base's token losses, ``[n]``.
        scores: Token scores of each plan.
        comparisons: How many variants the intervals hold for together.
        named: The metrics that the criteria name.
        sizes: The ``size_ratio`` of each plan that stores weights differently.
    """

    session: ModelSession
    measure: Measure
    text_name: str | None
    text: WindowedText
    checkpoint: str | None
    samples: Samples
    eye_test: Samples
    free: FreeTexts | None
    tasks: Mapping[str, TaskAnswers | TaskLikelihoods]
    losses: Tensor
    scores: Mapping[Plan, TokenScores]
    comparisons: int
    named: Collection[str]
    sizes: Mapping[Plan, float]

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
            self.measure,
            self.session.vocabulary,
            self.text.start,
        )
        if self.samples.base:
            metrics["unique_tokens"] = fewest_unique(self.samples.base)
        if self.free is not None:
            metrics |= self.free.base_metrics()
        for name, task in self.tasks.items():
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

    def variants(
        self, variants: Sequence[PlannedVariant], own_metrics: Sequence[OwnMetric]
    ) -> list[VariantResult]:
        """Return the result of each variant, with the metrics of other packages after the built-in ones.

        After an overflow, each metric of another package has the worst value that its definition allows.

        Raises:
            MeasurementError: If a metric's function does not return an interval.
        """
        gaps = self._protocol_gaps(variants)
        return [
            self._variant(index, variant, gaps.get(variant.target), own_metrics)
            for index, variant in enumerate(variants)
        ]

    def _variant(
        self,
        index: int,
        variant: PlannedVariant,
        gap: Interval | None,
        own_metrics: Sequence[OwnMetric],
    ) -> VariantResult:
        scores = [self.scores[plan] for plan in variant.plans]
        note = sanity_checks.overflow(scores)
        if note is None:
            metrics = variant_metrics.variant_metrics(
                self.losses, scores, self.text.positions, self.comparisons
            ) | variant_metrics.requested_metrics(
                self.named, self.losses, scores, self.text.positions, self.comparisons
            )
        else:
            metrics = variant_metrics.overflowed(self.losses, self.text.positions, self.named)
        samples = self.samples.variants[index]
        is_pair = bool(_PAIRS & set(variant.kinds))
        if is_pair:
            metrics["swap_kl"] = metrics["kl"]
        metrics |= self.samples.unique_tokens(index)
        if self.free is not None:
            metrics |= self.free.metrics(index)
        changes: dict[str, TaskChange] = {}
        documents: dict[str, int] = {}
        for name, task in self.tasks.items():
            found = task.metrics(self.session.base, variant.plans, self.comparisons)
            metrics |= {f"{name}.{metric}": value for metric, value in found.items()}
            if isinstance(task, TaskAnswers):
                changes[name] = task.change(self.session.base, variant.plans)
            else:
                documents[name] = len(task.documents)
        if sizes := [self.sizes[plan] for plan in variant.plans if plan in self.sizes]:
            metrics["size_ratio"] = Interval.point(max(sizes))
        if is_pair and gap is not None:
            metrics["protocol_gap"] = gap
        if note is None:
            directions = [self._tokens(each, samples, metrics, len(scores)) for each in scores]
            own = {each.name: measured(each, directions) for each in own_metrics}
        else:
            own = {
                each.name: Interval.point(each.high if each.larger_is_worse else each.low)
                for each in own_metrics
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

    def _protocol_gaps(self, variants: Sequence[PlannedVariant]) -> dict[str, Interval]:
        """Return the protocol gap of each target that has both a replacement and an interchange."""
        replaced = {each.target: each for each in variants if each.kinds == ("replace_layers",)}
        interchanged = {
            each.target: each for each in variants if each.kinds == ("interchange_layers",)
        }
        return {
            target: variant_metrics.gap(
                [self.scores[plan] for plan in replaced[target].plans],
                self.scores[interchanged[target].plans[0]],
                self.text.positions,
                self.comparisons,
            )
            for target in replaced.keys() & interchanged.keys()
        }
