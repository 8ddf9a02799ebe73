"""Count what a task asks, without a model: its questions, their texts, and the tokens to generate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_layerguard.bet.task_sources import LmEvalTask
from pytest_layerguard.environment.measurement_errors import Lack, UnavailableError
from pytest_layerguard.measurement.metrics.task_metrics import ACCURACY
from pytest_layerguard.texts.questions import read_questions

if TYPE_CHECKING:
    from pytest_layerguard.bet.task_sources import TaskSource
    from pytest_layerguard.environment.allowed_paths import AllowedPaths
    from pytest_layerguard.environment.conditions import Conditions


@dataclass(frozen=True)
class TaskSize:
    """What a task asks of each model.

    Attributes:
        questions: Questions or documents.
        texts: Texts that a model reads: one for each choice of a question.
        characters: The characters of all texts.
        generated: The most new tokens that a model writes.
        gives: The metrics of the task.
    """

    questions: int
    texts: int
    characters: int
    generated: int
    gives: tuple[str, ...]


def size_of(source: TaskSource, key: str, reach: AllowedPaths, conditions: Conditions) -> TaskSize:
    """Count what a task asks, from local files.

    Args:
        source: The task.
        key: The bet's key, such as ``measure.tasks.arc``, for messages.
        reach: The folders that may be read.
        conditions: What the user allows.

    Raises:
        MeasurementError: If the task cannot be asked.
        UnavailableError: If its questions are not here.
    """
    if isinstance(source, LmEvalTask):
        if source.path is None:
            raise UnavailableError(
                f"{key}: the data set of {source.lm_eval} is on the hub", Lack("network", "the hub")
            )
        return _of_lm_eval(source, key, reach, conditions)
    asked = read_questions(source, key, reach, conditions.budget.text_bytes).questions
    return TaskSize(
        len(asked),
        sum(len(each.choices) for each in asked),
        sum(len(each.context) + len(choice) + 1 for each in asked for choice in each.choices),
        0,
        ACCURACY,
    )


def _of_lm_eval(
    source: LmEvalTask, key: str, reach: AllowedPaths, conditions: Conditions
) -> TaskSize:
    from pytest_layerguard.measurement.tasks.lm_eval_task import load_task

    loaded = load_task(source, key, reach, conditions)

    from lm_eval.models.utils import normalize_gen_kwargs

    from pytest_layerguard.measurement.tasks.variants_lm import NEW_TOKENS

    arguments = [request.args for request in loaded.task.instances]
    asked = [each for given in arguments for each in given if isinstance(each, dict)]
    return TaskSize(
        loaded.questions,
        len(arguments),
        sum(len(each) for given in arguments for each in given if isinstance(each, str)),
        sum(int(normalize_gen_kwargs(each, NEW_TOKENS)["max_gen_toks"]) for each in asked),
        loaded.gives,
    )
