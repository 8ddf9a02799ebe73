"""Read files of multiple-choice questions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard import reference
from pytest_layerguard.bet.task_sources import ReferenceQuestions
from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.allowed_paths import quoted
from pytest_layerguard.environment.measurement_errors import MeasurementError

if TYPE_CHECKING:
    from pytest_layerguard.bet.task_sources import QuestionFile
    from pytest_layerguard.environment.allowed_paths import AllowedPaths

_EXAMPLE: Final = '{"context": TEXT, "choices": [TEXT, TEXT, ...], "answer": NUMBER}'
_MOST_CHOICES: Final = 64
_LONGEST: Final = 1_000_000
"""Characters of a context or a choice: more than any model reads, and minutes to tokenise."""


@dataclass(frozen=True)
class ChoiceQuestion:
    """A question: its context, the choices, one of which follows it, and the place of the right one."""

    context: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class QuestionSet:
    """The questions of a file, and the digest of the whole file."""

    questions: tuple[ChoiceQuestion, ...]
    digest: str


def read_questions(
    source: QuestionFile | ReferenceQuestions, key: str, reach: AllowedPaths, largest: int
) -> QuestionSet:
    """Read the first ``source.limit`` questions of a file.

    Args:
        source: The file, or the package's own.
        key: The bet's key, such as ``measure.tasks.stories``, for messages.
        reach: The folders that may be read.
        largest: The most bytes that a file may have.

    Raises:
        MeasurementError: If the file is missing, has another digest than the bet says, or a line is no question.
    """
    if isinstance(source, ReferenceQuestions):
        what = f"{key}: the package's questions"
        content = reference.QUESTIONS.read_bytes()
        digest = file_digests.of_bytes(content)
        if digest != reference.manifest()["questions"]["sha256"]:
            raise MeasurementError(f"{what} are not those shipped; reinstall pytest-layerguard")
    else:
        what = f"{key}.file: {quoted(source.file)}"
        content = reach.file(source.file, f"{key}.file", largest=largest).read_bytes()
        digest = file_digests.of_bytes(content)
        file_digests.check(digest, source.sha256, what)
    try:
        # Not by splitlines, which also ends a line at characters that a JSON text may hold.
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise MeasurementError(f"{what} is not UTF-8: byte {error.start:,}") from None
    found: dict[ChoiceQuestion, int] = {}
    for number, line in enumerate(lines, 1):
        if line.strip() and (source.limit is None or len(found) < source.limit):
            question = _question(line, f"{what}, line {number}")
            if question in found:
                # Intervals are of independent questions.
                raise MeasurementError(
                    f"{what}, line {number}: is the question of line {found[question]} again; each once"
                )
            found[question] = number
    if not found:
        raise MeasurementError(f"{what} has no question; one a line, {_EXAMPLE}")
    return QuestionSet(tuple(found), digest)


def _question(line: str, place: str) -> ChoiceQuestion:
    def wrong(what: str) -> MeasurementError:
        return MeasurementError(f"{place}: {what}; a line is {_EXAMPLE}")

    try:
        data: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise wrong(f"is not JSON ({error})") from None
    if not isinstance(data, dict):
        raise wrong("is not an object")
    missing = [name for name in ("context", "choices", "answer") if name not in data]
    if missing:
        raise wrong(f"{missing[0]} is missing")
    context, choices, answer = data["context"], data["choices"], data["answer"]
    if not isinstance(context, str) or not context.strip():
        raise wrong("context must be text")
    if not isinstance(choices, list) or not 2 <= len(choices) <= _MOST_CHOICES:
        raise wrong(f"choices must be a list of 2 to {_MOST_CHOICES} texts")
    if not all(isinstance(each, str) and each.strip() for each in choices):
        raise wrong("each of choices must be text")
    longest = max(map(len, (context, *choices)))
    if longest > _LONGEST:
        raise wrong(f"a text of {longest:,} characters; at most {_LONGEST:,}")
    if any("\ud800" <= sign <= "\udfff" for text in (context, *choices) for sign in text):
        raise wrong("half of a surrogate pair is no text")
    if len(set(choices)) < len(choices):
        raise wrong("two choices are the same")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise wrong(f"answer must be the place of the right choice, 0 to {len(choices) - 1}")
    return ChoiceQuestion(context, tuple(choices), answer)
