"""The laboratory: from a bet and a machine to numbers."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_layerguard.environment import devices
from pytest_layerguard.environment.deadline import within
from pytest_layerguard.environment.device_lock import DeviceLock
from pytest_layerguard.environment.library_output import panics_as_errors
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.environment.progress_listener import progress_to
from pytest_layerguard.measurement.out_of_memory import fitted
from pytest_layerguard.measurement.own_metrics import with_own_metrics
from pytest_layerguard.measurement.planning import Arm, planned
from pytest_layerguard.measurement.result_building import told_base, told_variants
from pytest_layerguard.measurement.results import BaseResult, BetResult, VariantResult
from pytest_layerguard.measurement.samples import sampled, spoken
from pytest_layerguard.measurement.session import ModelSession
from pytest_layerguard.measurement.statistics import FEWEST_WINDOWS
from pytest_layerguard.measurement.sweep import evaluations
from pytest_layerguard.measurement.workbench import Workbench
from pytest_layerguard.models.loading import load
from pytest_layerguard.texts.sources import Texts
from pytest_layerguard.texts.windowed_text import WindowedText, contract_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from pytest_layerguard.bet.bet import Bet, ModelSource
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.environment.conditions import Conditions
    from pytest_layerguard.interventions.registry import Registry
    from pytest_layerguard.models.plan import Plan


@dataclass(frozen=True)
class _Expected:
    """A bet that will be measured in this process, with its bet folder."""

    document: BetDocument
    bets: Path


@dataclass(frozen=True)
class _Part:
    """What was measured at one checkpoint."""

    readings: tuple[WindowedText, ...]
    bases: tuple[BaseResult, ...]
    variants: tuple[VariantResult, ...]
    provenance: Mapping[str, Any]


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
        self._expected: list[_Expected] = []
        self._knows_the_end = False
        self._held: tuple[tuple[Any, ...], ModelSession] | None = None
        self._lease = DeviceLock(conditions)
        self.loads = 0

    @property
    def subject(self) -> ModelSession | None:
        """The model in memory, or None."""
        return None if self._held is None else self._held[1]

    def expect(self, documents: Iterable[tuple[BetDocument, Path]]) -> None:
        """Says which bets will be measured, so that those of one model and text share a sweep.

        Sharing changes no number: every plan is run at the same shapes, alone or not.
        """
        self._expected = [_Expected(document, bets) for document, bets in documents]
        self._knows_the_end = True

    def measure(self, document: BetDocument, *, bets: Path) -> BetResult:
        """Measures a bet: its base and every variant, on every text and checkpoint.

        Args:
            document: The bet, with the file it stands in.
            bets: The bet folder; files are read below the folder that holds it.

        Raises:
            MeasurementError: If no honest measurement can be made; the text is for people.
            UnavailableError: If the machine or the hub lacks what the bet needs.
        """
        started = time.perf_counter()
        self._expected = [each for each in self._expected if each.document is not document]
        self._conditions.budget.check_bet(document.bet)
        devices.require(document.bet.needs, self._conditions)
        try:
            with (
                panics_as_errors(),
                progress_to(self._conditions.counting),
                within(self._conditions.timeout),
            ):
                parts = [
                    self._at(document, bets, checkpoint, source)
                    for checkpoint, source in document.bet.model.checkpoints().items()
                ]
        finally:
            self._release()
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
        self, document: BetDocument, bets: Path, checkpoint: str | None, source: ModelSource
    ) -> _Part:
        """Measures a bet at one checkpoint of its model, as much at a time as memory allows."""
        subject = self._take(document, bets, source)
        return fitted(
            subject,
            lambda: self._with(subject, document, bets, checkpoint, source),
            self._conditions.progress,
        )

    def _with(
        self,
        subject: ModelSession,
        document: BetDocument,
        bets: Path,
        checkpoint: str | None,
        source: ModelSource,
    ) -> _Part:
        """Measures a bet with a model that is loaded."""
        bet = document.bet
        texts = Texts(self._conditions, document.path, bets)
        readings = {
            name: subject.reading(texts, text, bet.measure)
            for name, text in bet.measure.named_texts.items()
        }
        arms = self._arms(bet, subject, texts, next(iter(readings.values())))
        own = self._registry.own_metrics(bet.criteria)
        samples = sampled(subject.runner, subject.loaded, arms, bet.measure.sample)
        eye_test = spoken(subject.runner, subject.loaded, arms, bet.measure.speak)
        plans = [plan for arm in arms for plan in arm.plans]
        also = self._companions(document, subject, source)
        # A criterion may range over all of them, so their intervals hold together.
        comparisons = len(arms) * len(readings) * len(bet.model.checkpoints())
        bases: list[BaseResult] = []
        variants: list[VariantResult] = []
        for name, reading in readings.items():
            place = (samples, eye_test, name, checkpoint)
            losses, scores = subject.scores(reading, plans, also)
            told = told_variants(subject, reading, losses, scores, arms, comparisons, *place)
            told = with_own_metrics(own, told, arms, losses, scores, reading, comparisons)
            bases.append(told_base(subject, bet.measure, reading, losses, *place))
            variants += told
        alone = evaluations([subject.base, *plans])
        return _Part(
            readings=tuple(readings.values()),
            bases=tuple(bases),
            variants=tuple(variants),
            provenance={
                "checkpoint": checkpoint,
                **subject.loaded.provenance,
                "micro_batch": subject.micro_batch,
                "layer_evaluations": alone * sum(len(each.batches) for each in readings.values()),
                "texts": [
                    {"name": name, **reading.provenance} for name, reading in readings.items()
                ],
            },
        )

    def _arms(
        self, bet: Bet, subject: ModelSession, texts: Texts, reading: WindowedText
    ) -> list[Arm]:
        """Plans a bet's variants; choices that rest on a text are made on its first."""
        bench = Workbench(
            subject.runner,
            reading.batches,
            subject.vocabulary,
            lambda arguments: subject.training(texts, bet.measure, arguments),
        )
        return planned(bet, bench, self._registry, self._conditions.budget)

    def _companions(
        self, document: BetDocument, subject: ModelSession, source: ModelSource
    ) -> list[Plan]:
        """Plans of bets still to come that can be run in the same sweep as this one."""
        wanted = (self._key(document, source), contract_key(document.bet.measure, document.path))
        plans: list[Plan] = []
        for each in self._expected:
            bet = each.document.bet
            same = any(
                (self._key(each.document, other), contract_key(bet.measure, each.document.path))
                == wanted
                for other in bet.model.checkpoints().values()
            )
            if not same or not self._light(bet):
                continue
            try:
                texts = Texts(self._conditions, each.document.path, each.bets)
                first = next(iter(bet.measure.named_texts.values()))
                arms = self._arms(bet, subject, texts, subject.reading(texts, first, bet.measure))
            except MeasurementError:
                # BetReport when that bet itself is measured.
                continue
            plans += [plan for arm in arms for plan in arm.plans]
        return plans

    def _light(self, bet: Bet) -> bool:
        """Whether a bet's variants can be planned without running the model."""
        return all(
            self._registry[each.kind].light
            for interventions in bet.arm_interventions.values()
            for each in interventions
        )

    def _key(self, document: BetDocument, source: ModelSource) -> tuple[Any, ...]:
        """What makes two checkpoints of two bets the same model in memory."""
        spec = document.bet.model
        anchor = document.path.parent if source.kind == "path" else None
        how = (spec.dtype, spec.device_map, spec.attn_implementation, spec.placement)
        return (source, anchor, *how)

    def _take(self, document: BetDocument, bets: Path, source: ModelSource) -> ModelSession:
        """Returns a model, loaded unless it is the one that is held."""
        key = self._key(document, source)
        if self._held is None or self._held[0] != key:
            self._let_go()
            self._lease.take(devices.taken(document.bet.model, self._conditions))
            loaded = load(
                document.bet.model,
                source,
                bet_file=document.path,
                bets=bets,
                conditions=self._conditions,
            )
            self.loads += 1
            self._held = (key, ModelSession(loaded))
        return self._held[1]

    def _release(self) -> None:
        """Lets go of the model that is held if no bet to come wants it, where it is known what is to come."""
        wanted: Sequence[tuple[Any, ...]] = [
            self._key(each.document, source)
            for each in self._expected
            for source in each.document.bet.model.checkpoints().values()
        ]
        if self._knows_the_end and (self._held is None or self._held[0] not in wanted):
            self._let_go()

    def _let_go(self) -> None:
        """Takes the model out of memory, and lets others have its device."""
        self._held = None
        devices.vacate()
        self._lease.end()
