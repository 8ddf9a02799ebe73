"""Ask multiple-choice questions of a file: the most likely choice is the answer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pytest_layerguard.environment.allowed_paths import quoted
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement.metrics.task_metrics import Answer, Question, TaskAnswers
from pytest_layerguard.models import tokenization

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_layerguard.measurement.tasks.asked_model import AskedModel, Likelihood
    from pytest_layerguard.texts.questions import ChoiceQuestion, QuestionSet


def ask(model: AskedModel, asked: QuestionSet) -> TaskAnswers:
    """Return the answers of every plan of a model.

    Raises:
        MeasurementError: If a question cannot be asked of this model.
    """
    texts = [(each.context, f" {choice}") for each in asked.questions for choice in each.choices]
    pairs = tokenization.encode_pairs(model.loaded.tokenizer, texts)
    for (_, ids), (before, choice) in zip(pairs, texts, strict=True):
        if not ids:
            raise MeasurementError(
                f"the choice {quoted(choice[1:])} after {quoted(before[-60:])} has no tokens of its own: the "
                "tokenizer leaves it out, or joins it to what stands before it"
            )
    likelihoods = model.likelihoods(pairs)
    context = model.context
    cut = sum(context is not None and len(one) + len(other) > context + 1 for one, other in pairs)
    return TaskAnswers(
        tuple(
            Question(each.context, each.choices[each.answer], 1 / len(each.choices))
            for each in asked.questions
        ),
        {plan: tuple(_answers(asked.questions, found)) for plan, found in likelihoods.items()},
        {
            "digest": asked.digest,
            "questions": len(asked.questions),
            **({"contexts_cut_short": cut} if cut else {}),
        },
    )


def _answers(questions: Sequence[ChoiceQuestion], found: Sequence[Likelihood]) -> list[Answer]:
    answers: list[Answer] = []
    start = 0
    for each in questions:
        values = tuple(one.value for one in found[start : start + len(each.choices)])
        start += len(values)
        if any(map(math.isnan, values)):
            answers.append(Answer(right=False, text="none: not a number", evidence=values))
            continue
        chosen = max(range(len(values)), key=values.__getitem__)
        answers.append(Answer(chosen == each.answer, each.choices[chosen], values))
    return answers
