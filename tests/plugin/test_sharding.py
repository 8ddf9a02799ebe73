"""A catalogue in parts, on several machines, comes to what it comes to as a whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.plugin.conftest import Project


def report(path: Path) -> list[dict[str, Any]]:
    bets: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["bets"]
    return bets


@pytest.fixture
def catalogue(project: Project) -> Project:
    """Every outcome there is, on two models."""
    project.bet("a", "CATASTROPHIC", file="bets/one.yaml")
    project.bet("b", "STRICT", file="bets/one.yaml")
    project.bet("c", unavailable="no GPU", model="reference-wide")
    project.bet("d", error="unsound")
    project.bet("e", bug="a mistake of ours", model="reference-wide")
    project.bet("f", "LENIENT", status="falsified")
    project.bet("g", "INCONCLUSIVE", status="falsified", model="reference-wide")
    project.bet(
        "h",
        "CATASTROPHIC",
        status="falsified",
        more="closes: {interventions: [skip_layers], models: name == 'reference@init'}\n",
    )
    project.bet("i", "STRICT", model="reference@init")
    project.bet("j", ratios={"skip-0": [float("inf")] * 3})
    return project


def in_parts(project: Project, count: int, *args: str) -> list[pytest.RunResult]:
    """Measure all parts; their reports lie in `parts`."""
    run = project.run_apart if "-n" in args else project.run
    return [
        run(
            "bets/",
            f"--layerguard-shard={index}/{count}",
            f"--layerguard-json=parts/{index}/out.json",
            *args,
        )
        for index in range(1, count + 1)
    ]


@pytest.mark.parametrize(("count", "args"), [(1, []), (3, []), (2, ["-n", "2"])])
def test_parts_come_to_what_the_whole_comes_to(
    catalogue: Project, count: int, args: list[str]
) -> None:
    whole = catalogue.run("bets/", "--layerguard-json=whole.json")
    assert sorted(catalogue.measured) == list("abcdefghj")
    (catalogue.path / "measured.txt").unlink()
    in_parts(catalogue, count, *args)
    assert sorted(catalogue.measured) == list("abcdefghj")
    together = catalogue.run("bets/", "--layerguard-merge=parts", "--layerguard-json=merged.json")
    assert sorted(catalogue.measured) == list("abcdefghj")
    assert together.ret == whole.ret == 1
    assert together.parseoutcomes() == whole.parseoutcomes()
    assert report(catalogue.path / "merged.json") == report(catalogue.path / "whole.json")
    assert table(together) == table(whole)


def table(result: pytest.RunResult) -> list[str]:
    """The table of bets, what is noted below it, and the line of each failure."""
    lines = result.outlines
    start = next(at for at, line in enumerate(lines) if "= bets =" in line)
    return sorted(lines[start:-1])


def test_a_merge_loads_nothing_heavy(catalogue: Project) -> None:
    in_parts(catalogue, 2)
    conftest = catalogue.path / "conftest.py"
    conftest.write_text(
        "import sys\n\n\ndef pytest_unconfigure():\n"
        "    print('HEAVY', sorted({'torch', 'transformers'} & set(sys.modules)))\n",
        encoding="utf-8",
    )
    result = catalogue.run_apart("bets/", "--layerguard-merge=parts")
    result.stdout.fnmatch_lines(["HEAVY [[][]]"])


def test_a_merge_writes_the_records(project: Project) -> None:
    project.bet("a", "STRICT", status="upheld")
    project.bet("b", "LENIENT", status="upheld")
    in_parts(project, 2)
    project.run("bets/", "--layerguard-merge=parts", "--layerguard-record")
    merged = {
        path.name: json.loads(path.read_text(encoding="utf-8"))
        for path in (project.path / "bets" / "records").iterdir()
    }
    shutil.rmtree(project.path / "bets" / "records")
    project.run("bets/", "--layerguard-record")
    whole = {
        path.name: json.loads(path.read_text(encoding="utf-8"))
        for path in (project.path / "bets" / "records").iterdir()
    }
    assert merged == whole
    assert sorted(merged) == ["a.json", "b.json"]


def test_each_bet_is_in_one_part_and_other_tests_in_all(project: Project) -> None:
    for id_ in "abcde":
        project.bet(id_)
    project.pytester.makepyfile("def test_one(): pass")
    collected = [
        [
            line
            for line in project.run("--collect-only", "-q", f"--layerguard-shard={part}/2").outlines
            if "::" in line
        ]
        for part in (1, 2)
    ]
    assert all(any("test_one" in line for line in lines) for lines in collected)
    bets = [line for lines in collected for line in lines if line.startswith("bets/")]
    assert sorted(bets) == [f"bets/{id_}.yaml::{id_}" for id_ in "abcde"]
    assert {len(lines) for lines in collected} == {3, 4}


@pytest.mark.parametrize("workers", [[], ["-n", "2"]])
def test_a_part_without_a_bet_is_no_failure(project: Project, workers: list[str]) -> None:
    project.bet("a", "STRICT")
    results = in_parts(project, 2, *workers)
    assert [result.ret for result in results] == [0, 0]
    assert project.run("bets/", "--layerguard-merge=parts").ret == 0


def test_what_is_chosen_in_parts_is_chosen_in_the_merge(project: Project) -> None:
    for id_ in ("a", "b", "c-not"):
        project.bet(id_, "STRICT")
    in_parts(project, 2, "-k", "not c-not")
    assert project.run("bets/", "--layerguard-merge=parts", "-k", "not c-not").ret == 0
    result = project.run("bets/", "--layerguard-merge=parts")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --layerguard-merge: no part has measured c-not; *"])


def test_a_part_that_ended_early_is_an_error(project: Project) -> None:
    project.bet("a", "CATASTROPHIC")
    project.bet("b", "CATASTROPHIC")
    in_parts(project, 1, "-x")
    result = project.run("bets/", "--layerguard-merge=parts")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *part 1 of 1 ended before it had measured b; *"])


def test_a_bet_that_was_changed_since_is_an_error(project: Project) -> None:
    path = project.bet("a", "STRICT")
    in_parts(project, 1)
    path.write_text(path.read_text(encoding="utf-8").replace("1.5", "1.4"), encoding="utf-8")
    result = project.run("bets/", "--layerguard-merge=parts")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *other bets were measured under these ids: a; *"])
    assert project.measured == ["a"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--layerguard-shard=0/2"], "'0/2' is not a part; allowed: i/n from 1/n to n/n"),
        (["--layerguard-shard=3/2"], "'3/2' is not a part"),
        (["--layerguard-shard=one"], "'one' is not a part"),
        (["--layerguard-merge=nowhere"], "'nowhere' is not a directory"),
        (["--layerguard-merge=bets", "--layerguard-shard=1/2"], "cannot be given together"),
        (["--layerguard-merge=bets", "-n", "2"], "has no use for the workers of pytest-xdist"),
        (["--layerguard-device-wait=soon"], "'soon' is not a time; allowed: a number of seconds"),
        (["--layerguard-device-wait=-1"], "'-1' is not a time"),
    ],
)
def test_what_cannot_be_meant_is_refused(project: Project, args: list[str], told: str) -> None:
    project.bet("a")
    result = project.run("bets/", *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert told in result.stderr.str()
