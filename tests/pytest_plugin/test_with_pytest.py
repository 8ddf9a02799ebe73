"""Bets beside what pytest and pytest-xdist offer for any test."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Project


def words(result: pytest.RunResult) -> dict[str, str]:
    """The word of each line of the table."""
    lines = result.outlines
    start = next(at for at, line in enumerate(lines) if "decided by" in line) + 1
    table = [line.split() for line in lines[start:] if re.match("[^a-z] +bet-", line)]
    return {line[1]: line[3] for line in table}


def test_two_workers_say_what_one_process_says(project: Project) -> None:
    project.bet("bet-1", "CATASTROPHIC")
    project.bet("bet-2", "CATASTROPHIC", status="falsified")
    project.bet("bet-3", unavailable="no GPU")
    project.bet("bet-4", "INCONCLUSIVE", status="falsified", model="reference-wide")
    alone = project.run("bets/", *reports("alone"))
    together = project.run_apart("bets/", "-n", "2", *reports("together"))
    assert alone.ret == together.ret == 1
    assert alone.parseoutcomes() == together.parseoutcomes()
    assert (
        words(alone)
        == words(together)
        == {
            "bet-1": "CATASTROPHIC",
            "bet-2": "CATASTROPHIC",
            "bet-4": "INCONCLUSIVE",
        }
    )
    together.stdout.fnmatch_lines(["claim: *", "skip-0 *800 *80 [[]70, 90] *2"])
    together.stdout.no_fnmatch_line("*Traceback*")
    together.stdout.fnmatch_lines(
        ["CATASTROPHIC bets/bet-1.yaml::bet-1 - 11 [[]10.5, 11.5] against >= 10: *"]
    )
    for kind in ("json", "markdown"):
        found = [(project.path / f"{who}.{kind}").read_text() for who in ("alone", "together")]
        assert found[0] == found[1]
    page = (project.path / "together.html").read_text(encoding="utf-8")
    assert page.count("<article") == 4
    assert "there was a little girl" in page


def reports(name: str) -> list[str]:
    return [f"--layerguard-{kind}={name}.{kind}" for kind in ("json", "markdown", "html")]


def test_junit_has_flat_properties_once(project: Project) -> None:
    project.bet("bet-40", "CATASTROPHIC", status="falsified")
    project.bet("bet-41", "CATASTROPHIC")
    project.run("bets/", "--junitxml=junit.xml")
    cases = ElementTree.parse(project.path / "junit.xml").findall(".//testcase")
    properties = [(each.get("name"), each.get("value")) for each in cases[0].iter("property")]
    assert dict(properties) == {
        "layerguard_bet": "bet-40",
        "layerguard_status": "falsified",
        "layerguard_word": "CATASTROPHIC",
        "layerguard_verdict": "CATASTROPHIC",
        "layerguard_digest": dict(properties)["layerguard_digest"],
        "layerguard_cached": "False",
        "layerguard_base_perplexity": "10.0",
        "layerguard_perplexity": "800.0",
        "layerguard_ratio": "80.0",
        "layerguard_unique_tokens": "2.0",
    }
    assert len(properties) == 10
    failure = cases[1].find("failure")
    assert failure is not None
    assert failure.get("message") == (
        "11 [10.5, 11.5] against >= 10: perplexity_ratio of skip-3, the best of 2; "
        "catastrophic is true"
    )
    assert "claim:" in str(failure.text)


def test_the_first_failure_can_be_the_last(project: Project) -> None:
    project.bet("bet-1", "CATASTROPHIC")
    project.bet("bet-2")
    project.run("bets/", "-x").assert_outcomes(failed=1)
    assert project.measured == ["bet-1"]


def test_what_failed_last_can_be_run_again(project: Project) -> None:
    project.bet("bet-1")
    project.bet("bet-2", "CATASTROPHIC")
    project.run("bets/").assert_outcomes(passed=1, failed=1)
    project.run("bets/", "--lf").assert_outcomes(failed=1)
    assert project.measured == ["bet-1", "bet-2", "bet-2"]


def test_a_bet_can_be_named(project: Project) -> None:
    project.bet("bet-1", file="bets/all.yaml")
    project.bet("bet-2", file="bets/all.yaml")
    project.run("bets/all.yaml::bet-2").assert_outcomes(passed=1)
    assert project.measured == ["bet-2"]


@pytest.mark.parametrize(
    "args",
    [
        ["-p", "no:cacheprovider"],
        ["-p", "no:logging"],
        ["-p", "no:warnings"],
        ["-p", "no:junitxml"],
        ["-p", "no:faulthandler"],
        ["-s"],
        ["-vv"],
        ["-rA"],
        ["--no-header", "--no-summary"],
        ["--color=yes"],
        ["--durations=1"],
        ["--strict-markers", "--strict-config"],
        ["--import-mode=importlib"],
        ["--runxfail"],
        ["--setup-show"],
        ["--full-trace"],
    ],
    ids=" ".join,
)
def test_nothing_that_a_user_may_ask_of_pytest_is_in_the_way(
    project: Project, args: list[str]
) -> None:
    project.bet("bet-1", "CATASTROPHIC", status="falsified")
    result = project.run("bets/", *args)
    assert result.ret == 0, result.stdout.str()
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_without_a_terminal_it_is_the_exit_code_that_speaks(project: Project) -> None:
    project.bet("bet-1", "CATASTROPHIC")
    assert project.run("bets/", "-p", "no:terminal").ret == pytest.ExitCode.TESTS_FAILED


class TestTable:
    """The header above a run with bets, and the table below it."""

    def test_both_are_there(self, project: Project) -> None:
        project.bet("bet-1", "CATASTROPHIC", status="falsified")
        result = project.run("bets/", "--layerguard-device=cpu")
        result.stdout.fnmatch_lines(
            [
                "layerguard: *, device cpu, torch 2*, transformers *",
                "*= bets: *",
                "  *bet *status *word *decided by *bar",
                "* bet-1 *falsified *CATASTROPHIC *skip-3, best of 2 11x [[]10.5, 11.5] *>= 10",
                "*= 1 passed*",
            ]
        )

    def test_with_v_the_header_names_the_models_of_the_package(self, project: Project) -> None:
        project.bet("bet-1", "CATASTROPHIC", status="falsified")
        result = project.run("bets/", "-v")
        result.stdout.fnmatch_lines(
            ["layerguard: *, reference ????????????, reference-wide ????????????"]
        )

    def test_neither_is_there_without_bets(self, project: Project) -> None:
        project.pytester.makepyfile("def test_one(): pass")
        result = project.run()
        result.stdout.no_fnmatch_line("layerguard: *")
        result.stdout.no_fnmatch_line("*= bets: *")

    def test_a_quiet_run_has_neither(self, project: Project) -> None:
        project.bet("bet-1")
        project.bet("bet-2", unavailable="no GPU")
        result = project.run("bets/", "-q")
        result.stdout.no_fnmatch_line("layerguard: *")
        result.stdout.no_fnmatch_line("*= bets: *")
        result.stdout.fnmatch_lines(["not measured: 1 no GPU; -v names them"])
        project.run("bets/", "-qq").stdout.no_fnmatch_line("*not measured*")

    def test_a_run_of_the_whole_project_has_both(self, project: Project) -> None:
        project.bet("bet-1")
        project.pytester.makepyfile("def test_one(): pass")
        result = project.run()
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(["layerguard: *", "*= bets: *"])

    def test_it_follows_the_width_of_the_terminal(
        self, project: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        project.bet("bet-with-a-long-name-that-goes-on-and-on", "CATASTROPHIC")
        for width in ("200", "80"):
            monkeypatch.setenv("COLUMNS", width)
            lines = project.run("bets/", "--tb=no", "--no-header").outlines
            start = next(at for at, line in enumerate(lines) if "decided by" in line)
            assert max(map(len, lines[start : start + 2])) <= int(width)
            assert ("that-goes-on-and-on" in lines[start + 1]) is (width == "200")


class TestHooks:
    """What other packages and conftest files can add."""

    def conftest(self, project: Project, text: str) -> None:
        path = project.path / "conftest.py"
        path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")

    def test_lines_below_the_table(self, project: Project) -> None:
        self.conftest(
            project,
            "\n\ndef pytest_layerguard_report_lines(bets):\n"
            "    return [f'{len(bets)} bet, {bets[0].word}']\n",
        )
        project.bet("bet-1", "STRICT")
        project.run("bets/").stdout.fnmatch_lines(["1 bet, STRICT"])

    def test_an_intervention(self, project: Project) -> None:
        self.conftest(
            project,
            "\n\nfrom pytest_layerguard.bet.arguments import Arguments\n"
            "from pytest_layerguard.extending import Kind\n\n\n"
            "class Shuffle(Arguments):\n"
            "    def slug(self):\n"
            "        return 'shuffle'\n\n\n"
            "def pytest_layerguard_interventions():\n"
            "    return [Kind('shuffle_layers', Shuffle, 'nowhere:shuffle')]\n",
        )
        path = project.bet("bet-1", ratios={"shuffle": [1.1, 1.2, 1.3]})
        text = path.read_text(encoding="utf-8")
        path.write_text(
            text.replace("skip_layers: {layers: {each: all}}", "shuffle_layers: {}")
            .replace("any(", "(")
            .replace("all(", "("),
            encoding="utf-8",
        )
        result = project.run("bets/")
        result.assert_outcomes(passed=1)

    def test_two_interventions_of_one_name(self, project: Project) -> None:
        self.conftest(
            project,
            "\n\nfrom pytest_layerguard.bet.arguments import SkipLayers\n"
            "from pytest_layerguard.extending import Kind\n\n\n"
            "def pytest_layerguard_interventions():\n"
            "    return [Kind('skip_layers', SkipLayers, 'elsewhere:skip')]\n",
        )
        project.bet("bet-1")
        result = project.run("bets/")
        assert result.ret != 0
        result.stdout.fnmatch_lines(["*two interventions are named skip_layers: *elsewhere:skip*"])
        result.stdout.no_fnmatch_line("*INTERNALERROR*")


def test_bets_and_tests_with_the_fixture_share_one_measurer(project: Project) -> None:
    project.bet("a")
    source = (project.path / "conftest.py").read_text(encoding="utf-8")
    noted = "def pytest_layerguard_measurer():\n    open('opened.txt', 'a').write('1')"
    (project.path / "conftest.py").write_text(
        source.replace("def pytest_layerguard_measurer():", noted), encoding="utf-8"
    )
    project.pytester.makepyfile("""
        def test_a(layerguard):
            assert layerguard.measure("bets/a.yaml").holds

        def test_again(layerguard):
            assert layerguard.measure("bets/a.yaml").holds
    """)
    project.run(".").assert_outcomes(passed=3)
    assert (project.path / "opened.txt").read_text(encoding="utf-8") == "1"
