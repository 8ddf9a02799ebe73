"""Measure another whole model against a base, over the base's windows and token by token."""

from __future__ import annotations

import gc
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any, Final

import torch

from pytest_layerguard.bet.arguments import Cast, LoadCheckpoint
from pytest_layerguard.bet.bet import INIT
from pytest_layerguard.checkpoints.facts import CheckpointFacts
from pytest_layerguard.checkpoints.recognition import recognise_once
from pytest_layerguard.environment import devices
from pytest_layerguard.environment.allowed_paths import AllowedPaths
from pytest_layerguard.environment.captured_output import quiet
from pytest_layerguard.environment.progress_listener import counted
from pytest_layerguard.measurement import sanity_checks
from pytest_layerguard.measurement.metrics import variant_metrics
from pytest_layerguard.measurement.model_outputs import ModelOutputs
from pytest_layerguard.measurement.sweep import scored_places
from pytest_layerguard.measurement.tasks.asked_model import AskedModel
from pytest_layerguard.measurement.token_scores import TokenScores, compare, joined
from pytest_layerguard.models import tokenization
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.loading import load_candidate, locate, locate_candidate
from pytest_layerguard.models.plan import Weights
from pytest_layerguard.models.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from torch import Tensor

    from pytest_layerguard.bet.arguments import CandidateArguments
    from pytest_layerguard.bet.bet import Bet
    from pytest_layerguard.bet.model_source import ModelSource
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.environment.conditions import Conditions
    from pytest_layerguard.measurement.planning import PlannedVariant
    from pytest_layerguard.measurement.session import ModelSession
    from pytest_layerguard.measurement.tasks.bet_tasks import BetTasks
    from pytest_layerguard.models.loading import CandidateFiles, LoadedModel
    from pytest_layerguard.texts.sources import Texts
    from pytest_layerguard.texts.windowed_text import WindowedText
    from pytest_layerguard.texts.windows import Batch

_ROOM: Final = 1.25
"""The memory that a model takes while it is loaded and run, over that of its weights."""


