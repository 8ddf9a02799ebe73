"""Judge what another engine measured, from what lm-evaluation-harness wrote of base and candidate.

Questions are joined by ``doc_id``, and must be the same for both.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.task_sources import LmEvalTask
from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.allowed_paths import AllowedPaths
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement.metrics.task_metrics import ACCURACY, TaskAnswers
from pytest_layerguard.measurement.metrics.task_perplexity import (
    BITS,
    PERPLEXITY,
    Documents,
    TaskLikelihoods,
)
from pytest_layerguard.measurement.results import BaseResult, BetResult, VariantResult
from pytest_layerguard.measurement.tasks.bet_tasks import check_base, check_criteria
from pytest_layerguard.measurement.tasks.result_folder import ResultFolder
from pytest_layerguard.measurement.tasks.sample_files import HASHES, read_samples

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_layerguard.bet.arguments import ResultFiles
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.environment.conditions import Conditions
    from pytest_layerguard.measurement.tasks.bet_tasks import TaskResult
    from pytest_layerguard.measurement.tasks.sample_files import Sample, SampleFileContent

_BASE: Final = "base"


@dataclass(frozen=True)
class Samples:
    """The samples of one model and task, or of a group of tasks.

    Attributes:
        key: The bet's key of the model, for messages.
        files: What was read, by the name of the task in lm-evaluation-harness.
        version: What the run's results say of the task; empty without them.
    """

    key: str
    files: Mapping[str, SampleFileContent]
    version: str

    @cached_property
    def by_question(self) -> dict[tuple[str, int], Sample]:
        """The samples, in order, by task and ``doc_id``."""
        return {
            (task, place): content.by_question[place]
            for task, content in self.files.items()
            for place in sorted(content.by_question)
        }

    @property
    def measure(self) -> str:
        """The measure and filter, which all files have in common."""
        return next(iter(self.files.values())).measure

    @property
    def is_perplexity(self) -> bool:
        """Whether the measure is a perplexity."""
        return next(iter(self.files.values())).is_perplexity

    @property
    def digest(self) -> str:
        """The digest of the one file, or of all by name."""
        digests = {task: content.digest for task, content in self.files.items()}
        return next(iter(digests.values())) if len(digests) == 1 else _digest(digests)


Read = dict[str, dict[str | None, tuple[Samples, Samples]]]
"""The samples of base and candidate, by the name of the task in the bet and by arm."""


def judge_results(document: BetDocument, bets: Path, conditions: Conditions) -> BetResult:
    """Return the result of a bet with `load_results`.

    Raises:
        MeasurementError: If a file is missing or no file of samples, or they are not of the same questions.
    """
    bet = document.bet
    assert bet.results is not None
    reach = AllowedPaths.of(document.path, bets, conditions)
    read = read_results(document, reach, conditions)
    asked = {name: _asked(samples) for name, samples in read.items()}
    base: dict[str, Any] = {}
    for name, task in asked.items():
        check_base(bet, name, task, _BASE)
        base |= {f"{name}.{metric}": value for metric, value in task.base_metrics(_BASE).items()}
    variants: list[VariantResult] = []
    for arm, results in bet.results.items():
        metrics: dict[str, Any] = {}
        for name, task in asked.items():
            found = task.metrics(_BASE, [arm], len(bet.results))
            metrics |= {f"{name}.{metric}": value for metric, value in found.items()}
        variants.append(
            VariantResult(
                results.slug(),
                "",
                arm,
                None,
                None,
                metrics,
                tasks={
                    name: task.change(_BASE, [arm])
                    for name, task in asked.items()
                    if isinstance(task, TaskAnswers)
                },
                documents={
                    name: len(task.documents)
                    for name, task in asked.items()
                    if isinstance(task, TaskLikelihoods)
                },
            )
        )
    return BetResult(
        bases=(BaseResult(None, None, base),),
        variants=tuple(variants),
        tokens=0,
        windows=0,
        descriptive=False,
        provenance={
            "checkpoints": [
                {
                    "checkpoint": None,
                    "model": {"name": bet.model.name, "kind": "named, not loaded"},
                    "tasks": [{"name": name, **task.provenance} for name, task in asked.items()],
                    "results": [*_files(read)],
                }
            ]
        },
    )


def _files(read: Read) -> Iterator[dict[str, str]]:
    """Yield what was read, by model and, where there are several, by task and arm."""
    for name, by_arm in read.items():
        of = f" on {name}" if len(read) > 1 else ""
        yield {"name": f"base{of}", "digest": next(iter(by_arm.values()))[0].digest}
        for arm, (_, after) in by_arm.items():
            which = "candidate" if arm is None else f"candidate {arm}"
            yield {"name": f"{which}{of}", "digest": after.digest}


def _asked(by_arm: Mapping[str | None, tuple[Samples, Samples]]) -> TaskResult:
    """Return a task with the base's answers, and the candidates' by arm."""
    base = next(iter(by_arm.values()))[0]
    order = list(base.by_question)
    models: dict[str | None, dict[tuple[str, int], Sample]] = {
        _BASE: base.by_question,
        **{arm: after.by_question for arm, (_, after) in by_arm.items()},
    }
    first = base.by_question
    provenance = {
        "digest": _digest([dict(first[place].hashes) for place in order]),
        "documents" if base.is_perplexity else "questions": len(order),
        "metric": base.measure,
    }
    if not base.is_perplexity:
        return TaskAnswers(
            tuple(first[place].question for place in order),
            {
                name: tuple(samples[place].answer for place in order)
                for name, samples in models.items()
            },
            provenance,
        )
    sizes = [size for place in order if (size := first[place].bytes) is not None]
    return TaskLikelihoods(
        Documents(
            tuple(first[place].units for place in order),
            tuple(sizes) if len(sizes) == len(order) else None,
        ),
        {
            name: tuple(samples[place].likelihood for place in order)
            for name, samples in models.items()
        },
        provenance,
    )


def read_results(document: BetDocument, reach: AllowedPaths, conditions: Conditions) -> Read:
    """Return the samples of base and candidates, which are of the same questions.

    Raises:
        MeasurementError: If a file is missing or no file of samples, or they are not of the same questions.
    """
    bet = document.bet
    found: Read = {}
    for name, task in (bet.measure.tasks or {}).items():
        assert isinstance(task, LmEvalTask)
        by_arm = found.setdefault(name, {})
        # Arms have one base; where they name the same files, these are read once.
        bases: dict[str, Samples] = {}
        for arm, results in (bet.results or {}).items():
            key = f"{'intervention' if arm is None else f'arms.{arm}'}.load_results"
            files = results.base.model_dump_json()
            if files not in bases:
                bases[files] = _read(results.base, name, task, f"{key}.base", reach, conditions)
            before = bases[files]
            after = _read(results.candidate, name, task, f"{key}.candidate", reach, conditions)
            _check_same(before, after)
            first, _ = next(iter(by_arm.values()), (before, after))
            if before.digest != first.digest:
                raise MeasurementError(
                    f"{before.key}: its samples of {task.lm_eval} are not those of {first.key}; candidates are "
                    "compared with one base"
                )
            by_arm[arm] = before, after
        gives: tuple[str, ...] = ACCURACY
        if before.is_perplexity:
            whole = all(each.bytes is not None for each in before.by_question.values())
            gives = PERPLEXITY + (BITS if whole else ())
        check_criteria(bet, name, gives)
    return found


def _read(
    given: ResultFiles,
    name: str,
    task: LmEvalTask,
    key: str,
    reach: AllowedPaths,
    conditions: Conditions,
) -> Samples:
    if given.folder is None:
        file = given.files[name] if given.files is not None else given
        assert file.file is not None
        content = read_samples(
            file.file, file.sha256, task.lm_eval, task.metric, key, reach, conditions
        )
        return Samples(key, {task.lm_eval: content}, "")
    folder = ResultFolder.of(given.folder, key, reach, conditions)
    files = {
        each: read_samples(folder.files[each], None, each, task.metric, key, reach, conditions)
        for each in folder.tasks_of(task.lm_eval)
    }
    samples = Samples(key, files, folder.version(task.lm_eval))
    for each, content in files.items():
        if content.measure != samples.measure:
            raise MeasurementError(
                f"{key}: {each} has {content.measure}, and {next(iter(files))} {samples.measure}; name one with the "
                "task's metric"
            )
        folder.check(
            each,
            content.measure,
            len(content.by_question),
            _value(Samples(key, {each: content}, "")),
        )
    if list(files) != [task.lm_eval]:
        folder.check(task.lm_eval, samples.measure, len(samples.by_question), _value(samples))
    return samples


def _value(samples: Samples) -> float:
    """Return the measure over all samples, as lm-evaluation-harness has it."""
    found = _asked({None: (samples, samples)}).base_metrics(_BASE)
    measure = samples.measure.partition(",")[0]
    if not samples.is_perplexity:
        return found["accuracy"].value
    return found["bits_per_byte" if measure == "bits_per_byte" else "perplexity"].value


def _check_same(before: Samples, after: Samples) -> None:
    """Refuse samples of a candidate that are not of the base's questions."""
    key = after.key
    if before.version and after.version and before.version != after.version:
        raise MeasurementError(f"{key}: was asked {after.version}, and the base {before.version}")
    if before.measure != after.measure:
        raise MeasurementError(f"{key}: has {after.measure}, and the base {before.measure}")
    mine, theirs = after.by_question, before.by_question

    def of(place: tuple[str, int]) -> str:
        return f" of {place[0]}" if len(before.files) > 1 else ""

    for one, other, where in ((theirs, mine, "base"), (mine, theirs, "candidate")):
        alone = sorted(one.keys() - other.keys())
        if alone:
            raise MeasurementError(
                f"{key}: question {alone[0][1]} (doc_id){of(alone[0])} is in the {where}'s file alone, as are "
                f"{len(alone) - 1} others; ask both models the same questions"
            )
    for place, sample in theirs.items():
        for name, what in HASHES.items():
            if sample.hashes[name] != mine[place].hashes[name]:
                raise MeasurementError(
                    f"{key}: {what} with doc_id {place[1]}{of(place)} is not the base's ({name} differs); ask both "
                    "models with the same task, examples and chat template"
                )


def _digest(value: Any) -> str:
    return file_digests.of_text(json.dumps(value))
