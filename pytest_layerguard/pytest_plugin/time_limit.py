"""A time limit for code that cannot be interrupted, such as a call of CUDA.

Python handles a signal between two bytecodes, and a native call that hangs never gets to the next one. So
the process has to end: a thread prints which bet hung, and writes the reports of the bets before it. A
native call that also holds the GIL stops that thread; then a timer of faulthandler, which needs no GIL,
prints the stacks and ends the process. Under pytest-xdist another worker takes over the other bets.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_layerguard.pytest_plugin import reporting
from pytest_layerguard.pytest_plugin.bet_items import BetItem
from pytest_layerguard.pytest_plugin.options import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Generator


def hung_after(limit: float) -> float:
    """Return the seconds after which a bet counts as hung; others end by themselves at the limit."""
    return 1.5 * limit + 1


def stuck_after(limit: float) -> float:
    """Return the seconds after which faulthandler ends a process whose thread could not."""
    return 2 * limit + 2


def configure(config: pytest.Config) -> None:
    """Watch bets where there is a time limit."""
    limit = config.stash[SETTINGS].timeout
    if limit:
        config.pluginmanager.register(HangWatch(config, limit), "layerguard-hanging")


class HangWatch:
    """Ends the process of a bet that hangs."""

    def __init__(self, config: pytest.Config, limit: float) -> None:
        self._config = config
        self._limit = limit
        self._deciding = threading.Lock()
        self._done = False
        self._stderr: Final = _real_stderr()
        config.add_cleanup(lambda: os.close(self._stderr))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        """Start both timers for a bet, and stop them when it is done."""
        if not isinstance(item, BetItem):
            return (yield)
        self._done = False
        timer = threading.Timer(hung_after(self._limit), self._end, (item,))
        timer.daemon = True
        timer.start()
        # A process has one such timer, and the user's has priority.
        ours = not float(self._config.getini("faulthandler_timeout") or 0)
        if ours:
            faulthandler.dump_traceback_later(
                stuck_after(self._limit), exit=True, file=self._stderr
            )
        try:
            return (yield)
        finally:
            with self._deciding:
                self._done = True
            timer.cancel()
            if ours:
                faulthandler.cancel_dump_traceback_later()

    def _end(self, item: BetItem) -> None:
        with self._deciding:
            if self._done:
                return
            try:
                self._report(item)
            finally:
                os._exit(pytest.ExitCode.TESTS_FAILED)

    def _report(self, item: BetItem) -> None:
        later = sum(isinstance(each, BetItem) for each in _after(item))
        text = (
            f"hung: not back {hung_after(self._limit):g} seconds after it began, with a limit of "
            f"{self._limit:g}; a call of a device or of native code cannot be interrupted, so the "
            "process was ended"
        )
        lines = [f"{item.nodeid}: {text}"]
        if later and not reporting.is_worker(self._config):
            lines.append(
                f"bets left unmeasured: {later}; pytest-xdist (-n 1) would go on with them"
            )
        os.write(self._stderr, ("\n\nERROR: " + "\n".join(lines) + "\n").encode())
        bet = reporting.lost(item.document, text, self._config)
        self._config.stash[reporting.RESULTS].bets.append(bet)
        reporting.write(item.session)


def _after(item: pytest.Item) -> list[pytest.Item]:
    items = item.session.items
    return items[items.index(item) + 1 :] if item in items else []


def _real_stderr() -> int:
    """Return a descriptor of the standard error from before pytest captures it."""
    try:
        return os.dup(sys.stderr.fileno())
    except (AttributeError, OSError, ValueError):
        assert sys.__stderr__ is not None
        return os.dup(sys.__stderr__.fileno())
