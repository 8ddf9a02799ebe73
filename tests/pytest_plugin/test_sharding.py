"""A catalogue in parts, on several machines, comes to what it comes to as a whole."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Project


def reports(name: str) -> list[str]:
    """Options that write every report."""
    return [
        f"--layerguard-json={name}.json",
        f"--layerguard-html={name}.html",
        f"--layerguard-markdown={name}.md",
        f"--layerguard-comment={name}.comment",
        f"--junitxml={name}.xml",
    ]


def written(project: Project, name: str) -> str:
    """A report, without the minute in which it was written."""
    text = (project.path / name).read_text(encoding="utf-8")
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", "", text)


def properties(project: Project, name: str) -> list[str]:
    """What JUnit XML says of bets."""
    text = (project.path / name).read_text(encoding="utf-8")
    return sorted(re.findall(r"<(?:property|failure|skipped) [^>]*>", text))


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


@pytest.mark.parametrize(
    ("count", "args"),
    [(1, []), (3, []), pytest.param(2, ["-n", "2"], marks=pytest.mark.slow)],
)
def test_parts_come_to_what_the_whole_comes_to(
    catalogue: Project, count: int, args: list[str]
) -> None:
    whole = catalogue.run("bets/", *reports("whole"))
    assert sorted(catalogue.measured) == list("abcdefghj")
    (catalogue.path / "measured.txt").unlink()
    in_parts(catalogue, count, *args)
    assert sorted(catalogue.measured) == list("abcdefghj")
    together = catalogue.run("bets/", "--layerguard-merge=parts", *reports("merged"))
    assert sorted(catalogue.measured) == list("abcdefghj")
    assert together.ret == whole.ret == 1
    counted, expected = together.parseoutcomes(), whole.parseoutcomes()
    # Its part has warned of an INCONCLUSIVE bet; the merge says it in the table alone.
    assert counted == {name: count for name, count in expected.items() if name != "warnings"}
    for name in ("json", "md", "html", "comment"):
        assert written(catalogue, f"merged.{name}") == written(catalogue, f"whole.{name}")
    assert properties(catalogue, "merged.xml") == properties(catalogue, "whole.xml")
    assert table(together) == table(whole)


def table(result: pytest.RunResult) -> list[str]:
    """The table of bets, what is noted below it, and the line of each failure."""
    lines = result.outlines
    start = next(at for at, line in enumerate(lines) if "= bets: " in line)
    return sorted(lines[start:-1])


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


def test_a_part_without_a_bet_is_no_failure(project: Project) -> None:
    project.bet("a", "STRICT")
    assert [result.ret for result in in_parts(project, 2)] == [0, 0]
    assert project.run("bets/", "--layerguard-merge=parts").ret == 0


@pytest.mark.parametrize(
    ("args", "more", "reported"),
    [
        (["-x"], [], "no part has judged bets/two.yaml::two; run all parts to their end"),
        (["-k", "one"], [], "no part has judged bets/two.yaml::two;"),
        ([], ["-k", "one"], "parts have judged what is not here: bets/two.yaml::two;"),
    ],
)
def test_parts_of_other_bets_than_those_here_are_refused(
    project: Project, args: list[str], more: list[str], reported: str
) -> None:
    project.bet("one", "CATASTROPHIC")
    project.bet("two", "CATASTROPHIC")
    in_parts(project, 1, *args)
    result = project.run("bets/", "--layerguard-merge=parts", *more)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: --layerguard-merge: {reported}" in result.stderr.str()


def test_a_bet_that_was_changed_since_is_an_error(project: Project) -> None:
    path = project.bet("a", "STRICT")
    in_parts(project, 1)
    path.write_text(path.read_text(encoding="utf-8").replace("1.5", "1.4"), encoding="utf-8")
    result = project.run("bets/", "--layerguard-merge=parts")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *changed since a part has judged it: bets/a.yaml::a; *"])


@pytest.mark.parametrize(
    ("args", "reported"),
    [
        (["--layerguard-shard=0/2"], "'0/2' is not a part; allowed: i/n from 1/n to n/n"),
        (["--layerguard-shard=3/2"], "'3/2' is not a part"),
        (["--layerguard-shard=one"], "'one' is not a part"),
        (["--layerguard-merge=nowhere"], "'nowhere' is not a directory"),
        (["--layerguard-merge=bets", "--layerguard-shard=1/2"], "cannot be given together"),
        (
            ["--layerguard-merge=bets", "--layerguard-record"],
            "give --layerguard-record to the parts",
        ),
        (
            ["--layerguard-merge=bets", "--layerguard-require=all"],
            "give --layerguard-require to the",
        ),
        (["--layerguard-merge=bets"], "bets: has no JSON reports"),
        (["--layerguard-merge=bets", "-n", "2"], "has no use for the workers of pytest-xdist"),
        (["--layerguard-device-wait=soon"], "'soon' is not a time; allowed: a number of seconds"),
        (["--layerguard-device-wait=-1"], "'-1' is not a time"),
    ],
)
def test_what_cannot_be_meant_is_refused(project: Project, args: list[str], reported: str) -> None:
    project.bet("a")
    result = project.run("bets/", *args)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert reported in result.stderr.str()
