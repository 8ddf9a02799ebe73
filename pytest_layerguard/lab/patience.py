"""Waiting where the hub asks for it, but not for ever."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.lab.errors import UnavailableError
from pytest_layerguard.lab.hub_errors import status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    T = TypeVar("T")

_TRIES: Final = 5
_PASSING: Final = frozenset({429, 500, 502, 503, 504})


class Patience:
    """Repeats requests that a busy hub turned away.

    The client library waits as long as a hub says, a day if it says so; here all waiting together
    is bounded, the library's own included.

    Args:
        what: What is asked for, for messages.
        seconds: The bound.
    """

    def __init__(self, what: str, seconds: float) -> None:
        self._what = what
        self._left = seconds

    def call(self, request: Callable[[], T]) -> T:
        """Make a request, again if need be.

        Raises:
            UnavailableError: If the hub asks for more patience than there is.
        """
        for attempt in range(1, _TRIES):
            try:
                with self._watched():
                    return request()
            except Exception as error:
                status, headers = status_of(error)
                if status not in _PASSING:
                    raise
                pause = wanted_pause(headers)
                if pause is None:
                    pause = 2.0 ** (attempt - 1)
                    self._spend(pause, status)
            time.sleep(pause)
        with self._watched():
            return request()

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """See every answer, also those after which the library would wait by itself."""
        from huggingface_hub import get_session

        def watch(response: Any) -> None:
            if response.status_code == 429:
                self._spend(wanted_pause(response.headers) or 0.0, 429)

        client = get_session()
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "response": [*hooks["response"], watch]}
        try:
            yield
        finally:
            client.event_hooks = hooks

    def _spend(self, seconds: float, status: int) -> None:
        if seconds > self._left:
            asked = (
                "too many requests (429)" if status == 429 else f"an error of its own ({status})"
            )
            raise UnavailableError(
                f"{self._what}: the hub answers with {asked} and wants {seconds:.0f} s of patience, "
                f"of which {self._left:.0f} s are left. Run again later; with HF_TOKEN set the "
                "hub's limits are higher."
            )
        self._left -= seconds


def wanted_pause(headers: Any) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for, a number or a date."""
    value = str(headers.get("Retry-After", "")).strip()
    if value.isdecimal():
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (date - datetime.now(UTC)).total_seconds())
