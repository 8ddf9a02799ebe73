"""Report the progress of long work to whoever shows it.

The work happens many calls below the code that measures a bet. The listener is a context variable, so that no
function in between has to pass it on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Final

Advance = Callable[[int], None]
"""Called with the number of steps that were done since the last call."""

Counting = Callable[[str, int], AbstractContextManager[Advance]]
"""Called with a description and the number of steps. The block ends when the work does."""


@contextmanager
def uncounted(_what: str, _steps: int) -> Iterator[Advance]:
    """Ignore the progress of the block."""
    yield lambda _done: None


_LISTENER: Final[ContextVar[Counting]] = ContextVar("counting", default=uncounted)


@contextmanager
def progress_to(counting: Counting) -> Iterator[None]:
    """Report the progress of the work in the block to ``counting``."""
    token = _LISTENER.set(counting)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def counted(what: str, steps: int) -> AbstractContextManager[Advance]:
    """Report the steps of the block, which calls the function that it gets with the number of steps done.

    Args:
        what: A few words, such as ``measuring 4 variants``.
        steps: How many steps there are.
    """
    return _LISTENER.get()(what, steps)
