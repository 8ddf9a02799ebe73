"""From scores and samples to the results of a bet on one text."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_layerguard.measurement import sanity_checks, variant_metrics
from pytest_layerguard.measurement.results import BaseResult, VariantResult
from pytest_layerguard.measurement.samples import Samples, fewest
from pytest_layerguard.measurement.size_metric import size_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from pytest_layerguard.bet.bet import Measure
    from pytest_layerguard.bet.criteria.interval import Interval
    from pytest_layerguard.measurement.head import Scores
    from pytest_layerguard.measurement.planning import Arm
    from pytest_layerguard.measurement.session import ModelSession
    from pytest_layerguard.models.plan import Plan
    from pytest_layerguard.texts.windowed_text import WindowedText

_PAIRS = frozenset({"replace_layers", "interchange_layers"})


def told_base(
    subject: ModelSession,
    measure: Measure,
    reading: WindowedText,
    losses: Tensor,
    samples: Samples,
    eye_test: Samples,
    text: str | None,
    checkpoint: str | None,
) -> BaseResult:
    """The untouched model on one text.

    Raises:
        MeasurementError: If it is no base to compare anything with.
    """
    metrics = variant_metrics.base_metrics(losses, reading.positions, reading.whole)
    sanity_checks.check_start(
        subject.runner,
        reading.batches[0],
        reading.provenance["bos"],
        subject.loaded.tokenizer.bos_token_id,
        measure,
    )
    sanity_checks.check_base(
        losses, metrics["perplexity"], samples.base, measure, subject.vocabulary, reading.start
    )
    unique = samples.fewest
    if unique is not None:
        metrics["unique_tokens"] = unique
    return BaseResult(text, checkpoint, metrics, samples.base, eye_test.base)


def told_variants(
    subject: ModelSession,
    reading: WindowedText,
    losses: Tensor,
    scores: Mapping[Plan, Scores],
    arms: Sequence[Arm],
    comparisons: int,
    samples: Samples,
    eye_test: Samples,
    text: str | None,
    checkpoint: str | None,
) -> list[VariantResult]:
    """Every variant on one text, in order; the intervals hold together over so many comparisons."""
    gaps = _gaps(reading, scores, arms, comparisons)
    variants: list[VariantResult] = []
    for index, arm in enumerate(arms):
        scored = _scored(subject, reading, losses, scores, arm, comparisons)
        metrics = {**scored.metrics, **_unique(samples.fewest, fewest(samples.variants[index]))}
        metrics |= size_metrics(
            arm.plans, subject.runner.anatomy, subject.loaded.provenance["stored_dtype"]
        )
        if _PAIRS & set(arm.kinds):
            metrics |= gaps.get(arm.target, {})
        variants.append(
            replace(
                scored,
                text=text,
                checkpoint=checkpoint,
                metrics=metrics,
                samples=samples.variants[index],
                spoken=eye_test.variants[index],
            )
        )
    return variants


def _scored(
    subject: ModelSession,
    reading: WindowedText,
    losses: Tensor,
    scores: Mapping[Plan, Scores],
    arm: Arm,
    comparisons: int,
) -> VariantResult:
    directions = [scores[plan] for plan in arm.plans]
    notes = [
        sanity_checks.overflow(scores[plan].losses, plan, subject.runner) for plan in arm.plans
    ]
    note = next(filter(None, notes), None)
    profile = None
    if note is None:
        metrics = variant_metrics.variant_metrics(
            losses, directions, reading.positions, comparisons
        )
        worst = max(directions, key=lambda each: float(each.losses.double().mean()))
        profile = variant_metrics.profile(
            losses, worst, reading.positions, lambda token: subject.decode([token])
        )
    else:
        metrics = variant_metrics.overflowed(losses, reading.positions)
    if _PAIRS & set(arm.kinds):
        metrics["swap_kl"] = metrics["kl"]
    return VariantResult(
        arm.name,
        arm.target,
        arm.arm,
        None,
        None,
        metrics,
        profile=profile,
        diagnostics=arm.notes,
        note=note,
    )


def _unique(base: Interval | None, variant: Interval | None) -> dict[str, Interval]:
    return {"unique_tokens": variant, "base_unique_tokens": base} if base and variant else {}


def _gaps(
    reading: WindowedText, scores: Mapping[Plan, Scores], arms: Sequence[Arm], comparisons: int
) -> dict[str, dict[str, Interval]]:
    """The protocol gap of each target that has both a replacement and an interchange."""
    replaced = {arm.target: arm for arm in arms if arm.kinds == ("replace_layers",)}
    interchanged = {arm.target: arm for arm in arms if arm.kinds == ("interchange_layers",)}
    both = replaced.keys() & interchanged.keys()
    return {
        target: {
            "protocol_gap": variant_metrics.gap(
                [scores[plan] for plan in replaced[target].plans],
                scores[interchanged[target].plans[0]],
                reading.positions,
                comparisons,
            )
        }
        for target in both
    }
