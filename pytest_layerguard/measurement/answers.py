"""What a laboratory said of a bet, as plain data that other processes and machines can be told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.measurement.results import BetResult

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_layerguard.bet.reader import BetDocument

Answer = Mapping[str, Any]
"""One of ``result``, ``unavailable`` and ``error``, with what was found or why nothing was."""


class Measures(Protocol):
    """Whatever measures bets."""

    def expect(self, documents: Iterable[tuple[BetDocument, Path]]) -> None:
        """Take note of the bets to come."""

    def measure(self, document: BetDocument, *, bets: Path) -> BetResult:
        """Measure a bet."""


def failure(error: Exception) -> Answer:
    """Return the answer where nothing was found."""
    if isinstance(error, UnavailableError):
        return {"unavailable": str(error)}
    if isinstance(error, MeasurementError):
        return {"error": str(error)}
    return {"error": f"{type(error).__name__}: {error}"}


def success(result: BetResult) -> Answer:
    """Return the answer where something was found."""
    return {"result": result.to_json()}


def given(answer: Answer) -> BetResult:
    """Return what was found.

    Raises:
        MeasurementError: If nothing was, or if the answer is damaged.
        UnavailableError: If what the bet needs was not there.
    """
    if "unavailable" in answer:
        raise UnavailableError(str(answer["unavailable"]))
    if "error" in answer:
        raise MeasurementError(str(answer["error"]))
    try:
        return BetResult.from_json(answer["result"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MeasurementError(
            f"the result that was handed on is damaged ({type(error).__name__})"
        ) from None
