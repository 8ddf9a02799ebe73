"""The laboratory: from a bet and a machine to numbers."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.interventions.plan import Plan
from pytest_layerguard.lab import measurement, soundness, tokens
from pytest_layerguard.lab.anatomy import Anatomy
from pytest_layerguard.lab.arms import Arm, planned
from pytest_layerguard.lab.contracts import Reading, default_window, read, training_windows, wanted
from pytest_layerguard.lab.intervals import FEWEST_WINDOWS
from pytest_layerguard.lab.loading import Loaded, load
from pytest_layerguard.lab.results import BaseResult, BetResult, VariantResult
from pytest_layerguard.lab.runner import Runner
from pytest_layerguard.lab.sweep import Swept, sweep
from pytest_layerguard.lab.talk import Talk, fewest, sampled, spoken
from pytest_layerguard.lab.texts import Texts
from pytest_layerguard.lab.workbench import Workbench

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pytest_layerguard.bet.arguments import Train
    from pytest_layerguard.bet.criteria import Interval
    from pytest_layerguard.bet.model import Bet, Measure, ModelSource
    from pytest_layerguard.bet.reading import BetDocument
    from pytest_layerguard.bet.texts import TextSource
    from pytest_layerguard.interventions.registry import Registry
    from pytest_layerguard.lab.conditions import Conditions
    from pytest_layerguard.lab.head import Scores
    from pytest_layerguard.lab.training import Windows

_MICRO_BATCH: Final = {"cpu": 2048, "cuda": 16384}
"""Tokens that go through a block at a time; fixed for a kind of device, because numbers move with shapes."""


@dataclass(frozen=True)
class Subject:
    """A model that is loaded, with what is needed to run it."""

    loaded: Loaded
    runner: Runner

    @property
    def vocabulary(self) -> int:
        """The number of logits."""
        return int(self.loaded.model.config.get_text_config(decoder=True).vocab_size)

    def reading(self, texts: Texts, text: TextSource, measure: Measure) -> Reading:
        """Reads a text and cuts it into micro-batches by the bet's contract."""
        wording = texts.read(text, self.loaded.tokenizer, wanted(measure))
        return read(wording, measure, self.loaded, self.micro_batch)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return str(self.loaded.tokenizer.decode(list(ids)))

    @property
    def micro_batch(self) -> int:
        """Tokens that go through a block at a time."""
        return _MICRO_BATCH.get(self.runner.device.type, _MICRO_BATCH["cpu"])


