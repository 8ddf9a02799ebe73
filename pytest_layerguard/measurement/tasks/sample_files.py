"""Read files of samples that lm-evaluation-harness wrote.

It writes one line for each question and filter, with digests of the question (``doc_hash``) and of the prompt
(``prompt_hash``).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.allowed_paths import quoted
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement.metrics.task_metrics import Answer, Question
from pytest_layerguard.measurement.tasks.right_or_wrong import USUAL, chance, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_layerguard.environment.allowed_paths import AllowedPaths
    from pytest_layerguard.environment.conditions import Conditions

NAMED: Final = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d{2}-\d{2}T[\d.:-]+)\.jsonl")
"""How lm-evaluation-harness names a file of samples."""
HASHES: Final = {
    "doc_hash": "the question",
    "prompt_hash": "the prompt",
    "target_hash": "the right answer",
}
"""What must be equal in the samples of two models, and what it is a digest of."""
_BITS: Final = "bits_per_byte"
_PERPLEXITIES: Final = ("word_perplexity", "byte_perplexity", _BITS, "perplexity")


@dataclass(frozen=True)
class Sample:
    """What a model made of one question.

    Attributes:
        question: The question.
        answer: The answer, with whether it is right.
        likelihood: Of a document, its log-likelihood in nats.
        units: Of a document, how many words or bytes it has.
        bytes: Of a document, how many bytes it has, where the file says so.
        hashes: Digests, by the names of ``HASHES``.
    """

    question: Question
    answer: Answer
    likelihood: float
    units: float
    bytes: float | None
    hashes: Mapping[str, str]


@dataclass(frozen=True)
class SampleFileContent:
    """The samples of a file by the number of the question, and the measure and filter that they were read by."""

    by_question: Mapping[int, Sample]
    measure: str
    digest: str

    @property
    def is_perplexity(self) -> bool:
        """Whether the measure is a perplexity, and not one of right and wrong."""
        return self.measure.partition(",")[0] in _PERPLEXITIES


def read_samples(
    file: str,
    sha256: str | None,
    task: str,
    metric: str | None,
    key: str,
    reach: AllowedPaths,
    conditions: Conditions,
) -> SampleFileContent:
    """Read a file of samples.

    Args:
        file: The file, relative to the bet file.
        sha256: The digest that it must have, if any.
        task: The task that it must be of, by its name in lm-evaluation-harness.
        metric: The measure, and the filter after a comma; by default the usual one, and the first filter.
        key: The bet's key, for messages.
        reach: The folders that may be read.
        conditions: What the user allows.

    Raises:
        MeasurementError: If it is missing, of another task or digest, or no file of samples.
    """
    named = NAMED.fullmatch(PurePosixPath(file).name)
    if named is not None and named["task"] != task:
        raise MeasurementError(
            f"{key}: {quoted(file)} is of the task {named['task']}, not of {task}"
        )
    path = reach.file(file, f"{key}.file", largest=conditions.budget.text_bytes)
    digest = file_digests.of_file(path)
    file_digests.check(digest, sha256, f"{key}: {quoted(file)}")
    measure, _, filter_name = (metric or "").partition(",")
    found: dict[int, Sample] = {}
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{key}: {quoted(file)}, line {number}"
            if not line.strip():
                continue
            data = _object(line, place)
            filter_name = filter_name or str(data["filter"])
            if data["filter"] != filter_name:
                continue
            measure = measure or next((each for each in USUAL if each in data), "")
            if data["doc_id"] in found:
                raise MeasurementError(f"{place}: doc_id {data['doc_id']} was there before")
            try:
                found[data["doc_id"]] = _sample(data, measure, place)
            except (TypeError, ValueError, LookupError, AttributeError):
                raise MeasurementError(
                    f"{place}: its arguments and responses are not as lm-evaluation-harness writes them"
                ) from None
            conditions.budget.check("questions", len(found), f"{key}, questions")
    if not found:
        raise MeasurementError(
            f"{key}: {quoted(file)} has no sample of {task}"
            + (f" with the filter {filter_name}" if filter_name else "")
        )
    # A task without bits per byte has None for the bytes of its documents.
    if not any(each.units for each in found.values()) or all(
        each.bytes == 0 for each in found.values()
    ):
        raise MeasurementError(f"{key}: all documents of {quoted(file)} are empty")
    return SampleFileContent(found, f"{measure},{filter_name}", digest)


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        data = None
    wanted = ("doc_id", "filter", "filtered_resps", "arguments", "metrics", "target", *HASHES)
    missing = [name for name in wanted if not isinstance(data, dict) or name not in data]
    if (
        missing
        or not isinstance(data["doc_id"], int)
        or not all(isinstance(data[name], list) for name in ("filtered_resps", "metrics"))
    ):
        raise MeasurementError(
            f"{place}: is no sample that lm-evaluation-harness 0.4.13 or newer writes with --log_samples"
            + (f" ({missing[0]} is missing)" if isinstance(data, dict) and missing else "")
        )
    return dict(data)


def _sample(data: Mapping[str, Any], measure: str, place: str) -> Sample:
    value = data.get(measure)
    likelihood, units, of_bytes = 0.0, 1.0, None
    if measure in _PERPLEXITIES:
        likelihood, units = _sized(value, measure, place)
        of_bytes = _sized(data[_BITS], _BITS, place)[1] if _BITS in data else None
        value = 0
    if value not in (0, 1):
        listed = ", ".join(map(str, data["metrics"]))
        raise MeasurementError(
            f"{place}: no measure {measure!r} that is 0 or 1; name one of {listed} with the task's metric"
            if measure
            else f"{place}: none of {listed} is known to say whether an answer is right; name one with the "
            "task's metric"
        )
    given = data["arguments"]
    # As written to a file, arguments are objects by name; in memory they are lists.
    listed_ = given.values() if isinstance(given, dict) else given
    requests = [list(each.values()) if isinstance(each, dict) else list(each) for each in listed_]
    responses = data["filtered_resps"]
    target = str(data["target"])
    choices = [str(each[1]) for each in requests if len(each) > 1]
    is_place = target.isdecimal() and int(target) < len(choices) > 1
    right = choices[int(target)] if is_place else target
    return Sample(
        Question(str(requests[0][0]) if requests else "", right.strip(), chance(requests)),
        Answer(bool(value), shown(choices, responses), (json.dumps(responses),)),
        likelihood,
        units,
        of_bytes,
        {name: str(data[name]) for name in HASHES},
    )


def _sized(value: Any, measure: str, place: str) -> tuple[float, float]:
    """Return a log-likelihood and the number of units that it is of, 1 where the task does not say it."""
    try:
        likelihood, units = map(float, value if isinstance(value, list) else (value, 1))
    except (TypeError, ValueError, OverflowError):
        likelihood = units = math.nan
    if not (likelihood < math.inf and 0 <= units < math.inf):
        raise MeasurementError(
            f"{place}: {measure} is no log-likelihood with the size of the document"
        )
    return likelihood, units
