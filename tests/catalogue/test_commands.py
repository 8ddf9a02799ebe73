"""The commands as a user types them."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import hypothesis  # noqa: F401
import pytest
from support.catalogue import BET_40, PROPOSAL

import pytest_layerguard.catalogue.ask
import pytest_layerguard.catalogue.audit
import pytest_layerguard.catalogue.summary  # noqa: F401

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(pytester: pytest.Pytester) -> Path:
    pytester.makeini("[pytest]\n")
    folder = pytester.path / "bets"
    folder.mkdir()
    (folder / "40.yaml").write_text(json.dumps(BET_40), encoding="utf-8")
    (folder / "new.yaml").write_text(json.dumps(PROPOSAL), encoding="utf-8")
    return folder


@pytest.mark.parametrize("where", ["bets", "bets/", "bets/40.yaml", ".", ""])
def test_a_question_is_answered_and_nothing_is_run(
    pytester: pytest.Pytester, folder: Path, where: str
) -> None:
    words = ["--layerguard-ask", "skip_layers on reference"]
    result = pytester.runpytest_inprocess(*([where] if where else []), *words)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["skip_layers on reference (*", "CLOSED by bet-40"])
    result.stdout.no_fnmatch_line("*session starts*")


def test_a_question_that_means_nothing_is_a_usage_error(
    pytester: pytest.Pytester, folder: Path
) -> None:
    result = pytester.runpytest_inprocess("bets", "--layerguard-ask", "skp_layers on reference")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --layerguard-ask: 'skp_layers' is no intervention, did you mean 'skip_layers'?*"]
    )


def test_a_question_with_words_that_no_bet_has_names_the_nearest(
    pytester: pytest.Pytester, folder: Path
) -> None:
    result = pytester.runpytest_inprocess("bets", "--layerguard-ask", "saving much bandwidth")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "ERROR: --layerguard-ask: no bet has all these words; nearest:",
            "  drop-one (*), proposed, on reference, *new.yaml:1, without much",
            "What else can be asked: INTERVENTION on MODEL, *",
        ]
    )


def test_a_question_in_words_finds_the_bets_that_have_them(
    pytester: pytest.Pytester, folder: Path
) -> None:
    result = pytester.runpytest_inprocess("bets", "--layerguard-ask", "saving bandwidth")
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "saving bandwidth: this bet has the words",
            "drop-one (*), proposed, on reference, *new.yaml:1",
        ]
    )


@pytest.mark.parametrize(
    ("given", "example"),
    [
        (["--layerguard-ask", "skip_layers on reference"], "--layerguard-ask IDEA"),
        (["--layerguard-summary"], "--layerguard-summary"),
    ],
)
def test_where_there_are_no_bets_that_is_reported(
    pytester: pytest.Pytester, given: list[str], example: str
) -> None:
    result = pytester.runpytest_inprocess(*given)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"ERROR: no bet folder there; name one, as in 'pytest bets/ {example}'"]
    )


def test_the_bets_of_the_root_are_asked_where_testpaths_leave_them_out(
    pytester: pytest.Pytester, folder: Path
) -> None:
    pytester.makeini("[pytest]\ntestpaths = tests\n")
    pytester.mkdir("tests")
    question = ["--layerguard-ask", "skip_layers on reference"]
    result = pytester.runpytest_inprocess(*question)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["CLOSED by bet-40"])
    named = pytester.runpytest_inprocess("tests", *question)
    assert named.ret == pytest.ExitCode.USAGE_ERROR


def test_the_summary_is_written_and_checked(pytester: pytest.Pytester, folder: Path) -> None:
    stale = pytester.runpytest_inprocess("bets", "--layerguard-check-summary")
    assert stale.ret == 1
    stale.stderr.fnmatch_lines(["ERROR: *SUMMARY.md: is missing; run with --layerguard-summary*"])
    written = pytester.runpytest_inprocess("bets", "--layerguard-summary")
    assert written.ret == 0
    written.stdout.fnmatch_lines(["wrote bets/SUMMARY.md"])
    assert (folder / "SUMMARY.md").is_file()
    assert pytester.runpytest_inprocess("bets", "--layerguard-check-summary").ret == 0


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")
def test_an_audit_without_a_history_says_so(
    pytester: pytest.Pytester, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(pytester.path.parent))
    result = pytester.runpytest_inprocess("bets", "--layerguard-audit")
    assert result.ret == 1
    result.stderr.fnmatch_lines(["ERROR: no history can be read: *not a git repository*"])


def test_a_record_is_written_under_xdist_too(pytester: pytest.Pytester, folder: Path) -> None:
    (folder / "new.yaml").unlink()
    pytester.makeconftest(
        """
        from support.catalogue import measured_as

        class LocalMeasurer:
            def expect(self, documents):
                pass

            def measure(self, document, *, bets):
                return measured_as("CATASTROPHIC")

        def pytest_layerguard_measurer():
            return LocalMeasurer()
        """
    )
    bet_41 = {**BET_40, "id": "bet-41"}
    (folder / "41.yaml").write_text(json.dumps(bet_41), encoding="utf-8")
    words = ("bets", "-n", "2", "--layerguard-record", "--layerguard-require", "records")
    result = pytester.runpytest_inprocess(*words)
    result.assert_outcomes(passed=2)
    assert sorted(path.name for path in (folder / "records").iterdir()) == [
        "bet-40.json",
        "bet-41.json",
    ]
