"""Judge what another engine measured, from two files of samples that lm-evaluation-harness wrote.

It writes one line for each question and filter, with digests of the question (``doc_hash``) and of the prompt
(``prompt_hash``). Questions are joined by ``doc_id``, and must be the same in both files.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.allowed_paths import AllowedPaths, quoted
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement.metrics import task_metrics
from pytest_layerguard.measurement.metrics.task_metrics import Answer, Question
from pytest_layerguard.measurement.results import BaseResult, BetResult, VariantResult
from pytest_layerguard.measurement.tasks.right_or_wrong import USUAL, shown

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_layerguard.bet.arguments import LoadResults, SampleFile
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.bet.task_sources import LmEvalTask
    from pytest_layerguard.environment.conditions import Conditions

KEY: Final = "intervention.load_results"
_NAMED: Final = re.compile(r"samples_(?P<task>.+)_\d{4}-\d{2}-\d{2}T[\d.:-]+\.jsonl")
"""How lm-evaluation-harness names a file of samples."""
_HASHES: Final = {
    "doc_hash": "the question",
    "prompt_hash": "the prompt",
    "target_hash": "the right answer",
}


@dataclass(frozen=True)
class _Sample:
    question: Question
    answer: Answer
    hashes: Mapping[str, str]


@dataclass(frozen=True)
class Samples:
    """The samples of a file by question, and the measure and filter that they were read by."""

    by_question: Mapping[int, _Sample]
    measure: str
    digest: str


def judge_results(document: BetDocument, bets: Path, conditions: Conditions) -> BetResult:
    """Return the result of a bet with `load_results`.

    Raises:
        MeasurementError: If a file is missing or no file of samples, or the two are not of the same questions.
    """
    bet = document.bet
    assert bet.results is not None
    results, name, task = bet.results
    reach = AllowedPaths.of(document.path, bets, conditions)
    before, after = read_results(results, task, reach, conditions)
    order = sorted(before.by_question)
    questions = [before.by_question[place].question for place in order]
    base, candidate = (
        [samples.by_question[place].answer for place in order] for samples in (before, after)
    )
    found = task_metrics.metrics(base, [candidate], 1)
    change = task_metrics.change(questions, base, [candidate])
    hashes = [dict(before.by_question[place].hashes) for place in order]
    return BetResult(
        bases=(BaseResult(None, None, {f"{name}.accuracy": task_metrics.accuracy(base)}),),
        variants=(
            VariantResult(
                results.slug(),
                "",
                None,
                None,
                None,
                {f"{name}.{metric}": value for metric, value in found.items()},
                tasks={name: change},
            ),
        ),
        tokens=0,
        windows=0,
        descriptive=False,
        provenance={
            "checkpoints": [
                {
                    "checkpoint": None,
                    "model": {"name": bet.model.name, "kind": "named, not loaded"},
                    "tasks": [
                        {
                            "name": name,
                            "digest": file_digests.of_text(json.dumps(hashes)),
                            "questions": len(order),
                            "metric": before.measure,
                        }
                    ],
                    "results": [
                        {"name": "base", "digest": before.digest},
                        {"name": "candidate", "digest": after.digest},
                    ],
                }
            ]
        },
    )


def read_results(
    results: LoadResults, task: LmEvalTask, reach: AllowedPaths, conditions: Conditions
) -> tuple[Samples, Samples]:
    """Return the samples of base and candidate, which are of the same questions.

    Raises:
        MeasurementError: If a file is missing or no file of samples, or the two are not of the same questions.
    """
    before = _read(results.base, task, f"{KEY}.base", reach, conditions)
    after = _read(results.candidate, task, f"{KEY}.candidate", reach, conditions)
    key = f"{KEY}.candidate"
    if before.measure != after.measure:
        raise MeasurementError(f"{key}: has {after.measure}, and the base {before.measure}")
    for one, other, where in ((before, after, "base"), (after, before, "candidate")):
        alone = sorted(one.by_question.keys() - other.by_question.keys())
        if alone:
            raise MeasurementError(
                f"{key}: question {alone[0]} (doc_id) is in the {where}'s file alone, as are {len(alone) - 1} others; "
                "ask both models the same questions"
            )
    for place, sample in sorted(before.by_question.items()):
        for name, what in _HASHES.items():
            if sample.hashes[name] != after.by_question[place].hashes[name]:
                raise MeasurementError(
                    f"{key}: {what} with doc_id {place} is not the base's ({name} differs); ask both models with the "
                    "same task, examples and chat template"
                )
    return before, after


def _read(
    given: SampleFile, task: LmEvalTask, key: str, reach: AllowedPaths, conditions: Conditions
) -> Samples:
    named = _NAMED.fullmatch(PurePosixPath(given.file).name)
    if named is not None and named["task"] != task.lm_eval:
        raise MeasurementError(
            f"{key}: {quoted(given.file)} is of the task {named['task']}, not of {task.lm_eval}"
        )
    path = reach.file(given.file, f"{key}.file", largest=conditions.budget.text_bytes)
    digest = file_digests.of_file(path)
    file_digests.check(digest, given.sha256, f"{key}: {quoted(given.file)}")
    metric, _, filter_name = (task.metric or "").partition(",")
    found: dict[int, _Sample] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{key}: {quoted(given.file)}, line {number}"
            data = _object(line, place)
            filter_name = filter_name or str(data["filter"])
            if data["filter"] != filter_name:
                continue
            metric = metric or next((each for each in USUAL if each in data), "")
            if data.get(metric) not in (0, 1):
                listed = ", ".join(map(str, data["metrics"]))
                raise MeasurementError(
                    f"{place}: no measure {metric!r} that is 0 or 1; name one of {listed} with the task's metric"
                    if metric
                    else f"{place}: none of {listed} is known to say whether an answer is right; name one with the "
                    "task's metric"
                )
            if data["doc_id"] in found:
                raise MeasurementError(f"{place}: doc_id {data['doc_id']} was there before")
            found[data["doc_id"]] = _sample(data, metric)
            conditions.budget.check("questions", len(found), f"{key}, questions")
    if not found:
        raise MeasurementError(f"{key}: {quoted(given.file)} has no sample of {task.lm_eval}")
    return Samples(found, f"{metric},{filter_name}", digest)


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        data = None
    wanted = ("doc_id", "filter", "filtered_resps", "arguments", "metrics", "target", *_HASHES)
    missing = [name for name in wanted if not isinstance(data, dict) or name not in data]
    if missing or not isinstance(data["doc_id"], int):
        raise MeasurementError(
            f"{place}: is no sample that lm-evaluation-harness 0.4.13 or newer writes with --log_samples"
            + (f" ({missing[0]} is missing)" if isinstance(data, dict) and missing else "")
        )
    return dict(data)


def _sample(data: Mapping[str, Any], metric: str) -> _Sample:
    given = data["arguments"]
    # As written to a file, arguments are objects by name; in memory they are lists.
    listed = given.values() if isinstance(given, dict) else given
    requests = [list(each.values()) if isinstance(each, dict) else list(each) for each in listed]
    responses = data["filtered_resps"]
    target = str(data["target"])
    choices = [str(each[1]) for each in requests if len(each) > 1]
    is_place = target.isdecimal() and int(target) < len(choices) > 1
    right = choices[int(target)] if is_place else target
    return _Sample(
        Question(str(requests[0][0]), right.strip()),
        Answer(bool(data[metric]), shown(choices, responses), (json.dumps(responses),)),
        {name: str(data[name]) for name in _HASHES},
    )
