"""Read the tasks of a bet, and ask them of a model and its variants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.bet.errors import many
from pytest_layerguard.bet.task_sources import LmEvalTask
from pytest_layerguard.environment.allowed_paths import AllowedPaths
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement.metrics.task_metrics import TaskAnswers
from pytest_layerguard.measurement.tasks import question_task
from pytest_layerguard.texts.questions import read_questions

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from pytest_layerguard.bet.bet import Bet
    from pytest_layerguard.environment.conditions import Conditions
    from pytest_layerguard.measurement.metrics.task_perplexity import TaskLikelihoods
    from pytest_layerguard.measurement.tasks.asked_model import AskedModel

    TaskResult = TaskAnswers | TaskLikelihoods


@dataclass(frozen=True)
class BetTasks:
    """The tasks of a bet, read and ready to be asked, by their names."""

    asking: Mapping[str, Callable[[AskedModel], TaskResult]]

    @classmethod
    def of(
        cls,
        bet: Bet,
        tokenizer: PreTrainedTokenizerBase,
        bet_file: Path,
        bets: Path,
        conditions: Conditions,
    ) -> BetTasks:
        """Read the tasks of a bet.

        Args:
            bet: The bet.
            tokenizer: The base's, whose chat template is applied to the prompts of tasks that ask for it.
            bet_file: The file that the bet stands in.
            bets: Its bet folder.
            conditions: What the user allows.

        Raises:
            MeasurementError: If a task is missing, is not what the bet says, or does not give what a criterion names.
            UnavailableError: If a task needs a package or a network that is not here.
        """
        reach = AllowedPaths.of(bet_file, bets, conditions)
        asking: dict[str, Callable[[AskedModel], TaskResult]] = {}
        for name, source in (bet.measure.tasks or {}).items():
            key = f"measure.tasks.{name}"
            if isinstance(source, LmEvalTask):
                from pytest_layerguard.measurement.tasks.lm_eval_task import load_task

                task = load_task(source, key, reach, conditions, tokenizer)
                conditions.budget.check("questions", task.questions, f"{key}, questions")
                check_criteria(bet, name, task.gives)
                asking[name] = task.ask
            else:
                found = read_questions(source, key, reach, conditions.budget.text_bytes)
                conditions.budget.check("questions", len(found.questions), f"{key}, questions")
                asking[name] = partial(question_task.ask, asked=found)
        return cls(asking)

    def ask(self, model: AskedModel) -> dict[str, TaskResult]:
        """Return the answers of a model and its variants, by the name of the task.

        Raises:
            MeasurementError: If a task cannot be asked of this model.
        """
        found: dict[str, TaskResult] = {}
        for name, ask in self.asking.items():
            try:
                found[name] = ask(model)
            except MeasurementError as error:
                raise MeasurementError(f"measure.tasks.{name}: {error}") from None
        return found


def check_base(bet: Bet, task: str, asked: TaskResult, base: Any) -> None:
    """Refuse a base that gives a document no likelihood, or that a criterion compares with and that may only guess.

    Against the one every variant would be infinitely better; the other has nothing to lose.

    Args:
        bet: The bet.
        task: The task's name in the bet.
        asked: The answers.
        base: The base, as its answers are found there.

    Raises:
        MeasurementError: If a likelihood is not finite, or guesses may be right as often.
    """
    if not isinstance(asked, TaskAnswers):
        unlikely = [each for each in asked.answers[base] if not math.isfinite(each)]
        if unlikely:
            raise MeasurementError(
                f"measure.tasks.{task}: the base has no finite likelihood of {len(unlikely)} of "
                f"{len(asked.documents)} documents, so that nothing can be compared with it"
            )
        return
    compares = any(
        task in named.prefix and named.metric in ("accuracy_change", "base_accuracy")
        for _, expression in bet.criteria
        for named in (expression.references if expression is not None else ())
    )
    allowed = bet.measure.max_base_perplexity == "none"
    if not compares or allowed:
        return
    found = asked.base_metrics(base)["accuracy"]
    if found.low <= asked.chance:
        raise MeasurementError(
            f"measure.tasks.{task}: of {many(len(asked.questions), 'question')} the base is right in a share of "
            f"{found}, and guesses in {short(asked.chance)}: it has nothing to lose that could be told from guessing. "
            "Ask more questions, or easier ones, or name accuracy alone"
        )


def check_criteria(bet: Bet, task: str, given: Collection[str]) -> None:
    """Refuse criteria that name what a task does not give.

    Args:
        bet: The bet.
        task: The task's name in the bet.
        given: The metrics that it gives.

    Raises:
        MeasurementError: If a criterion names another.
    """
    for level, expression in bet.criteria:
        for named in expression.references if expression is not None else ():
            if task in named.prefix and named.metric not in given:
                raise MeasurementError(
                    f"criteria.{level}: '{named}' is not measured; the task gives {', '.join(given)}"
                )
