"""Which files are claimed, and what collecting them gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Project


def collected(result: pytest.RunResult) -> list[str]:
    return [line for line in result.outlines if "::" in line]


def test_a_bet_is_a_test_whose_name_is_its_id(project: Project) -> None:
    project.bet("bet-40", file="bets/40-skip-each-layer.yaml")
    project.bet("bet-41", file="bets/40-skip-each-layer.yaml")
    assert collected(project.run("--collect-only", "-q")) == [
        "bets/40-skip-each-layer.yaml::bet-40",
        "bets/40-skip-each-layer.yaml::bet-41",
    ]
    assert project.measured == []


@pytest.mark.parametrize(
    ("file", "claimed"),
    [
        ("bets/a.yaml", True),
        ("bets/a.yml", True),
        ("bets/a.YAML", True),
        ("bets/deep/er/a.yaml", True),
        ("sub/bets/a.yaml", True),
        ("bets/a.json", False),
        ("bets/a.yaml.txt", False),
        ("bets/records/a.yaml", False),
        ("bets/deep/records/a.yaml", False),
        ("records/bets/a.yaml", True),
        ("better/a.yaml", False),
        ("a.yaml", False),
    ],
)
def test_what_is_claimed(project: Project, file: str, claimed: bool) -> None:
    project.bet("a", file=file)
    assert bool(collected(project.run("--collect-only", "-q"))) is claimed


@pytest.mark.parametrize(
    ("folders", "claimed"),
    [
        ("'bets'", ["bets/a.yaml::a", "quality/bets/b.yaml::b"]),
        ("'quality/bets'", ["quality/bets/b.yaml::b"]),
        ("['quality', 'bets']", ["bets/a.yaml::a", "quality/bets/b.yaml::b"]),
        ("['other']", []),
    ],
)
def test_bet_folders_are_configured(project: Project, folders: str, claimed: list[str]) -> None:
    project.ini(f"layerguard_bets = {folders}")
    project.bet("a")
    project.bet("b", file="quality/bets/b.yaml")
    assert collected(project.run("--collect-only", "-q")) == claimed


def test_a_checkout_that_is_called_bets_holds_no_bets_by_that(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = project.path / "bets"
    project.bet("a", file="bets/bets/a.yaml")
    (checkout / "mkdocs.yml").write_text("site_name: no bet\n", encoding="utf-8")
    (checkout / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    monkeypatch.chdir(checkout)
    assert collected(project.run("--collect-only", "-q")) == ["bets/a.yaml::a"]


def test_bets_without_any_configuration_file(
    pytester: pytest.Pytester, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.path / "pyproject.toml").unlink()
    project.bet("a")
    assert collected(project.run("--collect-only", "-q", "bets/")) == ["bets/a.yaml::a"]
    monkeypatch.chdir(project.path / "bets")
    assert collected(project.run("--collect-only", "-q")) == ["bets/a.yaml::a"]


def test_collecting_bets_never_imports_torch(project: Project) -> None:
    project.bet("a")
    (project.path / "conftest.py").write_text(
        "import sys\n\n"
        "def pytest_unconfigure():\n"
        "    heavy = {'torch', 'transformers', 'scipy'} & set(sys.modules)\n"
        "    print('heavy:', sorted(heavy))\n",
        encoding="utf-8",
    )
    result = project.run_apart("--collect-only", "bets/")
    result.stdout.fnmatch_lines(["*1 test collected*", "heavy: []"])


def test_all_that_is_wrong_with_a_file_is_one_error_without_a_traceback(project: Project) -> None:
    path = project.bet("a")
    project.bet("b")
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text.replace("status: proposed", "status: propozed").replace("tokens: 1024", "tokens: -1"),
        encoding="utf-8",
    )
    result = project.run("bets/")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        [
            "*ERROR collecting bets/a.yaml*",
            "bets/a.yaml:4:9: status: *'propozed'*did you mean 'proposed'*",
            "*status: propozed",
            "bets/a.yaml:10:11: measure.tokens: *",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*reading.py*")
    assert project.measured == []


def test_an_id_is_given_once_over_all_files(project: Project) -> None:
    project.bet("a", file="bets/1.yaml")
    project.bet("b", file="bets/2.yaml")
    project.bet("a", file="bets/2.yaml")
    result = project.run("bets/")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines(
        ["bets/2.yaml:*:1: id: 'a' is the id of another bet, bets/1.yaml:1; allowed: *"]
    )
    assert project.measured == []


def test_one_file_asked_for_twice_is_no_second_bet(project: Project) -> None:
    project.bet("a")
    assert collected(project.run("--collect-only", "-q", "bets", "bets/a.yaml::a"))
    result = project.run("--collect-only", "-q", "--keep-duplicates", "bets", "bets/a.yaml")
    assert result.ret == 0


def test_bets_on_one_model_stand_together_and_tests_stay_where_they_are(project: Project) -> None:
    for number, model in enumerate(["reference", "reference-wide", "reference", "reference-wide"]):
        project.bet(f"bet-{number}", model=model, file="bets/all.yaml")
    project.pytester.makepyfile(**{"bets/test_between": "def test_between(): pass"})
    project.bet("bet-9", file="bets/zzz.yaml")
    assert collected(project.run("--collect-only", "-q", "bets")) == [
        "bets/all.yaml::bet-0",
        "bets/all.yaml::bet-2",
        "bets/zzz.yaml::bet-9",
        "bets/all.yaml::bet-1",
        "bets/test_between.py::test_between",
        "bets/all.yaml::bet-3",
    ]


@pytest.mark.parametrize(
    ("expression", "chosen"),
    [
        ("bet-40", ["bet-40"]),
        ("proposed", ["bet-41"]),
        ("falsified and skip_layers", ["bet-40"]),
        ("reference-wide", ["bet-41"]),
        ("not reference-wide", ["bet-40"]),
        ("average_experts", []),
    ],
)
def test_bets_are_chosen_by_what_they_are(
    project: Project, expression: str, chosen: list[str]
) -> None:
    project.bet("bet-40", status="falsified")
    project.bet("bet-41", model="reference-wide")
    found = collected(project.run("-k", expression, "--collect-only", "-q"))
    assert [line.rpartition("::")[2] for line in found] == chosen


def test_without_the_plugin_there_are_no_bets(project: Project) -> None:
    (project.path / "conftest.py").unlink()
    project.bet("a")
    result = project.run_apart("-p", "no:layerguard")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED


def test_a_bet_file_in_no_bet_folder_is_an_error_with_its_reason(project: Project) -> None:
    project.bet("fine", file="ideas/fine.yaml")
    (project.path / "other.yaml").write_text("stages: []\n", encoding="utf-8")
    said = project.run("ideas/fine.yaml", "other.yaml")
    said.stdout.fnmatch_lines(
        [
            "layerguard: ideas/fine.yaml lies in no bet folder (bets), so its bets are not collected; "
            "-o layerguard_bets=ideas makes its folder one"
        ]
    )
    assert "other.yaml lies in no bet folder" not in said.stdout.str()
    said = project.run("-o", "layerguard_bets=ideas", "ideas/fine.yaml")
    said.assert_outcomes(passed=1)
    assert "lies in no" not in said.stdout.str()
