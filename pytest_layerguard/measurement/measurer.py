"""Measure a bet on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from pytest_layerguard.environment import devices
from pytest_layerguard.environment.captured_output import panics_as_errors
from pytest_layerguard.environment.deadline import within
from pytest_layerguard.environment.device_lock import DeviceLock
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.environment.progress_listener import progress_to
from pytest_layerguard.measurement import sanity_checks
from pytest_layerguard.measurement.candidates import CandidateBench
from pytest_layerguard.measurement.failures import failing, naming
from pytest_layerguard.measurement.metrics.statistics import FEWEST_WINDOWS
from pytest_layerguard.measurement.metrics.variant_metrics import size_ratios
from pytest_layerguard.measurement.model_outputs import ModelOutputs
from pytest_layerguard.measurement.planning import PlannedVariant, Workbench, planned
from pytest_layerguard.measurement.result_building import ResultBuilder
from pytest_layerguard.measurement.results import BaseResult, BetResult, VariantResult
from pytest_layerguard.measurement.session import ModelSession
from pytest_layerguard.measurement.tasks.asked_model import AskedModel
from pytest_layerguard.measurement.tasks.bet_tasks import BetTasks, check_base
from pytest_layerguard.measurement.tasks.results_elsewhere import judge_results
from pytest_layerguard.measurement.variant_export import Exported, chosen, full_name, write_variant
from pytest_layerguard.models.loading import load
from pytest_layerguard.models.plan import evaluations
from pytest_layerguard.texts.sources import Texts
from pytest_layerguard.texts.windowed_text import WindowedText, contract_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from pytest_layerguard.bet.bet import Bet, Measure
    from pytest_layerguard.bet.model_source import ModelSource
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.bet.text_sources import TextSource
    from pytest_layerguard.environment.conditions import Conditions
    from pytest_layerguard.interventions.registry import Registry
    from pytest_layerguard.measurement.token_scores import TokenScores
    from pytest_layerguard.models.loading import LoadedModel
    from pytest_layerguard.models.plan import Plan
    from pytest_layerguard.texts.windows import Batch


class Measurer(Protocol):
    """Measures bets: in this process, from a cache, on a cluster, or in a package that brings its own."""

    def expect(self, documents: Iterable[tuple[BetDocument, Path]]) -> None:
        """Announce the bets, each with its bet folder, that this process will measure."""

    def measure(self, document: BetDocument, *, bets: Path) -> BetResult:
        """Measure a bet of the bet folder ``bets``.

        Raises:
            MeasurementError: If no honest measurement can be made; the text is for people.
            UnavailableError: If the machine or the hub lacks what the bet needs.
        """


@dataclass(frozen=True)
class _CheckpointResult:
    """What was measured at one checkpoint."""

    texts: tuple[WindowedText, ...]
    bases: tuple[BaseResult, ...]
    variants: tuple[VariantResult, ...]
    provenance: Mapping[str, Any]


class LocalMeasurer:
    """Measures bets in this process, one model in memory at a time.

    Args:
        conditions: Device, allowed roots and the like.
        registry: The kinds of interventions.

    Attributes:
        loads: How many models were loaded so far.
    """

    def __init__(self, conditions: Conditions, registry: Registry) -> None:
        self._conditions = conditions
        self._registry = registry
        self._expected: list[tuple[BetDocument, Path]] = []
        self._held: tuple[tuple[Any, ...], ModelSession] | None = None
        self._lock = DeviceLock(conditions)
        self.loads = 0

    def expect(self, documents: Iterable[tuple[BetDocument, Path]]) -> None:
        """Announce the bets that this process will measure; bets on one model and text share a sweep.

        Sharing changes no number: every plan is run at the same shapes, alone or not.
        """
        # What was measured elsewhere needs no model.
        self._expected = [each for each in documents if each[0].bet.results is None]

    def measure(self, document: BetDocument, *, bets: Path) -> BetResult:
        """Measure a bet: its base and every variant, on every text and checkpoint.

        Args:
            document: The bet, with its file.
            bets: The bet folder; files are read below the folder that holds it.

        Raises:
            MeasurementError: If no honest measurement can be made; the text is for people.
            UnavailableError: If the machine or the hub lacks what the bet needs.
        """
        started = time.perf_counter()
        others = [each for each in self._expected if each[0] is not document]
        announced = len(others) < len(self._expected)
        self._expected = others
        try:
            result = self._measured(document, bets)
        finally:
            # What was not announced may come again.
            if announced:
                self._release_unless_expected()
        return replace(result, seconds=time.perf_counter() - started)

    def _measured(self, document: BetDocument, bets: Path) -> BetResult:
        self._conditions.budget.check_bet(document.bet)
        if document.bet.results is not None:
            return judge_results(document, bets, self._conditions)
        devices.require(document.bet.needs, self._conditions)
        checkpoints: list[_CheckpointResult] = []
        with (
            panics_as_errors(),
            progress_to(self._conditions.counting),
            within(self._conditions.timeout),
        ):
            for name, source in document.bet.model.checkpoints().items():
                session = self._session(document, bets, source)
                work = partial(self._measure_checkpoint, session, document, bets, name, source)
                checkpoints.append(session.within_memory(work, self._conditions.progress))
        texts = [text for each in checkpoints for text in each.texts]
        return BetResult(
            bases=tuple(base for each in checkpoints for base in each.bases),
            variants=tuple(variant for each in checkpoints for variant in each.variants),
            tokens=texts[0].scored,
            windows=texts[0].windows,
            descriptive=any(text.windows < FEWEST_WINDOWS for text in texts),
            provenance={"checkpoints": [each.provenance for each in checkpoints]},
        )

    def export(
        self,
        document: BetDocument,
        *,
        bets: Path,
        variant: str | None,
        folder: Path,
        readme: Callable[[Exported], str],
    ) -> str:
        """Write a variant of a bet as a checkpoint.

        Args:
            document: The bet, with its file.
            bets: The bet folder.
            variant: The variant's name, or None for the only one.
            folder: The folder to write, which must not exist.
            readme: Returns the text of its README.md.

        Returns:
            The variant's name, after its arm where there are several.

        Raises:
            MeasurementError: If there is no such variant, or it cannot be written.
            UnavailableError: If the base cannot be had here.
        """
        bet = document.bet
        if bet.results is not None:
            raise MeasurementError("load_results was measured elsewhere; it has no model to write")
        sources = list(bet.model.checkpoints().values())
        if len(sources) > 1:
            raise MeasurementError("the bet has several checkpoints; a bet of one can be exported")
        with panics_as_errors():
            session = self._session(document, bets, sources[0])
            texts = Texts(self._conditions, document.path, bets)
            first = session.windows(
                texts, next(iter(bet.measure.named_texts.values())), bet.measure
            )
            found = chosen(self._plan(bet, session, texts, first), variant)
            name = full_name(found)
            text = readme(Exported(name, dict(session.loaded.provenance)))
            write_variant(session, found, folder, first.batches[0].input_ids[:1, :32], text)
        return name

    def _measure_checkpoint(
        self,
        session: ModelSession,
        document: BetDocument,
        bets: Path,
        checkpoint: str | None,
        source: ModelSource,
    ) -> _CheckpointResult:
        """Read the texts, plan the variants, run them, and build the results."""
        bet = document.bet
        if session.spent:
            session.revive(self._load(document, bets, source))
        reader = Texts(self._conditions, document.path, bets)
        texts = {
            name: session.windows(reader, text, bet.measure)
            for name, text in bet.measure.named_texts.items()
        }
        variants = self._plan(bet, session, reader, next(iter(texts.values())))
        every = [plan for variant in variants for plan in variant.plans]
        plans = [plan for plan in every if plan.candidate is None]
        tasks = BetTasks.of(bet, session.loaded.tokenizer, document.path, bets, self._conditions)
        with naming(_plans_by_name(variants)):
            asked = AskedModel(
                runner=session.runner,
                loaded=session.loaded,
                variants=tuple(plans),
                micro_batch=session.micro_batch,
            )
            outputs = ModelOutputs.of(asked, bet.measure, tasks)
            for task, answers in outputs.answers.items():
                check_base(bet, task, answers, session.base)
            later = self._plans_of_later_bets(document, session, source)
            scored = {
                name: session.scores(text, plans, later, keep=len(plans) < len(every))
                for name, text in texts.items()
            }
            # What needs the base's layers comes before a candidate takes their place in memory.
            _check_with_layers(session, texts.values(), scored.values(), bet.measure)
            sizes = size_ratios(
                plans, session.runner.anatomy, session.loaded.provenance["stored_dtype"]
            )
            found = CandidateBench(
                session=session,
                document=document,
                bets=bets,
                source=source,
                conditions=self._conditions,
                texts=texts,
                read=reader,
                tasks=tasks,
            ).measure(variants)
            candidates = {
                plan: found[plan.candidate] for plan in every if plan.candidate is not None
            }
            outputs = outputs.beside({plan: each.outputs for plan, each in candidates.items()})
            sizes |= {
                plan: each.size_ratio
                for plan, each in candidates.items()
                if each.size_ratio is not None
            }
            builders = [
                ResultBuilder(
                    session=session,
                    bet=bet,
                    variants=variants,
                    outputs=outputs,
                    own_metrics=self._registry.own_metrics(bet.criteria),
                    sizes=sizes,
                    checkpoint=checkpoint,
                    text_name=name,
                    text=text,
                    losses=scored[name][0],
                    scores={
                        **scored[name][1],
                        **{plan: each.scores[name] for plan, each in candidates.items()},
                    },
                    # A criterion may range over all of them, so their intervals hold together.
                    comparisons=len(variants) * len(texts) * len(bet.model.checkpoints()),
                )
                for name, text in texts.items()
            ]
            results = [(builder.base(), builder.all_variants()) for builder in builders]
        evaluated = evaluations([session.base, *plans])
        where_there_are_any = {
            "tasks": [{"name": name, **each.provenance} for name, each in outputs.answers.items()],
            "candidates": [
                {"arm": variant.arm, "variant": variant.name, **candidates[plan].provenance}
                for variant in variants
                for plan in variant.plans
                if plan in candidates
            ],
            "training": _training_files(bet, reader),
        }
        return _CheckpointResult(
            texts=tuple(texts.values()),
            bases=tuple(base for base, _ in results),
            variants=tuple(variant for _, made in results for variant in made),
            provenance={
                "checkpoint": checkpoint,
                **session.loaded.provenance,
                "micro_batch": session.micro_batch,
                "layer_evaluations": evaluated * sum(len(text.batches) for text in texts.values()),
                "texts": [{"name": name, **text.provenance} for name, text in texts.items()],
                **{key: listed for key, listed in where_there_are_any.items() if listed},
            },
        )

    def _plan(
        self, bet: Bet, session: ModelSession, texts: Texts, first: WindowedText
    ) -> list[PlannedVariant]:
        """Plan a bet's variants; choices that depend on a text are made on the bet's first."""

        def calibration(text: TextSource) -> Sequence[Batch]:
            cut = session.windows(texts, text, bet.measure)
            bench.note("chosen_on", cut.provenance)
            return cut.batches

        bench = Workbench(
            session.runner,
            first.batches,
            session.vocabulary,
            lambda arguments: session.training_windows(texts, bet.measure, arguments),
            calibration,
        )
        return planned(bet, bench, self._registry, self._conditions.budget)

    def _plans_of_later_bets(
        self, document: BetDocument, session: ModelSession, source: ModelSource
    ) -> list[Plan]:
        """Return the plans of bets still to come that can run in the same sweep as this one."""
        contract = contract_key(document.bet.measure, document.path)
        plans: list[Plan] = []
        for later, bets in self._expected:
            bet = later.bet
            if (
                self._key(document, source) not in self._keys(later)
                or contract_key(bet.measure, later.path) != contract
                or any(each.arguments.runs_the_model for each in bet.interventions)
            ):
                continue
            try:
                texts = Texts(self._conditions, later.path, bets)
                first = next(iter(bet.measure.named_texts.values()))
                windows = session.windows(texts, first, bet.measure)
                variants = self._plan(bet, session, texts, windows)
            except MeasurementError:
                # Reported when that bet itself is measured.
                continue
            plans += [
                plan for variant in variants for plan in variant.plans if plan.candidate is None
            ]
        return plans

    def _key(self, document: BetDocument, source: ModelSource) -> tuple[Any, ...]:
        """Return a key that is equal for checkpoints of two bets that are the same model in memory."""
        spec = document.bet.model
        anchor = document.path.parent if source.is_local else None
        how = (spec.dtype, spec.device_map, spec.attn_implementation, spec.placement)
        return (source, anchor, *how)

    def _keys(self, document: BetDocument) -> list[tuple[Any, ...]]:
        return [self._key(document, source) for source in document.bet.model.checkpoints().values()]

    def _session(self, document: BetDocument, bets: Path, source: ModelSource) -> ModelSession:
        """Return a session with the model of a checkpoint; load it unless it is in memory."""
        key = self._key(document, source)
        if self._held is None or self._held[0] != key:
            self._release()
            self._lock.take(devices.taken(document.bet.model, self._conditions))
            self._held = (key, ModelSession(self._load(document, bets, source)))
        return self._held[1]

    def _load(self, document: BetDocument, bets: Path, source: ModelSource) -> LoadedModel:
        self.loads += 1
        return load(
            document.bet.model,
            source,
            bet_file=document.path,
            bets=bets,
            conditions=self._conditions,
        )

    def _release_unless_expected(self) -> None:
        """Release the model in memory if no announced bet needs it."""
        needed = [key for document, _ in self._expected for key in self._keys(document)]
        if self._held is None or self._held[0] not in needed:
            self._release()

    def _release(self) -> None:
        """Take the model out of memory and give its device to others."""
        self._held = None
        devices.vacate()
        self._lock.end()


def _plans_by_name(variants: Sequence[PlannedVariant]) -> dict[str, tuple[Plan, ...]]:
    return {f"{each.arm}: {each.name}" if each.arm else each.name: each.plans for each in variants}


def _check_with_layers(
    session: ModelSession,
    texts: Iterable[WindowedText],
    scored: Iterable[tuple[Tensor, Mapping[Plan, TokenScores]]],
    measure: Measure,
) -> None:
    """Refuse weights that are not finite, and windows without a BOS that the base needs.

    Raises:
        MeasurementError: If an intervention left such weights, or BOS is missing.
    """
    for _, scores in scored:
        for plan, each in scores.items():
            if not sanity_checks.is_finite(each):
                with failing([plan]):
                    sanity_checks.check_weights(plan, session.runner, "the intervention left")
    for text in texts:
        sanity_checks.check_start(
            session.runner,
            text.batches[0],
            text.provenance["bos"],
            session.loaded.tokenizer.bos_token_id,
            measure,
        )


def _training_files(bet: Bet, texts: Texts) -> list[str]:
    """Return the digests of the files that interventions train or calibrate on, in order."""
    digests = (texts.digest(text) for each in bet.interventions for text in each.arguments.texts)
    return [digest for digest in digests if digest is not None]
