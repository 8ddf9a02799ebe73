"""Read the tasks of a bet, and ask them of a model and its variants."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pytest_layerguard.bet.task_sources import LmEvalTask
from pytest_layerguard.environment.allowed_paths import AllowedPaths
from pytest_layerguard.measurement.tasks import question_task
from pytest_layerguard.texts.questions import read_questions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pytest_layerguard.bet.task_sources import TaskSource
    from pytest_layerguard.environment.conditions import Conditions
    from pytest_layerguard.measurement.metrics.task_metrics import TaskAnswers
    from pytest_layerguard.measurement.tasks.asked_model import AskedModel


@dataclass(frozen=True)
class BetTasks:
    """The tasks of a bet, read and ready to be asked, by their names."""

    asking: Mapping[str, Callable[[AskedModel], TaskAnswers]]

    @classmethod
    def of(
        cls,
        sources: Mapping[str, TaskSource] | None,
        bet_file: Path,
        bets: Path,
        conditions: Conditions,
    ) -> BetTasks:
        """Read the tasks of a bet file.

        Raises:
            MeasurementError: If a task is missing, is not what the bet says, or has no right answers.
            UnavailableError: If a task needs a package or a network that is not here.
        """
        reach = AllowedPaths.of(bet_file, bets, conditions)
        asking: dict[str, Callable[[AskedModel], TaskAnswers]] = {}
        for name, source in (sources or {}).items():
            key = f"measure.tasks.{name}"
            if isinstance(source, LmEvalTask):
                from pytest_layerguard.measurement.tasks.lm_eval_task import load_task

                task = load_task(source, key, reach, conditions)
                conditions.budget.check("questions", task.questions, f"{key}, questions")
                asking[name] = task.ask
            else:
                found = read_questions(source, key, reach, conditions.budget.text_bytes)
                conditions.budget.check("questions", len(found.questions), f"{key}, questions")
                asking[name] = partial(question_task.ask, asked=found)
        return cls(asking)

    def ask(self, model: AskedModel) -> dict[str, TaskAnswers]:
        """Return the answers of a model and its variants, by the name of the task."""
        return {name: ask(model) for name, ask in self.asking.items()}
