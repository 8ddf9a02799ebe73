"""Files of questions: what is read, and what is refused with its line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from pytest_layerguard.bet.task_sources import QuestionFile, ReferenceQuestions
from pytest_layerguard.environment.allowed_paths import AllowedPaths
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.texts import questions
from pytest_layerguard.texts.questions import ChoiceQuestion, QuestionSet, read_questions

GOOD = {"context": "The sky is", "choices": ["blue", "loud"], "answer": 0}


def read(folder: Path, content: str | bytes, **given: object) -> QuestionSet:
    data = content.encode() if isinstance(content, str) else content
    (folder / "q.jsonl").write_bytes(data)
    source = QuestionFile.model_validate({"file": "q.jsonl", **given})
    return read_questions(source, "measure.tasks.q", AllowedPaths(folder, (folder,)), 10_000)


def test_questions_are_read_in_order(tmp_path: Path) -> None:
    lines = [json.dumps({**GOOD, "id": 7}), "", json.dumps({**GOOD, "context": "Fire is"})]
    content = "\ufeff" + "\n".join(lines)
    found = read(tmp_path, content)
    assert found.questions[0] == ChoiceQuestion("The sky is", ("blue", "loud"), 0)
    assert [each.context for each in found.questions] == ["The sky is", "Fire is"]
    assert found.digest == f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
    assert read(tmp_path, content, limit=1).questions == found.questions[:1]
    assert read(tmp_path, content, sha256=found.digest[7:]) == found


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "is not JSON"),
        ("[" * 100_00, "bytes; allowed"),
        ("[1]", "is not an object"),
        (json.dumps({**GOOD, "answer": "blue"}), "answer must be the place of the right choice, 0 to 1"),
        (json.dumps({**GOOD, "answer": True}), "answer must be"),
        (json.dumps({**GOOD, "answer": 2}), "answer must be"),
        (json.dumps({"context": "a", "choices": ["b", "c"]}), "answer is missing"),
        (json.dumps({**GOOD, "context": " "}), "context must be text"),
        (json.dumps({**GOOD, "choices": "blue"}), "choices must be a list"),
        (json.dumps({**GOOD, "choices": ["blue"]}), "choices must be a list of 2 to 64"),
        (json.dumps({**GOOD, "choices": ["blue", ""]}), "each of choices must be text"),
        (json.dumps({**GOOD, "choices": ["blue", "blue"]}), "two choices are the same"),
        (json.dumps({**GOOD, "context": "a \ud800"}), "half of a surrogate pair is no text"),
        (json.dumps(GOOD), "is the question of line 1 again; each once"),
    ],
)  # fmt: skip
def test_a_line_that_is_no_question_is_named(tmp_path: Path, line: str, what: str) -> None:
    with pytest.raises(MeasurementError) as caught:
        read(tmp_path, f"{json.dumps(GOOD)}\n{line}\n")
    message = str(caught.value)
    assert message.startswith("measure.tasks.q.file: 'q.jsonl'")
    assert what in message
    assert "allowed" in message or "line 2" in message


def test_a_line_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    context = "The sky\u2028is\x85often\x0c"
    line = json.dumps({**GOOD, "context": context}, ensure_ascii=False)
    for written in (line, f"{line}\r\n", f"\ufeff{line}\n"):
        (found,) = read(tmp_path, written.encode()).questions
        assert found.context == context


def test_a_text_longer_than_any_model_reads_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "_LONGEST", 30)
    with pytest.raises(MeasurementError, match="line 1: a text of 31 characters; at most 30"):
        read(tmp_path, json.dumps({**GOOD, "context": "a" * 31}))


def test_a_file_without_questions_or_of_other_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="has no question"):
        read(tmp_path, "\n")
    with pytest.raises(MeasurementError, match="is not UTF-8"):
        read(tmp_path, b"\xff")
    with pytest.raises(MeasurementError, match="has changed"):
        read(tmp_path, json.dumps(GOOD), sha256="0" * 64)


def test_the_packages_own_questions_are_read(tmp_path: Path) -> None:
    reach = AllowedPaths(tmp_path, (tmp_path,))
    found = read_questions(ReferenceQuestions(reference="questions"), "measure.tasks.q", reach, 1)
    assert len(found.questions) == 200
    assert {len(each.choices) for each in found.questions} == {4}
