"""Limit the time that a bet is measured.

The deadline is checked between two layers. A layer itself cannot be interrupted from within; whoever started
the process must see to that.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from pytest_layerguard.environment.conditions import TIMEOUT_FLAG
from pytest_layerguard.environment.measurement_errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNTIL: Final[ContextVar[tuple[float, float] | None]] = ContextVar("until", default=None)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let the block take this many seconds; 0 for no limit."""
    token = _UNTIL.set((time.monotonic() + seconds, seconds) if seconds else None)
    try:
        yield
    finally:
        _UNTIL.reset(token)


def check() -> None:
    """Raise MeasurementError if the time of the block is over."""
    until = _UNTIL.get()
    if until is not None and time.monotonic() > until[0]:
        raise MeasurementError(
            f"not measured within {until[1]:g} seconds; take fewer tokens or variants, or allow more with "
            f"{TIMEOUT_FLAG} SECONDS"
        )
