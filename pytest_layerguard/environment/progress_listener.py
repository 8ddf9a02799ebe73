"""How far long work is, told by whoever does it to whoever shows it.

What counts lies deep below what measures a bet, so the listener is a context variable: nothing in between
has to hand it down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Final

Advance = Callable[[int], None]
"""Is told how many more steps are done."""

Counting = Callable[[str, int], AbstractContextManager[Advance]]
"""Is told what is done and in how many steps; the block ends when the work does."""


@contextmanager
def uncounted(_what: str, _steps: int) -> Iterator[Advance]:
    """Tell nobody."""
    yield lambda _done: None


_LISTENER: Final[ContextVar[Counting]] = ContextVar("counting", default=uncounted)


@contextmanager
def heard_by(counting: Counting) -> Iterator[None]:
    """Let what is counted in this block be heard."""
    token = _LISTENER.set(counting)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def counted(what: str, steps: int) -> AbstractContextManager[Advance]:
    """Say what is about to be done and in how many steps.

    Args:
        what: A few words, such as ``measuring 4 variants``.
        steps: How many there are; each is told when it is done, by the function that the block gives.
    """
    return _LISTENER.get()(what, steps)
