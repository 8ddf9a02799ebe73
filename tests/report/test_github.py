from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import tales
from support.hostile import FORBIDDEN, HOSTILE
from support.hostile_bet import hostile

from pytest_layerguard.report import github
from pytest_layerguard.report.bet_report import UnreadableFile

RUNNER = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "acme/models",
    "GITHUB_SHA": "0" * 40,
    "GITHUB_WORKSPACE": "/project",
}


def obeyed(line: str) -> str | None:
    """The command that a runner would obey in a line of a log, by both of its rules."""
    new = re.match(r"\s*::([^ :]+)", line)
    old = re.search(r"##\[([^\]]*)\]", line)
    return (new and new[1]) or (old and old[1]) or None


class TestCommand:
    def test_values_are_escaped_as_the_runner_reads_them(self) -> None:
        reported = github.command("error", "a: 100%\nb\r", file="x,y:z%.yaml", line=3)
        assert reported == "::error file=x%2Cy%3Az%25.yaml,line=3::a: 100%25%0Ab\\u000d"

    def test_without_properties(self) -> None:
        assert github.command("endgroup", "") == "::endgroup::"


class TestActive:
    @pytest.mark.parametrize(("value", "active"), [("true", True), ("false", False), ("", False)])
    def test_only_where_the_runner_says_so(self, value: str, active: bool) -> None:
        assert github.active({"GITHUB_ACTIONS": value}) is active
        assert not github.active({})


class TestAddress:
    def test_files_are_shown_at_the_commit(self) -> None:
        found = github.address(RUNNER, Path("/project"))
        assert found == f"https://github.com/acme/models/blob/{'0' * 40}"

    def test_a_project_below_the_checkout(self) -> None:
        found = github.address(RUNNER, Path("/project/a b/c"))
        assert found is not None
        assert found.endswith("/a%20b/c")

    @pytest.mark.parametrize(
        "changes",
        [
            {"GITHUB_SERVER_URL": "javascript:alert(1)"},
            {"GITHUB_SERVER_URL": ""},
            {"GITHUB_REPOSITORY": "../x)"},
            {"GITHUB_SHA": "main"},
            {"GITHUB_WORKSPACE": "/elsewhere"},
        ],
    )
    def test_or_nowhere(self, changes: dict[str, str]) -> None:
        assert github.address(RUNNER | changes, Path("/project")) is None


class TestAnnotations:
    def test_failures_stand_at_their_lines(self) -> None:
        reported = list(github.annotated([tales.every()["training"]], [], RUNNER, Path("/project")))
        assert reported[0].startswith(
            "::error file=bets/some.yaml,line=1,title=training%3A FALSIFIED::"
        )
        assert "Twenty steps bring it back." in reported[0]

    def test_files_are_named_from_the_checkout(self) -> None:
        below = Path("/project/deep")
        (reported, *_) = github.annotated([tales.every()["error"]], [], RUNNER, below)
        assert "file=deep/bets/some.yaml," in reported

    def test_what_passed_is_not_marked_but_for_its_warnings(self) -> None:
        reported = list(github.annotated([tales.every()["sweep"]], [], RUNNER, Path("/project")))
        assert [line.split(" ")[0] for line in reported] == ["::warning"]

    def test_each_fault_of_a_file_that_could_not_be_read(self) -> None:
        text = "bets/a.yaml:3:2: id: is missing\n    3 | x\n      | ^\nbets/a.yaml:9:1: claim: is missing"
        reported = list(
            github.annotated([], [UnreadableFile("bets/a.yaml", text)], RUNNER, Path("/project"))
        )
        assert reported == [
            "::error file=bets/a.yaml,line=3,col=2,title=bet file::id: is missing",
            "::error file=bets/a.yaml,line=9,col=1,title=bet file::claim: is missing",
        ]

    def test_a_file_without_a_place(self) -> None:
        reported = list(
            github.annotated([], [UnreadableFile("bets/a.yaml", "no")], RUNNER, Path("/project"))
        )
        assert reported == ["::error file=bets/a.yaml,line=1,col=1,title=bet file::no"]

    def test_no_more_than_github_shows(self) -> None:
        many = [tales.every()["error"], tales.every()["sweep"]] * 50
        reported = [
            line.split(" ")[0] for line in github.annotated(many, [], RUNNER, Path("/project"))
        ]
        assert reported == ["::error"] * 10 + ["::warning"] * 10

    @pytest.mark.parametrize("kind", HOSTILE)
    def test_nothing_else_is_obeyed(self, kind: str) -> None:
        words = HOSTILE[kind]
        bets, refused = [hostile(words)], [UnreadableFile.of(words[:200], f"{words}:1:2: {words}")]
        for line in github.annotated(bets, refused, RUNNER, Path("/project")):
            assert obeyed(line) in {"error", "warning"}
            assert "\n" not in line
            assert "##[" not in line
            assert not set(FORBIDDEN) & set(line)
            assert len(line) < 12_000
            head = line.split("::")[1]
            assert re.fullmatch(
                r"(error|warning) file=[^,:]*,line=\d+(,col=\d+)?,title=[^,:]*", head
            )


class TestGroups:
    def test_each_measured_bet_is_a_fold(self) -> None:
        reported = list(github.groups(list(tales.every().values())))
        opened = [line for line in reported if line.startswith("::group::")]
        assert len(opened) == 5 == reported.count("::endgroup::")
        assert "::group::sweep: FALSIFIED, passed" in opened

    @pytest.mark.parametrize("kind", HOSTILE)
    def test_nothing_else_is_obeyed(self, kind: str) -> None:
        reported = list(github.groups([hostile(HOSTILE[kind])]))
        assert [obeyed(line) for line in reported if obeyed(line)] == ["group", "endgroup"]
        assert not any("\n" in line or set(FORBIDDEN) & set(line) for line in reported)


class TestStepSummary:
    def test_it_is_added_to_what_is_there(self, tmp_path: Path) -> None:
        path = tmp_path / "summary.md"
        path.write_text("before\n", encoding="utf-8")
        environ = RUNNER | {"GITHUB_STEP_SUMMARY": str(path)}
        assert github.summarise([tales.every()["arms"]], [], environ, Path("/project")) is None
        reported = path.read_text(encoding="utf-8")
        assert reported.startswith("before\n")
        assert "/blob/" in reported

    def test_it_stays_below_the_limit_with_what_is_there(self, tmp_path: Path) -> None:
        path = tmp_path / "summary.md"
        path.write_bytes(b"x" * (1024 * 1024 - 5_000))
        environ = {"GITHUB_STEP_SUMMARY": str(path)}
        assert github.summarise([hostile("y" * 500)] * 50, [], environ, Path("/project")) is None
        assert 1024 * 1024 - 5_000 < path.stat().st_size <= 1024 * 1024

    def test_a_full_one_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "summary.md"
        path.write_bytes(b"x" * 1024 * 1024)
        environ = {"GITHUB_STEP_SUMMARY": str(path)}
        assert github.summarise([], [], environ, Path("/project")) is not None
        assert path.stat().st_size == 1024 * 1024

    def test_one_that_cannot_be_written_fails_nothing(self, tmp_path: Path) -> None:
        environ = {"GITHUB_STEP_SUMMARY": str(tmp_path / "absent" / "summary.md")}
        problem = github.summarise([], [], environ, Path("/project"))
        assert problem is not None
        assert "No such file" in problem

    def test_nowhere_to_write(self) -> None:
        assert github.summarise([], [], {}, Path("/project")) is None
