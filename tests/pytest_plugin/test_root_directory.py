"""Ids, cache and paths of reports, wherever pytest was called and a report is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Project


@pytest.fixture
def bare(project: Project) -> Project:
    """A project without a configuration file; its conftest.py lies beside its bet folder."""
    (project.path / "pyproject.toml").unlink()
    project.bet("a")
    return project


def ids(project: Project, *args: str) -> list[str]:
    result = project.run("--layerguard-json", str(project.path / "run.json"), *args)
    assert result.ret == 0, result.stdout.str()
    (bet,) = json.loads((project.path / "run.json").read_text(encoding="utf-8"))["bets"]
    assert project.measured.pop() == "a"
    listed = project.run("--collect-only", "-q", *args).outlines
    return [bet["file"], *(line for line in listed if "::" in line)]


def caches(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob(".pytest_cache")]


@pytest.mark.parametrize("place", [".", "bets"])
@pytest.mark.parametrize("git", [False, True])
def test_it_is_the_tree_of_the_bets_wherever_pytest_runs(
    bare: Project, monkeypatch: pytest.MonkeyPatch, place: str, git: bool
) -> None:
    if git:
        (bare.path / ".git").mkdir()
    monkeypatch.chdir(bare.path / place)
    for args in ((), ("a.yaml",)) if place == "bets" else ((), ("bets",), ("bets/a.yaml",)):
        assert ids(bare, *args) == ["bets/a.yaml", "bets/a.yaml::a"]
    assert caches(bare.path) == [".pytest_cache"]


def test_a_path_that_goes_up_is_followed(bare: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bare.pytester.mkdir("tests"))
    assert ids(bare, "../bets") == ["bets/a.yaml", "bets/a.yaml::a"]
    assert caches(bare.path) == [".pytest_cache"]


@pytest.mark.parametrize("configured", [False, True])
def test_a_report_that_is_written_elsewhere_does_not_move_it(
    bare: Project, tmp_path_factory: pytest.TempPathFactory, configured: bool
) -> None:
    if configured:
        bare.ini()
    elsewhere = tmp_path_factory.mktemp("other project")
    (elsewhere / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    for _ in range(2):
        # Only a file that is there already moved it, and then with its configuration.
        flag = ("--layerguard-markdown", str(elsewhere / "run.md"))
        assert ids(bare, *flag, "bets") == ["bets/a.yaml", "bets/a.yaml::a"]
    assert caches(elsewhere) == []
    assert caches(bare.path) == [".pytest_cache"]


def test_two_bet_folders_have_what_holds_both(bare: Project) -> None:
    bare.bet("b", file="quality/bets/b.yaml")
    listed = bare.run("--collect-only", "-q", "bets", "quality/bets").outlines
    assert [line for line in listed if "::" in line] == [
        "bets/a.yaml::a",
        "quality/bets/b.yaml::b",
    ]


def test_a_root_directory_that_the_user_names_is_the_users(bare: Project) -> None:
    result = bare.run("--rootdir", str(bare.path / "bets"), "bets")
    result.stdout.fnmatch_lines([f"rootdir: {bare.path / 'bets'}"])


def test_a_run_without_bets_is_left_alone(pytester: pytest.Pytester) -> None:
    folder = pytester.mkdir("tests")
    (folder / "test_it.py").write_text("def test_it():\n    pass\n", encoding="utf-8")
    elsewhere = pytester.mkdir("elsewhere")
    result = pytester.runpytest("tests", str(elsewhere))
    result.stdout.fnmatch_lines([f"rootdir: {pytester.path}"])


def test_in_workers_too(bare: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bare.path / "bets")
    result = bare.run_apart("-n", "1", "--layerguard-json", "run.json")
    assert result.ret == 0
    (bet,) = json.loads(Path("run.json").read_text(encoding="utf-8"))["bets"]
    assert bet["file"] == "bets/a.yaml"
