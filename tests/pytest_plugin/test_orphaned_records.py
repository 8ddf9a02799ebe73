"""Records whose bet is gone: the run fails, whichever file it was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.pytest_plugin.conftest import Project


@pytest.fixture
def recorded(project: Project) -> Path:
    path = project.bet("skip-2", "LENIENT", status="upheld")
    project.run("--layerguard-record")
    assert (path.parent / "records" / "skip-2.json").is_file()
    (project.path / "measured.txt").unlink()
    return path


def rename(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    text = text.replace("id: skip-2", "id: skip-two")
    path.write_text(text.replace("<= 3)", "<= 30)"), encoding="utf-8")


@pytest.mark.parametrize("args", [(), ("-q",), ("bets/skip-2.yaml",), ("--layerguard-record",)])
def test_a_bet_under_another_id_is_named(
    project: Project, recorded: Path, args: tuple[str, ...]
) -> None:
    rename(recorded)
    result = project.run(*args)
    assert result.ret != 0
    result.stdout.fnmatch_lines(
        [
            "*bets/skip-2.yaml:1:1: bets/records/skip-2.json is the record of no bet: "
            "skip-two (bets/skip-2.yaml:1) measures the same, with "
            "criteria.lenient: any(perplexity_ratio <= 3) -> any(perplexity_ratio <= 30). "
            "Give it the id skip-2 again; to rename it, rename its record and the id in that too"
        ]
    )
    assert project.measured == []


def test_a_bet_that_moved_into_a_bet_folder_further_down_is_named(
    project: Project, recorded: Path
) -> None:
    rename(recorded)
    below = project.path / "quality" / "bets" / "mine.yaml"
    below.parent.mkdir(parents=True)
    recorded.rename(below)
    result = project.run("quality/bets/mine.yaml")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*skip-2.json is the record of no bet: skip-two (quality/bets/*"])


def test_a_bet_that_was_removed_is_named(project: Project, recorded: Path) -> None:
    recorded.unlink()
    project.bet("other", model="reference-wide")
    result = project.run("bets/other.yaml")
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*skip-2.json is the record of no bet: bring skip-2 back; *"])


def test_a_record_that_cannot_be_read_is_named(project: Project, recorded: Path) -> None:
    rename(recorded)
    (recorded.parent / "records" / "skip-2.json").write_text("{}", encoding="utf-8")
    result = project.run()
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*skip-2.json is the record of no bet, and cannot be read; *"])


def test_it_is_shown_once_and_stands_in_reports(project: Project, recorded: Path) -> None:
    rename(recorded)
    project.bet("other", model="reference-wide")
    result = project.run("--continue-on-collection-errors", "--layerguard-markdown", "run.md")
    assert result.ret != 0
    assert project.measured == ["skip-two"] or project.measured == ["other"]
    assert result.stdout.str().count("is the record of no bet") == 1
    assert "is the record of no bet" in (project.path / "run.md").read_text(encoding="utf-8")


def test_a_record_that_is_renamed_with_its_bet_is_its_record(
    project: Project, recorded: Path
) -> None:
    text = recorded.read_text(encoding="utf-8")
    recorded.write_text(text.replace("id: skip-2", "id: skip-two"), encoding="utf-8")
    project.reported["skip-two"] = project.reported["skip-2"]
    project.bet("unused", file="bets/unused.yaml")
    (recorded.parent / "unused.yaml").unlink()
    old = recorded.parent / "records" / "skip-2.json"
    new = old.with_name("skip-two.json")
    new.write_text(
        old.read_text(encoding="utf-8").replace('"id": "skip-2"', '"id": "skip-two"'),
        encoding="utf-8",
    )
    old.unlink()
    result = project.run()
    assert result.ret == 0
    assert "unrecorded" not in result.stdout.str()
