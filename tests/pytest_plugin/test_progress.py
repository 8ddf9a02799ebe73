"""What long work shows: on a terminal, in a log, from a worker, and never for short work."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_layerguard.pytest_plugin.progress import Display, FileScreen, LogScreen, TerminalScreen

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Project


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class TestStatus:
    """What is shown: what is done, how far it is, how long it will take."""

    def test_work_that_counts_nothing_says_how_long_it_took(self) -> None:
        clock = Clock()
        display = Display(None, clock)
        with display.bet("bet-40"):
            display.begin("loading model reference")
            clock.now += 12
            assert display.status() == "bet-40: loading model reference, 12s"

    def test_work_that_counts_says_how_long_it_will_take(self) -> None:
        clock = Clock()
        display = Display(None, clock)
        with display.bet("bet-40"), display.counting("measuring 4 variants", 8) as advance:
            assert display.status() == "bet-40: measuring 4 variants, 0%"
            clock.now += 30
            advance(2)
            assert display.status() == "bet-40: measuring 4 variants, 25%, 1m 30s left"
            advance(7)
            assert display.status() == "bet-40: measuring 4 variants, 100%, 0.0s left"

    def test_what_is_done_inside_other_work_ends_with_it(self) -> None:
        display = Display(None, Clock())
        with display.bet("bet-40"), display.counting("training", 100) as outer:
            outer(50)
            with display.counting("measuring", 10) as inner:
                inner(1)
                assert display.status().startswith("bet-40: measuring, 10%")
            assert display.status().startswith("bet-40: training, 50%")

    def test_a_name_cannot_steer_a_terminal(self) -> None:
        display = Display(None, Clock())
        with display.bet("bet-40"):
            display.begin("loading caf\u00e9\u202e\n::error::\x1b[2J")
            reported = "bet-40: loading caf??\\u000a::error::\\u001b[2J, 0.0s"
            assert display.status() == reported


class TestLine:
    """A terminal."""

    def test_it_is_rewritten_and_taken_back(self) -> None:
        out = io.StringIO()
        line = TerminalScreen(out, lambda: 80)
        line.show("a quarter of it is done")
        line.show("half of it is done")
        line.clear()
        line.clear()
        assert out.getvalue() == (
            "a quarter of it is done\x1b[23D\x1b[Khalf of it is done\x1b[18D\x1b[K"
        )

    @pytest.mark.parametrize("room", range(1, 40))
    def test_it_never_breaks_the_line(self, room: int) -> None:
        out = io.StringIO()
        TerminalScreen(out, lambda: room).show("measuring 4 variants, 12s left")
        assert len(out.getvalue()) < room


def test_a_log_gets_whole_lines_and_is_left_tidy() -> None:
    out = io.StringIO()
    tidied: list[bool] = []
    log = LogScreen(out, lambda: tidied.append(True))
    log.clear()
    assert not tidied
    log.show("a quarter")
    log.show("half")
    log.show("half")
    log.clear()
    assert out.getvalue() == "\nlayerguard: a quarter\nlayerguard: half\n"
    assert tidied == [True]


def test_a_worker_leaves_a_note_and_takes_it_away(tmp_path: Path) -> None:
    path = tmp_path / "gw0.txt"
    note = FileScreen(path)
    note.show("a quarter")
    note.show("half")
    assert path.read_text(encoding="utf-8") == "half"
    note.clear()
    assert list(tmp_path.iterdir()) == []
    FileScreen(tmp_path / "gone" / "gw0.txt").show("nobody hears")


SLOW = """

from pytest_layerguard.pytest_plugin import progress, xdist
from pytest_layerguard.pytest_plugin.bet_items import conditions_of

for screen in (progress.TerminalScreen, progress.LogScreen, progress.FileScreen):
    screen.first = screen.every = {pause}
xdist.EVERY = {pause}


class Slow(FakeMeasurer):
    def __init__(self, terms):
        self.terms = terms

    def measure(self, document, *, bets):
        import time

        self.terms.progress("loading a model")
        with self.terms.counting("measuring 2 variants", 10) as advance:
            advance(5)
            print("printed by a library")
            time.sleep({sleep})
        return super().measure(document, bets=bets)