@dataclass(frozen=True)
class MeasuredCandidate:
    """One candidate's scores and texts.

    Attributes:
        scores: Its scores on each text.
        outputs: Its texts and answers.
        size_ratio: Bytes of its files of weights over the base's; None for a cast.
        provenance: Plain data: what it is, what was done to the base to get it, digests, dtype.
    """

    scores: Mapping[str | None, TokenScores]
    outputs: ModelOutputs
    size_ratio: float | None
    provenance: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CandidateBench:
    """Measures the candidates of a bet, one in memory at a time.

    Attributes:
        session: The base.
        document: The bet.
        bets: Its bet folder.
        source: The base's checkpoint.
        conditions: The device, and what the user allows.
        texts: The texts, cut into windows.
        read: Reads the texts.
        tasks: The tasks.
    """

    session: ModelSession
    document: BetDocument
    bets: Path
    source: ModelSource
    conditions: Conditions
    texts: Mapping[str | None, WindowedText]
    read: Texts
    tasks: BetTasks

    @property
    def _bet(self) -> Bet:
        return self.document.bet

    def measure(
        self, variants: Sequence[PlannedVariant]
    ) -> dict[CandidateArguments, MeasuredCandidate]:
        """Measure every candidate among a bet's variants, and the floor of those in another dtype.

        The base is kept in memory beside a candidate where both fit. Else its layers are let go of.

        Raises:
            MeasurementError: If a candidate cannot be measured honestly.
            UnavailableError: If a candidate's format cannot run here.
        """
        wanted = [plan.candidate for variant in variants for plan in variant.plans]
        found = {
            each: locate_candidate(
                each,
                self.source,
                bet_file=self.document.path,
                bets=self.bets,
                conditions=self.conditions,
            )
            for each in dict.fromkeys(wanted)
            if each is not None
        }
        if not found:
            return {}
        base = str(self.session.loaded.provenance["dtype"])
        for files in tuple(found.values()):
            dtype = files.dtype(base)
            floor = Cast.model_validate({"dtype": dtype})
            if dtype != base and floor not in found:
                found[floor] = locate_candidate(
                    floor,
                    self.source,
                    bet_file=self.document.path,
                    bets=self.bets,
                    conditions=self.conditions,
                )
        for text in self.texts.values():
            self.session.base_states(text)
        measured = {each: self._one(files, files.dtype(base)) for each, files in found.items()}
        for each, one in measured.items():
            dtype = one.provenance["dtype"]
            if isinstance(each, LoadCheckpoint) and dtype != base:
                cast = measured[Cast.model_validate({"dtype": dtype})]
                one.provenance["floor"] = {"dtype": dtype, **self._floor(cast)}
        return measured

    def _one(self, files: CandidateFiles, dtype: str) -> MeasuredCandidate:
        # First, because comparing two checkpoints takes memory as well.
        self._make_room(files, dtype)
        made_with = self._described(files)
        devices.vacate()
        # The layers of quantised models warn at every step of what they cast.
        with quiet():
            return self._run(files, dtype, made_with)

    def _run(
        self, files: CandidateFiles, dtype: str, made_with: dict[str, Any]
    ) -> MeasuredCandidate:
        loaded = load_candidate(files, self._bet.model, self.source, dtype, self.conditions)
        # Some formats unpack their weights when they first run, and draw a progress bar of their own.
        with redirect_stderr(StringIO()):
            runner = Runner(Anatomy.of(loaded.model), loaded.store)
            self._check(files, loaded, runner)
        # With the tokenizer and the ends of text of the base.
        asked = AskedModel(
            runner=runner,
            loaded=self.session.loaded,
            variants=(),
            micro_batch=self.session.micro_batch,
        )
        outputs = ModelOutputs.of(asked, self._bet.measure, self.tasks)
        scores = {name: self._scores(runner, text, files.name) for name, text in self.texts.items()}
        if loaded.store is not None and not all(map(sanity_checks.is_finite, scores.values())):
            # Those in memory were checked as they were loaded.
            sanity_checks.check_weights(asked.base, runner, f"{files.name}: has")
        size = files.bytes / self.session.loaded.bytes if self.session.loaded.bytes else None
        del loaded, runner, asked
        gc.collect()
        devices.vacate()
        return MeasuredCandidate(
            scores,
            outputs,
            size if isinstance(files.arguments, LoadCheckpoint) else None,
            made_with | {"dtype": dtype},
        )

    def _make_room(self, files: CandidateFiles, dtype: str) -> None:
        """Let go of the base's layers where a candidate would not fit beside them."""
        if self.session.spent or self.session.loaded.store is not None:
            return
        needed = files.folder.parameters * getattr(torch, dtype).itemsize * _ROOM
        if needed > devices.free_memory(str(self.session.runner.device)):
            self.conditions.progress("letting go of the base's layers to make room for a candidate")
            self.session.release_layers()

    def _described(self, files: CandidateFiles) -> dict[str, Any]:
        """Return what a candidate is and what was done to the base, from files."""
        source = files.arguments.source
        if source is None:
            return {"model": {"kind": "cast", "name": str(files.arguments.dtype)}}
        assert isinstance(files.arguments, LoadCheckpoint)
        known: dict[str, Any] = {
            "model": {"kind": source.kind, "name": source.name, "revision": source.revision},
            "as": files.arguments.form,
            "digests": files.digests(),
            "facts": list(CheckpointFacts.of(files.checkpoint).lines()),
        }
        if not self.source.name.endswith(INIT):
            reach = AllowedPaths.of(self.document.path, self.bets, self.conditions)
            base = locate(self.source, reach, self.conditions)
            self.conditions.progress(f"comparing {files.name} with {base.name}")
            findings = recognise_once(base.checkpoint, files.checkpoint).findings
            known["recognised"] = [
                {"kind": each.kind, "sentence": each.sentence} for each in findings
            ]
        return known

    def _check(self, files: CandidateFiles, loaded: LoadedModel, runner: Runner) -> None:
        if files.arguments.source is not None:
            self._check_tokenizer(files, loaded)
        first = next(iter(self.texts.values()))
        sanity_checks.check_forward(runner, first.batches[0])

    def _check_tokenizer(self, files: CandidateFiles, loaded: LoadedModel) -> None:
        base = self.session.loaded.tokenizer
        own = base if files.tokenizer is None else loaded.tokenizer
        tokenization.check_tokenizer(own, loaded.model, files.name)
        if own is base:
            return
        measure = self._bet.measure
        prompts = [
            prompt
            for spec in (measure.sample, measure.speak, measure.generate)
            if spec is not None
            for prompt in spec.prompts
        ]
        contents = [
            self.session.content(self.read, text, measure) for text in measure.named_texts.values()
        ]
        tokenization.check_same(base, own, contents, prompts, files.name)

    @torch.inference_mode()
    def _scores(self, runner: Runner, text: WindowedText, name: str) -> TokenScores:
        """Score a candidate on a text, part by part as the base was scored."""
        base = self.session.base_states(text)
        common = min(_rows(runner), _rows(self.session.runner))
        with counted(f"measuring {name}", len(text.batches) * len(runner.anatomy)) as advance:
            # A layer on disk is read once for all of them.
            together = len(text.batches) if runner.store is not None else 1
            final = torch.cat(
                [
                    each
                    for start in range(0, len(text.batches), together)
                    for each in _finals(runner, text.batches[start : start + together], advance)
                ]
            )
        labels = torch.cat([batch.labels[batch.scored] for batch in text.batches])
        sizes = [len(part) for part in base.final]
        parts = []
        devices.vacate()
        with self.session.runner.head(), runner.head():
            for before, after, wanted in zip(
                base.final, torch.split(final, sizes), torch.split(labels, sizes), strict=True
            ):
                _, (scores,) = compare(
                    (before.to(runner.device), _head(self.session.runner, common)),
                    [(after, _head(runner, common))],
                    wanted,
                    self.session.vocabulary,
                )
                parts.append(scores)
        return joined(parts)

    def _floor(self, floor: MeasuredCandidate) -> dict[str, float]:
        """Return what the dtype alone does to the base on the first text."""
        name, text = next(iter(self.texts.items()))
        losses = self.session.base_states(text).losses
        metrics = variant_metrics.variant_metrics(losses, [floor.scores[name]], text.positions, 1)
        return {key: metrics[key].value for key in ("perplexity_ratio", "kl", "top1_agreement")}


def _finals(runner: Runner, batches: Sequence[Batch], advance: Any) -> list[Tensor]:
    """Return the final hidden states of each batch's scored tokens."""
    with runner.embeddings():
        frames = [runner.begin(batch.input_ids) for batch in batches]
    states = [frame.start for frame in frames]
    for slot in range(len(runner.anatomy)):
        with runner.bound(slot, Weights(slot)):
            states = [
                runner.step(frame, slot, state) for frame, state in zip(frames, states, strict=True)
            ]
        advance(len(batches))
    with runner.tail():
        return [
            runner.finish(frame, state).flatten(0, 1).index_select(0, places)
            for frame, state, places in zip(
                frames, states, scored_places(runner, batches), strict=True
            )
        ]


def _rows(runner: Runner) -> int:
    return int(runner.anatomy.model.config.get_text_config(decoder=True).vocab_size)


def _head(runner: Runner, common: int) -> Any:
    """Return the head, over the ids that base and candidate both have."""
    return lambda rows: runner.logits(rows)[:, :common]