class Laboratory:
    """Measures bets, one model in memory at a time.

    Args:
        conditions: Device, allowed roots and the like.
        registry: The kinds of interventions.

    Attributes:
        loads: How many models were loaded so far.
    """

    def __init__(self, conditions: Conditions, registry: Registry) -> None:
        self._conditions = conditions
        self._registry = registry
        self._held: tuple[tuple[Any, ...], Subject] | None = None
        self.loads = 0

    def measure(self, document: BetDocument, *, bets: Path) -> BetResult:
        """Measures a bet: its base and every variant, on every text and checkpoint.

        Args:
            document: The bet, with the file it stands in.
            bets: The bet folder; files are read below the folder that holds it.

        Raises:
            LabError: If no honest measurement can be made; the text is for people.
            UnavailableError: If the machine or the hub lacks what the bet needs.
        """
        started = time.perf_counter()
        texts = Texts(self._conditions, document.path, bets)
        parts = [
            self._at(document, bets, texts, checkpoint, source)
            for checkpoint, source in document.bet.model.checkpoints().items()
        ]
        readings = [reading for part in parts for reading in part.readings]
        return BetResult(
            bases=tuple(base for part in parts for base in part.bases),
            variants=tuple(variant for part in parts for variant in part.variants),
            tokens=readings[0].scored,
            windows=readings[0].windows,
            descriptive=any(reading.windows < FEWEST_WINDOWS for reading in readings),
            provenance={"checkpoints": [part.provenance for part in parts]},
            seconds=time.perf_counter() - started,
        )

    def _at(
        self,
        document: BetDocument,
        bets: Path,
        texts: Texts,
        checkpoint: str | None,
        source: ModelSource,
    ) -> _Part:
        """Measures a bet at one checkpoint of its model."""
        bet = document.bet
        subject = self._take(document, bets, source)
        readings = {
            name: subject.reading(texts, text, bet.measure)
            for name, text in bet.measure.named_texts.items()
        }
        first = next(iter(readings.values()))
        soundness.check_head(subject.runner, first.batches[0])

        def training(arguments: Train) -> Windows:
            return self._training(subject, bet, texts, arguments)

        bench = Workbench(subject.runner, first.batches, subject.vocabulary, training)
        arms = planned(bet, bench, self._registry)
        samples = sampled(subject.runner, subject.loaded, arms, bet.measure.sample)
        eye_test = spoken(subject.runner, subject.loaded, arms, bet.measure.speak)
        before = subject.runner.evaluations
        measured = [
            _judged_text(subject, bet, checkpoint, name, reading, arms, samples, eye_test)
            for name, reading in readings.items()
        ]
        return _Part(
            readings=tuple(readings.values()),
            bases=tuple(base for base, _ in measured),
            variants=tuple(variant for _, variants in measured for variant in variants),
            provenance={
                "checkpoint": checkpoint,
                **subject.loaded.provenance,
                "micro_batch": subject.micro_batch,
                "layer_evaluations": subject.runner.evaluations - before,
                "texts": [
                    {"name": name, **reading.provenance} for name, reading in readings.items()
                ],
            },
        )

    def _take(self, document: BetDocument, bets: Path, source: ModelSource) -> Subject:
        """Returns a model, loaded unless it is the one that is held."""
        spec = document.bet.model
        anchor = document.path.parent if source.kind == "path" else None
        key = (
            source,
            anchor,
            spec.dtype,
            spec.device_map,
            spec.attn_implementation,
            spec.placement,
        )
        if self._held is None or self._held[0] != key:
            self._held = None
            loaded = load(
                spec, source, bet_file=document.path, bets=bets, conditions=self._conditions
            )
            self.loads += 1
            self._held = (key, Subject(loaded, Runner(Anatomy.of(loaded.model))))
        return self._held[1]

    def _training(self, subject: Subject, bet: Bet, texts: Texts, arguments: Train) -> Windows:
        tokenizer = subject.loaded.tokenizer
        window = default_window(bet.measure, subject.loaded)
        most = arguments.steps * arguments.batch
        each = -(-most // len(arguments.text)) * window + 1
        ids = [
            tokens.encode(tokenizer, texts.read(text, tokenizer, each))[:each]
            for text in arguments.text
        ]
        return training_windows(ids, window, tokens.bos_id(tokenizer, bet.measure.bos), most)


@dataclass(frozen=True)
class _Part:
    """What was measured at one checkpoint."""

    readings: tuple[Reading, ...]
    bases: tuple[BaseResult, ...]
    variants: tuple[VariantResult, ...]
    provenance: Mapping[str, Any]


def _judged_text(
    subject: Subject,
    bet: Bet,
    checkpoint: str | None,
    text: str | None,
    reading: Reading,
    arms: Sequence[Arm],
    samples: Talk,
    eye_test: Talk,
) -> tuple[BaseResult, list[VariantResult]]:
    """Scores base and variants on one text."""
    base = Plan.untouched(len(subject.runner.anatomy))
    plans = [plan for arm in arms for plan in arm.plans]
    swept = sweep(subject.runner, reading.batches, base, plans, subject.vocabulary)
    base_metrics = measurement.base_metrics(swept.base, reading.ground)
    soundness.check_base(
        swept.base,
        base_metrics["perplexity"],
        samples.base,
        bet.measure,
        subject.vocabulary,
        _bos_told(reading),
    )
    unique = samples.fewest
    if unique is not None:
        base_metrics["unique_tokens"] = unique
    by_plan = dict(zip(plans, swept.variants, strict=True))
    variants = [
        _variant(subject, reading, swept, by_plan, arm, len(arms), checkpoint, text) for arm in arms
    ]
    told = [
        replace(
            variant,
            metrics={**variant.metrics, **_unique(unique, fewest(samples.variants[index]))},
            samples=samples.variants[index],
            spoken=eye_test.variants[index],
        )
        for index, variant in enumerate(variants)
    ]
    gaps = _gaps(reading, by_plan, arms)
    told = [
        replace(variant, metrics={**variant.metrics, **gaps.get(variant.target, {})})
        if {"replace_layers", "interchange_layers"} & set(arm.kinds)
        else variant
        for variant, arm in zip(told, arms, strict=True)
    ]
    return BaseResult(text, checkpoint, base_metrics, samples.base, eye_test.base), told


def _variant(
    subject: Subject,
    reading: Reading,
    swept: Swept,
    by_plan: Mapping[Plan, Scores],
    arm: Arm,
    comparisons: int,
    checkpoint: str | None,
    text: str | None,
) -> VariantResult:
    directions = [by_plan[plan] for plan in arm.plans]
    notes = [soundness.overflow(by_plan[plan].losses, plan, subject.runner) for plan in arm.plans]
    note = next(filter(None, notes), None)
    if note is None:
        metrics = measurement.variant_metrics(swept.base, directions, reading.ground, comparisons)
        worst = max(directions, key=lambda scores: float(scores.losses.double().mean()))
        profile = measurement.profile(
            swept.base,
            worst,
            reading.ground,
            lambda token: subject.decode([token]),
        )
    else:
        metrics = measurement.overflowed(swept.base, reading.ground)
        profile = None
    if {"replace_layers", "interchange_layers"} & set(arm.kinds):
        metrics["swap_kl"] = metrics["kl"]
    return VariantResult(
        arm.name,
        arm.target,
        arm.arm,
        text,
        checkpoint,
        metrics,
        profile=profile,
        diagnostics=arm.notes,
        note=note,
    )


def _unique(base: Interval | None, variant: Interval | None) -> dict[str, Interval]:
    return {"unique_tokens": variant, "base_unique_tokens": base} if base and variant else {}


def _gaps(
    reading: Reading, by_plan: Mapping[Plan, Scores], arms: Sequence[Arm]
) -> dict[str, dict[str, Interval]]:
    """The protocol gap of each target that has both a replacement and an interchange."""
    replaced = {arm.target: arm for arm in arms if arm.kinds == ("replace_layers",)}
    interchanged = {arm.target: arm for arm in arms if arm.kinds == ("interchange_layers",)}
    both = replaced.keys() & interchanged.keys()
    return {
        target: {
            "protocol_gap": measurement.gap(
                [by_plan[plan] for plan in replaced[target].plans],
                by_plan[interchanged[target].plans[0]],
                reading.ground,
                len(both),
            )
        }
        for target in both
    }


def _bos_told(reading: Reading) -> str:
    bos = reading.provenance["bos"]
    return "windows start without BOS" if bos is None else f"windows start with token {bos}"
