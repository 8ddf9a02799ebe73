"""What the machine does to a run: hangs, deaths, signals; what is left of it, and what it says."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Trouble

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")


@pytest.mark.machine
def test_a_call_that_hangs_ends_the_process_and_keeps_what_there_is(trouble: Trouble) -> None:
    trouble.bets(a="fine", b="sleeps", c="fine", d="fine")
    code, printed = trouble.run_apart("--layerguard-timeout=6")
    assert code == 1, printed
    assert "ERROR: bets/b.yaml::b: hung: not back 10 seconds after it began" in printed
    assert "bets left unmeasured: 2; pytest-xdist (-n 1) would go on with them" in printed
    assert trouble.words() == {"a": "LENIENT", "b": "ERROR"}


@pytest.mark.machine
def test_a_call_that_holds_pythons_lock_ends_too(trouble: Trouble) -> None:
    trouble.bets(a="holds the lock")
    code, printed = trouble.run_apart("--layerguard-timeout=1")
    assert code == 1, printed
    assert "Timeout (0:00:04)!" in printed
    assert "in measure" in printed


@pytest.mark.machine
def test_a_worker_that_dies_takes_one_bet_with_it(trouble: Trouble) -> None:
    trouble.bets(a="fine", b="dies", c="fine")
    code, printed = trouble.run_apart("-n1")
    assert code == 1, printed
    assert trouble.words() == {"a": "LENIENT", "b": "ERROR", "c": "LENIENT"}
    assert "bets/b.yaml:1: b: ERROR: the process that measured it died (worker 'gw0'" in printed
    assert "1 failed, 2 passed" in printed


def test_a_lack_of_memory_that_nobody_foresaw_is_an_error_of_one_bet(trouble: Trouble) -> None:
    trouble.bets(a="is short of memory", b="fine")
    code, printed = trouble.run()
    assert code == 1, printed
    assert trouble.words() == {"a": "ERROR", "b": "LENIENT"}


def waits(trouble: Trouble, started: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 120
    while not (trouble.path / "measuring").exists():
        assert started.poll() is None, started.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)


@pytest.mark.machine
def test_an_interrupt_leaves_a_report_of_what_was_measured(trouble: Trouble) -> None:
    trouble.bets(a="fine", b="sleeps", c="fine")
    started = trouble.start("--layerguard-record")
    waits(trouble, started)
    started.send_signal(signal.SIGINT)
    printed, _ = started.communicate(timeout=120)
    assert started.returncode == pytest.ExitCode.INTERRUPTED, printed
    assert trouble.words() == {"a": "LENIENT"}
    assert [path.name for path in (trouble.path / "bets" / "records").iterdir()] == ["a.json"]


@pytest.mark.machine
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_nothing_half_written(trouble: Trouble, number: signal.Signals) -> None:
    trouble.bets(a="fine", b="sleeps")
    trouble.report.parent.mkdir()
    trouble.report.write_text("before", encoding="utf-8")
    started = trouble.start("--layerguard-record")
    waits(trouble, started)
    started.send_signal(number)
    started.communicate(timeout=120)
    assert started.returncode == -number
    assert trouble.report.read_text(encoding="utf-8") == "before"
    assert [path.name for path in (trouble.path / "bets" / "records").iterdir()] == ["a.json"]
    assert trouble.left() == []


@pytest.mark.machine
def test_two_runs_at_once_share_records_and_cache(trouble: Trouble) -> None:
    trouble.bets(**{f"bet_{number}": "fine" for number in range(12)})
    runs = [trouble.start("--layerguard-record", "--layerguard-cache=cache") for _ in range(2)]
    for each in runs:
        printed, _ = each.communicate(timeout=300)
        assert each.returncode == 0, printed
    assert len(list((trouble.path / "bets" / "records").glob("*.json"))) == 12
    assert len(trouble.words()) == 12
    assert trouble.left() == []
    code, printed = trouble.run_apart()
    assert code == 0, printed
    assert "unrecorded" not in printed


@pytest.mark.parametrize("option", ["json", "html", "markdown"])
def test_a_report_that_cannot_be_written_fails_the_run_in_one_line(
    trouble: Trouble, option: str
) -> None:
    trouble.bets(a="fine")
    blocked = trouble.path / "blocked"
    blocked.write_text("a file where a folder should be", encoding="utf-8")
    code, printed = trouble.run(f"--layerguard-{option}={blocked / 'report'}")
    assert code == pytest.ExitCode.USAGE_ERROR, printed
    reported = [
        line for line in printed.splitlines() if f"cannot write --layerguard-{option}" in line
    ]
    assert len(reported) == 1
    assert "1 passed" in printed
    assert "Traceback" not in printed


def test_records_that_cannot_be_written_are_errors_of_their_bets(trouble: Trouble) -> None:
    """A file stands where the folder should be: that stops root too, as a read-only folder does not."""
    trouble.bets(a="fine", b="fine")
    (trouble.path / "bets" / "records").write_text("in the way", encoding="utf-8")
    code, printed = trouble.run("--layerguard-record")
    assert code == 1, printed
    assert trouble.words() == {"a": "ERROR", "b": "ERROR"}
    assert "Traceback" not in printed
    assert (trouble.path / "bets" / "records").read_text(encoding="utf-8") == "in the way"


DESCRIPTORS = Path("/proc/self/fd")


@pytest.mark.machine
@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="needs to see which file is which")
@pytest.mark.parametrize("where", ["records", "report", "cache"])
def test_a_full_disk(trouble: Trouble, where: str) -> None:
    """Every write of our own files fails as it does on a full disk."""
    trouble.bets(a="fine", b="fine")
    (trouble.path / "conftest.py").write_text(
        (trouble.path / "conftest.py").read_text(encoding="utf-8") + FULL_DISK.format(where=where),
        encoding="utf-8",
    )
    code, printed = trouble.run_apart("--layerguard-record", "--layerguard-cache=cache")
    assert "Traceback" not in printed
    assert trouble.left() == []
    if where == "cache":
        assert code == 0, printed
    elif where == "report":
        assert code == pytest.ExitCode.USAGE_ERROR, printed
        assert f"cannot write --layerguard-json {trouble.report}: No space left" in printed
    else:
        assert code == 1, printed
        assert trouble.words() == {"a": "ERROR", "b": "ERROR"}
        assert "No space left on device" in printed
        assert not list((trouble.path / "bets" / "records").glob("*"))


FULL_DISK = """

import os

_sync = os.fsync
_WHERE = {{"records": "/records/", "report": "/out/", "cache": "/cache/"}}["{where}"]


def _full(handle):
    if _WHERE in os.readlink(f"/proc/self/fd/{{handle}}") + "/":
        raise OSError(28, "No space left on device")
    return _sync(handle)


os.fsync = _full
"""
