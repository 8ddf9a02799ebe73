"""Bets on one model stay on one worker, however they lie in files and tests are dealt out."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Project

NOTED = """

def pytest_layerguard_measurer(config):
    class Noted(FakeMeasurer):
        def measure(self, document, *, bets):
            with open(bets.parent / "where.txt", "a", encoding="utf-8") as file:
                file.write(f"{document.bet.model.name} {config.workerinput['workerid']}\\n")
            return super().measure(document, bets=bets)

    return Noted()
"""


@pytest.fixture
def spread(project: Project) -> Project:
    """Bets on two models, each model in three files, and tests that are no bets."""
    conftest = project.path / "conftest.py"
    conftest.write_text(conftest.read_text(encoding="utf-8") + NOTED, encoding="utf-8")
    for number in range(3):
        for model in ("reference", "reference-wide"):
            project.bet(f"{model}-{number}", model=model, file=f"bets/{number}.yaml")
    project.pytester.makepyfile(
        "import pytest\n\n\n"
        "@pytest.mark.parametrize('number', range(6))\n"
        "def test_other(number):\n    pass\n"
    )
    return project


@pytest.mark.parametrize(
    "dist",
    [
        [],
        *(
            pytest.param(["--dist", mode], marks=pytest.mark.slow)
            for mode in ("worksteal", "loadscope", "loadfile", "loadgroup")
        ),
    ],
)
def test_one_model_one_worker(spread: Project, dist: list[str]) -> None:
    result = spread.run_apart("-n", "2", *dist)
    result.assert_outcomes(passed=12)
    workers = defaultdict(set)
    for line in (spread.path / "where.txt").read_text(encoding="utf-8").splitlines():
        model, worker = line.split()
        workers[model].add(worker)
    assert {model: len(seen) for model, seen in workers.items()} == {
        "reference": 1,
        "reference-wide": 1,
    }
    assert workers["reference"] != workers["reference-wide"]


@pytest.mark.slow
def test_every_worker_runs_all_where_that_is_asked_for(spread: Project) -> None:
    spread.run_apart("bets", "-n", "2", "--dist", "each").assert_outcomes(passed=12)


def test_a_run_without_bets_is_dealt_as_ever(project: Project) -> None:
    project.pytester.makepyfile("def test_one(): pass")
    result = project.run_apart("-n", "1", "-v")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["scheduling tests via LoadScheduling"])


@pytest.mark.slow
def test_a_bet_file_that_cannot_be_read_is_reported_by_the_workers(project: Project) -> None:
    project.bet("bet-1")
    (project.path / "bets" / "broken.yaml").write_text("id: [", encoding="utf-8")
    result = project.run_apart("bets", "-n", "1")
    assert result.ret != 0
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