def pytest_layerguard_measurer(config):
    return Slow(conditions_of(config))
"""


@pytest.fixture
def slow(project: Project) -> Project:
    """A project whose measurer takes long enough to be shown many times."""
    conftest = project.path / "conftest.py"
    text = conftest.read_text(encoding="utf-8") + SLOW.format(pause=0.05, sleep=1.0)
    conftest.write_text(text, encoding="utf-8")
    project.bet("bet-1")
    project.bet("bet-2", "CATASTROPHIC")
    return project


def test_it_is_seen_in_a_log_under_capture(slow: Project) -> None:
    result = slow.run_apart("bets/", "-v")
    assert result.ret == 1
    assert "layerguard: bet-1: measuring 2 variants, 50%, " in result.stdout.str()
    assert "layerguard: bet-2: measuring 2 variants, 50%, " in result.stdout.str()
    words = [
        line for line in result.outlines if re.match(r"bets/bet-.+::bet-. (LENIENT|CATASTR)", line)
    ]
    assert len(words) >= 2
    result.stdout.fnmatch_lines(["*- Captured stdout call -*", "printed by a library"])
    result.stdout.fnmatch_lines(["* bet-1 *LENIENT *", "* bet-2 *CATASTROPHIC *"])


def test_a_quiet_run_shows_nothing(slow: Project) -> None:
    slow.run_apart("bets/", "-q").stdout.no_fnmatch_line("*layerguard: bet-*")


@pytest.mark.slow
def test_the_controller_shows_what_its_workers_do(slow: Project) -> None:
    result = slow.run_apart("bets/", "-n", "1")
    result.stdout.fnmatch_lines(["layerguard: gw0: bet-1: measuring 2 variants, 50%, *"])
    result.stdout.fnmatch_lines(["* bet-1 *LENIENT *", "* bet-2 *CATASTROPHIC *"])


def test_short_work_shows_nothing(project: Project) -> None:
    conftest = project.path / "conftest.py"
    text = conftest.read_text(encoding="utf-8") + SLOW.format(pause=60, sleep=0)
    conftest.write_text(text, encoding="utf-8")
    project.bet("bet-1")
    quiet = project.run_apart("bets/", "-v")
    assert [line for line in quiet.outlines if "measuring" in line] == []
    quiet.stdout.fnmatch_lines(["bets/bet-1.yaml::bet-1 LENIENT *100%*"])


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_shows_it_and_keeps_no_trace(slow: Project) -> None:
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "bets/", "-v", "-p", "no:cacheprovider", "--tb=no"],
        cwd=slow.path,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    said = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # The other end is closed.
            break
        if not piece:
            break
        said += piece
    os.close(ours)
    assert process.wait() == 1
    text = said.decode()
    assert "bet-1: measuring 2 variants, 50%, " in text
    shown = played(text)
    assert not [line for line in shown if "measuring" in line]
    for id_, word in (("bet-1", "LENIENT"), ("bet-2", "CATASTROPHIC")):
        assert [
            line for line in shown if re.fullmatch(rf"bets/{id_}.*::{id_} {word} +\[.*%\]", line)
        ]


def played(text: str) -> list[str]:
    """The lines that stand on a terminal in the end, for the few codes that are used."""
    lines = []
    for written in text.replace("\r\n", "\n").split("\n"):
        cells: list[str] = []
        column = 0
        for code in re.finditer(
            r"\x1b\[(\d*)D|(\x1b\[K)|\x1b[^a-zA-Z]*[a-zA-Z]|\x1b\].*?\x1b\\|(.)", written
        ):
            if code[1]:
                column -= int(code[1])
            elif code[2]:
                del cells[column:]
            elif code[3]:
                cells[column:] = [*cells[column:column], code[3], *cells[column + 1 :]]
                column += 1
        lines.append("".join(cells).rstrip())
    return lines
