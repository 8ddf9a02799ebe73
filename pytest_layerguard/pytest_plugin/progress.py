"""Progress of long work, shown while pytest captures all output.

A terminal shows one line that is rewritten, a log a line every half minute, and a worker of pytest-xdist
writes a file that its controller reads.

Work counts its steps on the main thread, which may be silent for minutes, so another thread shows them. It
writes to a duplicate of the standard output from before capturing, which needs no switching of captures.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import TextIO

WORKER_INPUT: Final = "layerguard_progress"
"""The key in `workerinput` of the path to which a worker of pytest-xdist writes its progress."""


class Screen(Protocol):
    """A place that shows progress."""

    first: float
    """Seconds after which progress is shown."""
    every: float
    """Seconds between two showings."""

    def show(self, text: str) -> None:
        """Show a text; called from another thread."""

    def clear(self) -> None:
        """Remove the text before pytest prints again."""


class TerminalScreen:
    """A terminal: the text follows the output of pytest, and is removed again."""

    first = 2.0
    every = 0.5
    shortest: Final = 16

    def __init__(self, out: TextIO, room: Callable[[], int]) -> None:
        self._out = out
        self._room = room
        self._shown = 0

    def show(self, text: str) -> None:
        """Rewrite the text, cut to what is left of the line."""
        room = self._room() - 1
        text = text if len(text) <= room else f"{text[: room - 3]}..."
        self._write(text if room >= self.shortest else "")

    def clear(self) -> None:
        """Remove the text."""
        self._write("")

    def _write(self, text: str) -> None:
        back = f"\x1b[{self._shown}D\x1b[K" if self._shown else ""
        self._shown = len(text)
        self._out.write(back + text)
        self._out.flush()


class LogScreen:
    """A log: a line every half minute, which stays."""

    first = 30.0
    every = 30.0

    def __init__(self, out: TextIO, tidy: Callable[[], None]) -> None:
        self._out = out
        self._tidy = tidy
        self._shown = ""

    def show(self, text: str) -> None:
        """Write a line that is not the last one again; the first one ends the line that pytest has begun."""
        if text == self._shown:
            return
        self._out.write(f"{'' if self._shown else chr(10)}layerguard: {text}\n")
        self._out.flush()
        self._shown = text

    def clear(self) -> None:
        """Begin a new line for pytest."""
        if self._shown:
            self._tidy()
        self._shown = ""


class FileScreen:
    """A worker of pytest-xdist, which has no terminal: a file that its controller reads."""

    first = 2.0
    every = 2.0

    def __init__(self, path: Path) -> None:
        self._path = path

    def show(self, text: str) -> None:
        """Replace the text in the file."""
        written = self._path.with_suffix(".tmp")
        try:
            written.write_text(text, encoding="utf-8")
            written.replace(self._path)
        except OSError:
            # The controller is gone. The work itself goes on.
            return

    def clear(self) -> None:
        """Remove the file."""
        self._path.unlink(missing_ok=True)


class Display:
    """Shows the progress of the bet that is measured; nothing without a screen."""

    def __init__(self, screen: Screen | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen = screen
        self._clock = clock
        self._bet = ""
        self._what = ""
        self._steps = 0
        self._done = 0
        self._began = 0.0
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def bet(self, name: str) -> Iterator[None]:
        """Show the progress of the work in this block as that of a bet."""
        self._bet = name
        try:
            yield
        finally:
            self._stop()

    def begin(self, what: str, steps: int = 0) -> None:
        """Begin work of `steps` steps; 0 if they cannot be counted."""
        self._what, self._steps, self._done, self._began = what, steps, 0, self._clock()
        if self._thread is None and self._screen is not None:
            self._over.clear()
            self._thread = threading.Thread(
                target=self._watch, args=(self._screen,), name="layerguard-progress", daemon=True
            )
            self._thread.start()

    @contextmanager
    def counting(self, what: str, steps: int) -> Iterator[Callable[[int], None]]:
        """Begin work of `steps` steps; yield a function that is called with the number of steps done."""
        before = (self._what, self._steps, self._done, self._began)
        self.begin(what, steps)
        try:
            yield self._advance
        finally:
            self._what, self._steps, self._done, self._began = before

    def status(self) -> str:
        """Return the work, the share that is done and the time left, as one line of ASCII."""
        from pytest_layerguard.bet.errors import printable
        from pytest_layerguard.report import text

        took = self._clock() - self._began
        # The name of a dataset's file, shown while it is fetched, is untrusted.
        work = printable(f"{self._bet}: {self._what}".encode("ascii", "replace").decode())
        if not self._steps:
            return f"{work}, {text.seconds(took)}"
        done = min(self._done, self._steps)
        share = f"{work}, {100 * done // self._steps}%"
        if not done:
            return share
        return f"{share}, {text.seconds(took / done * (self._steps - done))} left"

    def _advance(self, done: int) -> None:
        self._done += done

    def _watch(self, screen: Screen) -> None:
        wait = screen.first
        while not self._over.wait(wait):
            screen.show(self.status())
            wait = screen.every

    def _stop(self) -> None:
        if self._thread is not None and self._screen is not None:
            self._over.set()
            self._thread.join()
            self._thread = None
            self._screen.clear()


DISPLAY: Final[pytest.StashKey[Display]] = pytest.StashKey()


def display(config: pytest.Config) -> Display:
    """Return the display of this process, made when the first bet runs."""
    if DISPLAY not in config.stash:
        config.stash[DISPLAY] = Display(_screen(config))
    return config.stash[DISPLAY]


def _screen(config: pytest.Config) -> Screen | None:
    given = getattr(config, "workerinput", {})
    if given:
        return FileScreen(Path(given[WORKER_INPUT])) if WORKER_INPUT in given else None
    reporter: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or config.get_verbosity() < 0:
        return None
    with uncaptured(config):
        try:
            out = open(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")  # noqa: PTH123, SIM115
        except (OSError, ValueError, AttributeError):
            # Not a real file, as inside another program.
            return None
    config.add_cleanup(out.close)
    plain = os.environ.get("TERM") == "dumb" or config.getoption("capture", "fd") == "no"
    if out.isatty() and not plain:
        writer = config.get_terminal_writer()
        return TerminalScreen(out, lambda: writer.fullwidth - writer.width_of_current_line)

    def tidy() -> None:
        with uncaptured(config):
            reporter.ensure_newline()

    return LogScreen(out, tidy)


def uncaptured(config: pytest.Config) -> AbstractContextManager[Any]:
    """Suspend capturing in the block, also while a test runs."""
    capture = config.pluginmanager.get_plugin("capturemanager")
    if capture is None:
        return nullcontext()
    held: AbstractContextManager[Any] = capture.global_and_fixture_disabled()
    return held
