"""`--layerguard-json`: what it says, and that it is written whole, once, by the right process."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pytest_plugin.conftest import Project


def read(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    reported: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    return reported


def test_the_entry_of_a_bet(project: Project) -> None:
    project.bet("bet-40", "CATASTROPHIC", status="falsified")
    assert project.run("bets/", "--layerguard-json=out.json").ret == 0
    report = read(project.path / "out.json")
    (bet,) = report["bets"]
    digest = bet.pop("digest")
    assert digest.startswith("sha256:")
    assert len(digest) == 71
    assert report["schema"] == 1
    assert bet == {
        "id": "bet-40",
        "title": "Skip each layer",
        "model": "reference",
        "intervention": "skip_layers",
        "file": "bets/bet-40.yaml",
        "line": 1,
        "status": "falsified",
        "outcome": "passed",
        "verdict": "CATASTROPHIC",
        "word": "CATASTROPHIC",
        "crossed": [],
        "seconds": 1.5,
        "cached": False,
        "tokens": 1024,
        "windows": 8,
        "made_with": {},
        "base": {"perplexity": 10.0, "unique_tokens": 60.0},
        "variants": [
            variant("skip-0", 800.0, {"value": 80, "low": 70, "high": 90}),
            variant("skip-3", 110.0, {"value": 11, "low": 10.5, "high": 11.5}),
        ],
    }


def variant(name: str, perplexity: float, ratio: dict[str, float]) -> dict[str, Any]:
    return {
        "name": name,
        "target": name,
        "arm": None,
        "text": None,
        "checkpoint": None,
        "metrics": {
            "perplexity": {"value": perplexity},
            "perplexity_ratio": ratio,
            "unique_tokens": {"value": 2},
        },
    }


def test_the_table_of_numbers(project: Project) -> None:
    project.bet("bet-40", "CATASTROPHIC", status="falsified")
    project.bet("c", unavailable="no GPU")
    assert project.run("bets/", "--layerguard-csv=out.csv").ret == 0
    heading, *rows = (project.path / "out.csv").read_text(encoding="utf-8").splitlines()
    assert heading == "bet,arm,variant,target,text,checkpoint,metric,value,low,high"
    assert rows[1] == "bet-40,,skip-0,skip-0,,,perplexity_ratio,80.0,70.0,90.0"
    assert len(rows) == 2 * 3


@pytest.mark.parametrize("workers", [[], pytest.param(["-n", "2"], marks=pytest.mark.slow)])
def test_every_outcome_is_in_it(project: Project, workers: list[str]) -> None:
    project.bet("a", "CATASTROPHIC")
    project.bet("b", "STRICT")
    project.bet("c", unavailable="no GPU")
    project.bet("d", error="unsound")
    project.bet("e", bug="a mistake of ours")
    project.bet("f", "LENIENT", status="falsified")
    run = project.run_apart if workers else project.run
    run("bets/", "--layerguard-json=out.json", *workers)
    found = [
        (bet["id"], bet["outcome"], bet["verdict"], bet["word"])
        for bet in read(project.path / "out.json")["bets"]
    ]
    assert found == [
        ("a", "failed", "CATASTROPHIC", "CATASTROPHIC"),
        ("b", "passed", "STRICT", "STRICT"),
        ("c", "skipped", None, "SKIPPED"),
        ("d", "failed", None, "ERROR"),
        ("e", "failed", None, "ERROR"),
        ("f", "failed", "LENIENT", "OVERTURNED"),
    ]


def test_an_overflow_is_still_json(project: Project) -> None:
    project.bet("a", ratios={"skip-0": [float("inf")] * 3})
    project.run("bets/", "--layerguard-json=out.json")
    (bet,) = read(project.path / "out.json")["bets"]
    assert bet["variants"][0]["metrics"]["perplexity_ratio"] == {"value": "inf"}


def test_only_what_ran_is_in_it(project: Project) -> None:
    project.bet("bet-1")
    project.bet("bet-2", "CATASTROPHIC")
    project.bet("bet-3")
    project.run("bets/", "-x", "--layerguard-json=out.json")
    assert [bet["id"] for bet in read(project.path / "out.json")["bets"]] == ["bet-1", "bet-2"]
    project.run("bets/", "-k", "bet-3", "--layerguard-json=out.json")
    assert [bet["id"] for bet in read(project.path / "out.json")["bets"]] == ["bet-3"]


def test_a_collection_error_leaves_no_old_result_behind(project: Project) -> None:
    path = project.bet("a")
    project.run("bets/", "--layerguard-json=out.json")
    path.write_text("id: a\n", encoding="utf-8")
    project.run("bets/", "--layerguard-json=out.json")
    assert read(project.path / "out.json") == {"schema": 1, "bets": []}


def test_collecting_alone_writes_nothing(project: Project) -> None:
    project.bet("a")
    project.run("bets/", "--collect-only", "--layerguard-json=out.json")
    assert not (project.path / "out.json").exists()


def test_the_ini_file_can_ask_for_it(project: Project) -> None:
    project.ini("layerguard_json = 'out.json'")
    project.bet("a")
    project.run("bets/")
    assert read(project.path / "out.json")["bets"]


def test_a_report_that_cannot_be_written_fails_the_run(project: Project) -> None:
    project.bet("a")
    (project.path / "file").write_text("", encoding="utf-8")
    result = project.run("bets/", "--layerguard-json=file/out.json")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stdout.fnmatch_lines(["ERROR: cannot write --layerguard-json *file/out.json: *"])


def test_it_needs_no_terminal(project: Project) -> None:
    project.bet("a")
    result = project.run("bets/", "-p", "no:terminal", "--layerguard-json=out.json")
    assert result.ret == 0
    assert read(project.path / "out.json")["bets"]
