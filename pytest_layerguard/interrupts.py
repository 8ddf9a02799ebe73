"""Interrupts that come while the end of a run is told.

pytest answers Ctrl-C while it collects and runs, but no longer once it has asked its plugins to
finish: then a traceback ends the process wherever it stands, with some reports written and others
not. Writing takes part of a second, so an interrupt can wait for it.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Held:
    """Whether an interrupt came in the meantime."""

    came: bool = False


@contextmanager
def held() -> Iterator[Held]:
    """Hold interrupts back in the block; whoever uses it answers to what came.

    Only the main thread can, and only what Python would make a KeyboardInterrupt of is held.
    """
    held = Held()
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler or (
        threading.current_thread() is not threading.main_thread()
    ):
        yield held
        return

    def note(_number: int, _frame: object) -> None:
        held.came = True

    signal.signal(signal.SIGINT, note)
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, usual)
