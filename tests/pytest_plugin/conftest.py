"""A project with bets, and a measurer that returns what a test asks for."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import hypothesis  # noqa: F401
import pytest
import torch  # noqa: F401

# pytest inside pytest forgets what it imported. Imported here it is loaded once, not in every test;
# hypothesis is what its own plugin imports at the end of each run, and torch cannot be imported twice.
import pytest_layerguard.bet.reader
import pytest_layerguard.measurement.results
import pytest_layerguard.report.failure
import pytest_layerguard.report.json
import pytest_layerguard.report.run_file
import pytest_layerguard.report.terminal  # noqa: F401

if TYPE_CHECKING:
    from pathlib import Path

FAKE_MEASURER = """
import json

import pytest

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.measurement.results import BaseResult, BetResult, Continuation, VariantResult


def spoken(text):
    return (Continuation("Once upon a time", text, len(set(text.split())), ()),)


class FakeMeasurer:
    def expect(self, documents):
        pass

    def measure(self, document, *, bets):
        reported = json.loads((bets.parent / "fake.json").read_text(encoding="utf-8"))
        reported = reported.get(document.bet.id, {})
        with open(bets.parent / "measured.txt", "a", encoding="utf-8") as file:
            file.write(document.bet.id + "\\n")
        if "bug" in reported:
            raise ZeroDivisionError(reported["bug"])
        if "warning" in reported:
            import warnings

            warnings.warn(reported["warning"], DeprecationWarning)
        if "error" in reported:
            raise MeasurementError(reported["error"])
        if "unavailable" in reported:
            raise UnavailableError(reported["unavailable"])
        base = {"perplexity": Interval.point(10.0), "unique_tokens": Interval.point(60.0)}
        variants = []
        for name, (low, value, high) in reported.get("ratios", {"skip-0": (2, 2.5, 3)}).items():
            metrics = {
                "perplexity": Interval.point(10.0 * value),
                "perplexity_ratio": Interval(value, low, high),
                "unique_tokens": Interval.point(reported.get("unique", 50.0)),
            }
            variants.append(
                VariantResult(
                    name=name, target=name, arm=None, text=None, checkpoint=None, metrics=metrics,
                    samples=spoken(reported.get("says", "the the the")),
                )
            )
        return BetResult(
            bases=(BaseResult(None, None, base, spoken("there was a little girl")),),
            variants=tuple(variants), tokens=1024, windows=8, descriptive=False, provenance={},
            seconds=1.5, cached=reported.get("cached", False),
        )


def pytest_layerguard_measurer():
    return FakeMeasurer()
"""

BET = """\
id: {id}
title: Skip each layer
claim: At least one layer can be skipped at no more than 3x the perplexity.
status: {status}
model: {model}
intervention:
  skip_layers: {{layers: {{each: all}}}}
measure:
  text: {{reference: heldout}}
  tokens: 1024
  window: 128
  sample: {{prompts: ["Once upon a time"], tokens: 100}}
criteria:
  strict: any(perplexity_ratio <= 1.5)
  lenient: any(perplexity_ratio <= 3)
  catastrophic: all(perplexity_ratio >= 10)
"""

EVIDENCE = """\
evidence:
  - {source: "Bet 40, Skip-each-layer ablation", model: FractalMoE 30M, verdict: CATASTROPHIC,
     base: {perplexity: 89}, variants: {skip-0: {perplexity: 7120}}}
"""

MEASURED: dict[str, dict[str, Any]] = {
    "CATASTROPHIC": {"ratios": {"skip-0": [70, 80, 90], "skip-3": [10.5, 11, 11.5]}, "unique": 2},
    "FALSIFIED": {"ratios": {"skip-0": [4, 5, 6], "skip-3": [3.5, 4, 4.5]}},
    "LENIENT": {"ratios": {"skip-0": [70, 80, 90], "skip-3": [2, 2.5, 2.9]}},
    "STRICT": {"ratios": {"skip-0": [70, 80, 90], "skip-3": [1.1, 1.2, 1.3]}},
    "INCONCLUSIVE": {"ratios": {"skip-0": [70, 80, 90], "skip-3": [2, 3.1, 4]}},
}
"""What the measurer can find, by the verdict that it leads to."""


class Project:
    """A folder in which pytest runs, with a measurer that returns what a test asks for."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        self.path: Path = pytester.path
        self.reported: dict[str, Any] = {}
        pytester.makeconftest(FAKE_MEASURER)
        self.ini()

    def ini(self, *lines: str) -> None:
        self.pytester.makepyprojecttoml("\n".join(["[tool.pytest.ini_options]", *lines, ""]))

    def bet(
        self,
        id: str,  # noqa: A002
        verdict: str = "LENIENT",
        *,
        status: str = "proposed",
        model: str = "reference",
        more: str = "",
        file: str | None = None,
        **reported: Any,
    ) -> Path:
        """Write a bet, and what the measurer is to find; one file of that name has them all."""
        path = self.path / (file or f"bets/{id}.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        text = BET.format(id=id, status=status, model=model) + more
        if status == "falsified" and "closes" not in more:
            text += "closes: {interventions: [remove_layers], models: parameters <= 1}\n"
        if path.exists():
            text = path.read_text(encoding="utf-8") + "---\n" + text
        path.write_text(text, encoding="utf-8")
        self.reported[id] = MEASURED[verdict] | reported
        (self.path / "fake.json").write_text(json.dumps(self.reported), encoding="utf-8")
        return path

    def run(self, *args: str) -> pytest.RunResult:
        return self.pytester.runpytest(*args)

    def run_apart(self, *args: str) -> pytest.RunResult:
        """Run in a process of its own, as pytest-xdist and what watches imports need it."""
        return self.pytester.runpytest_subprocess(*args)

    @property
    def measured(self) -> list[str]:
        path = self.path / "measured.txt"
        return path.read_text(encoding="utf-8").split() if path.exists() else []


@pytest.fixture
def project(pytester: pytest.Pytester) -> Project:
    return Project(pytester)


@pytest.fixture
def evidence() -> str:
    """Published figures, as they stand in a bet file."""
    return EVIDENCE
