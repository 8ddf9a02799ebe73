"""What a model and its variants write and answer, beside their losses on texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_layerguard.measurement.generation import run_free, sample

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeVar

    from pytest_layerguard.bet.bet import Measure
    from pytest_layerguard.measurement.metrics.free_text import FreeText
    from pytest_layerguard.measurement.results import Continuation
    from pytest_layerguard.measurement.tasks.asked_model import AskedModel
    from pytest_layerguard.measurement.tasks.bet_tasks import BetTasks, TaskResult
    from pytest_layerguard.models.plan import Plan

    T = TypeVar("T")


@dataclass(frozen=True)
class ModelOutputs:
    """The texts and answers of a model and its variants, each by its plan.

    Attributes:
        samples: Greedy continuations.
        eye_test: Continuations drawn at a temperature.
        free: Greedy continuations that run free.
        answers: The answers to each task, by its name.
    """

    samples: Mapping[Plan, tuple[Continuation, ...]]
    eye_test: Mapping[Plan, tuple[Continuation, ...]]
    free: Mapping[Plan, tuple[FreeText, ...]]
    answers: Mapping[str, TaskResult]

    @classmethod
    def of(cls, model: AskedModel, measure: Measure, tasks: BetTasks) -> ModelOutputs:
        """Let a model and its variants continue the prompts of a bet, and ask them its tasks.

        Raises:
            MeasurementError: If a prompt cannot be continued, or a task cannot be asked of this model.
        """
        runner, loaded, variants = model.runner, model.loaded, model.variants
        return cls(
            sample(runner, loaded, variants, measure.sample),
            sample(runner, loaded, variants, measure.speak),
            run_free(runner, loaded, variants, measure.generate),
            tasks.ask(model),
        )

    def beside(self, others: Mapping[Plan, ModelOutputs]) -> ModelOutputs:
        """Return these with those of other models, each of one plan, under the plans that stand for them here."""
        return ModelOutputs(
            {**self.samples, **{plan: _only(each.samples) for plan, each in others.items()}},
            {**self.eye_test, **{plan: _only(each.eye_test) for plan, each in others.items()}},
            {**self.free, **{plan: _only(each.free) for plan, each in others.items()}},
            {
                name: asked.beside(
                    {plan: _only(each.answers[name].answers) for plan, each in others.items()}
                )
                for name, asked in self.answers.items()
            },
        )


def _only(of: Mapping[Plan, T]) -> T:
    (one,) = of.values()
    return one
