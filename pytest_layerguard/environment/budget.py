"""Limit how much of a machine one bet may use: it comes from a pull request, and must not exhaust it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from pytest_layerguard.environment.measurement_errors import MeasurementError

if TYPE_CHECKING:
    from pytest_layerguard.bet.bet import Bet

LIMIT_FLAG: Final = "--layerguard-limit"


@dataclass(frozen=True)
class Budget:
    """The most that a run spends on one bet. The size of the bet file has limits of its own.

    Attributes:
        tokens: Scored tokens of one text.
        spoken: New tokens of one variant, over all prompts of ``sample`` and ``speak``.
        questions: Questions of one task.
        steps: Training steps of one arm.
        variants: Variants of all arms together.
        layers: Layers of a model; their pairs are all listed before they are counted.
        parameters: Parameters of a model.
        text_bytes: Bytes of a text file.
        model_bytes: Bytes of weights that are fetched from a hub.
    """

    tokens: int = 10_000_000
    spoken: int = 65_536
    questions: int = 100_000
    steps: int = 100_000
    variants: int = 20_000
    layers: int = 1_000
    parameters: int = 1_000_000_000_000
    text_bytes: int = 2**30
    model_bytes: int = 2 * 2**40

    def check(self, name: str, wanted: int, what: str) -> None:
        """Raise MeasurementError if ``wanted`` of ``what`` exceeds the limit ``name``."""
        most = getattr(self, name)
        if wanted > most:
            raise MeasurementError(
                f"{what}: {wanted:,}; this run allows {most:,}. Take fewer, or allow more with {LIMIT_FLAG} "
                f"{name}=NUMBER"
            )

    def check_bet(self, bet: Bet) -> None:
        """Raise MeasurementError if the bet, before its model is loaded, exceeds a limit."""
        measure = bet.measure
        self.check("tokens", measure.tokens or 0, "measure.tokens")
        for key in ("sample", "generate", "speak"):
            spec = getattr(measure, key)
            if spec is not None:
                new = len(spec.prompts) * spec.tokens
                self.check("spoken", new, f"measure.{key}, tokens times prompts")
        for arm, interventions in bet.arm_interventions.items():
            steps = sum(getattr(each.arguments, "steps", 0) for each in interventions)
            self.check("steps", steps, f"training steps{f' of arm {arm}' if arm else ''}")


NAMES: Final = tuple(each.name for each in fields(Budget))
