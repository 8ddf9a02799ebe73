"""The tasks that a bet is measured on: questions with known answers."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from pytest_layerguard.bet.text_sources import UNPINNED, Revision, Sha256
from pytest_layerguard.bet.validation import KEY, LIMITS, BetPart, RelativePath, Whole, invalid

_FORMS: Final = "{lm_eval: TASK, revision: <40 hex>}, {file: QUESTIONS.jsonl, sha256: ...} or {reference: questions}"

Limit = Annotated[
    Annotated[Whole, Field(ge=1, le=LIMITS.questions)] | None,
    Field(description="how many questions, from the first; by default all"),
]


class ReferenceQuestions(BetPart):
    """The questions that the package ships for its reference models, about stories that they never saw."""

    reference: Literal["questions"] = Field(description="questions, each with four answers")
    limit: Limit = None


class QuestionFile(BetPart):
    """A file of multiple-choice questions beside the bet file.

    Each line is one question, ``{"context": TEXT, "choices": [TEXT, ...], "answer": NUMBER}``, with the place of the
    right choice, counted from 0. As in lm-evaluation-harness, a choice follows the context after a space, and the
    most likely one is the answer.
    """

    file: RelativePath = Field(description="a file of questions, relative to the bet file")
    sha256: Sha256 = None
    limit: Limit = None


class LmEvalTask(BetPart):
    """A task of lm-evaluation-harness, asked and scored by it; needs the extra ``tasks``."""

    lm_eval: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,119}$",
        description="the task's name in lm-evaluation-harness, such as arc_easy",
    )
    limit: Limit = None
    shots: Annotated[Whole, Field(ge=0, le=100)] | None = Field(
        default=None,
        description="examples before each question; by default as many as the task has",
    )
    metric: Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,60}(,[A-Za-z0-9_-]{1,60})?$")] | None = (
        Field(
            default=None,
            description="which of the task's measures counts: one of right and wrong, such as acc_norm or "
            "'exact_match,strict-match', or a perplexity, such as byte_perplexity; by default acc, exact_match, "
            "word_perplexity or byte_perplexity, the first that it has",
        )
    )
    chat: bool = Field(
        default=False, description="whether the model's chat template is applied to the prompts"
    )
    multiturn: bool = Field(
        default=True,
        description="beside chat: whether examples are turns before the question, or stand in its message",
    )
    system: Annotated[str, Field(min_length=1, max_length=4_000)] | None = Field(
        default=None,
        description="an instruction before everything else, beside chat the system's message",
    )
    revision: Revision | None = Field(
        default=None,
        description="of the task's data set on the hub, a full commit hash (40 lower-case hexadecimal digits); "
        "without it the newest, which may change",
    )
    path: RelativePath | None = Field(
        default=None, description="a local copy of the task's data set, relative to the bet file"
    )

    @model_validator(mode="after")
    def _goes_together(self) -> LmEvalTask:
        if self.revision is not None and self.path is not None:
            raise invalid("does not go with path; the hub's data set, or a local copy", "revision")
        if "multiturn" in self.model_fields_set and not self.chat:
            raise invalid("has no meaning without chat", "multiturn", KEY)
        return self

    @property
    def is_pinned(self) -> bool:
        """Whether the questions are fixed by what the bet says and by local files."""
        return self.path is not None or self.revision not in (None, UNPINNED)


def _form(value: Any) -> str | None:
    if isinstance(value, BetPart):
        return _TAGS.get(type(value))
    if not isinstance(value, dict):
        return None
    if "reference" in value:
        return _TAGS[ReferenceQuestions]
    if "lm_eval" in value:
        return _TAGS[LmEvalTask]
    return _TAGS[QuestionFile] if "file" in value or "sha256" in value else None


_TAGS: Final[dict[type[BetPart], str]] = {
    ReferenceQuestions: "<reference>",
    QuestionFile: "<file>",
    LmEvalTask: "<lm_eval>",
}

TaskSource = Annotated[
    Annotated[ReferenceQuestions, Tag("<reference>")]
    | Annotated[QuestionFile, Tag("<file>")]
    | Annotated[LmEvalTask, Tag("<lm_eval>")],
    Discriminator(
        _form,
        custom_error_type="task_form",
        custom_error_message=f"must name a task; allowed: {_FORMS}",
    ),
]
"""One of the three forms above."""
