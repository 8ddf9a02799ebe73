"""A project whose measurer fails in the way that the claim of a bet names."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

MEASURER = """
import ctypes
import os
import signal
import time

import pytest

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement.results import BaseResult, BetResult, Continuation, VariantResult

TOKEN = os.environ.get("HF_TOKEN", "")


def fine(says="the the the"):
    spoken = (Continuation("Once upon a time", says, 3, (1, 2, 3)),)
    metrics = {"perplexity": Interval.point(25.0), "perplexity_ratio": Interval(2.5, 2.4, 2.6)}
    return BetResult(
        bases=(BaseResult(None, None, {"perplexity": Interval.point(10.0)}, spoken),),
        variants=(VariantResult("skip-0", "0", None, None, None, metrics, spoken),),
        tokens=1024, windows=8, descriptive=False, provenance={"checkpoints": []}, seconds=0.1,
    )


def touch(name):
    open(name, "w").close()


class LocalMeasurer:
    def expect(self, documents):
        pass

    def measure(self, document, *, bets):
        match document.bet.claim:
            case "sleeps":
                touch("measuring")
                time.sleep(600)
            case "holds the lock":
                ctypes.PyDLL(None).sleep(600)
            case "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            case "is short of memory":
                raise MemoryError
            case "leaks":
                raise MeasurementError(f"the hub said 401 to Bearer {TOKEN}")
            case "leaks from a library":
                authorization = {"Authorization": f"Bearer {TOKEN}"}
                raise RuntimeError(f"no such repository for {authorization}")
            case "says it":
                return fine(f"my token is {TOKEN}")
        return fine()


def pytest_layerguard_measurer():
    return LocalMeasurer()
"""

BET = """\
id: {id}
title: Skip each layer
claim: {claim}
status: proposed
model: reference
intervention: {{skip_layers: {{layers: {{each: all}}}}}}
measure: {{text: {{reference: heldout}}, tokens: 1024, window: 128}}
criteria: {{lenient: any(perplexity_ratio <= 3)}}
"""


class Trouble:
    """A folder in which pytest runs."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path = pytester.path
        self.report = self.path / "out" / "report.json"
        (self.path / "bets").mkdir()
        (self.path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        (self.path / "conftest.py").write_text(MEASURER, encoding="utf-8")

    def bets(self, **claims: str) -> None:
        """Write bets, by id; an underscore in an id stands for a hyphen."""
        for id_, claim in claims.items():
            name = id_.replace("_", "-")
            text = BET.format(id=name, claim=claim)
            (self.path / "bets" / f"{name}.yaml").write_text(text, encoding="utf-8")

    def run(self, *args: str) -> tuple[int, str]:
        """Run pytest on the bets; return its exit code and all that it printed."""
        ran = self.pytester.runpytest("bets", f"--layerguard-json={self.report}", *args)
        return int(ran.ret), "\n".join([*ran.outlines, *ran.errlines])

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Start pytest on the bets, in a process of its own."""
        command = [sys.executable, "-m", "pytest", "bets", f"--layerguard-json={self.report}"]
        return subprocess.Popen(
            [*command, *args],
            cwd=self.path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run_apart(self, *args: str) -> tuple[int, str]:
        """Run pytest on the bets in a process of its own; return its exit code and all that it printed."""
        started = self.start(*args)
        printed, _ = started.communicate(timeout=300)
        return started.returncode, printed

    def words(self) -> dict[str, str]:
        """The words of all bets in the JSON report."""
        return {each["id"]: each["word"] for each in self.entries()}

    def entries(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.report.read_text(encoding="utf-8"))["bets"]
        return found

    def left(self) -> list[str]:
        """Temporary files that somebody left behind."""
        return [str(path) for path in self.path.rglob("*.tmp")]


@pytest.fixture
def trouble(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Trouble:
    monkeypatch.setenv("COLUMNS", "200")
    return Trouble(pytester)
