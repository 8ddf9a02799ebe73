"""The page, the Markdown summary and the commands for GitHub Actions, of whole runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jinja2  # noqa: F401 - pytest inside pytest forgets what it imported
import pytest

import pytest_layerguard.report.github
import pytest_layerguard.report.html
import pytest_layerguard.report.markdown  # noqa: F401

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Project

HEADING = "## layerguard: 1 failed, 1 passed"


@pytest.fixture
def bets(project: Project) -> Project:
    project.bet("bet-1", "CATASTROPHIC")
    project.bet("bet-2", "STRICT")
    return project


@pytest.fixture
def summary(bets: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The step's summary of a runner that runs the bets."""
    path = bets.path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(bets.path))
    return path


class TestFiles:
    def test_both_are_written(self, bets: Project) -> None:
        bets.run("bets", "--layerguard-html=out/page.html", "--layerguard-markdown=out/c.md")
        page = (bets.path / "out/page.html").read_text(encoding="utf-8")
        assert "At least one layer can be skipped" in page
        assert 'href="../bets/bet-1.yaml"' in page
        assert (bets.path / "out/c.md").read_text(encoding="utf-8").startswith(HEADING)

    def test_the_file_for_a_comment_has_what_the_summary_has(self, bets: Project) -> None:
        from pytest_layerguard.report import markdown, run_file

        (bets.path / "bets/bet-3.yaml").write_text("id: x", encoding="utf-8")
        bets.run(
            "bets",
            "--continue-on-collection-errors",
            "--layerguard-comment=out/comment.json",
            "--layerguard-markdown=out/c.md",
        )
        found = run_file.read((bets.path / "out/comment.json").read_bytes())
        written = (bets.path / "out/c.md").read_text(encoding="utf-8")
        assert markdown.render(found.bets, found.unreadable) == written
        assert written.startswith("## layerguard: 1 file could not be read, 2 failed")

    def test_by_ini_options(self, bets: Project) -> None:
        bets.ini("layerguard_html = 'page.html'", "layerguard_markdown = 'c.md'")
        bets.run("bets")
        assert (bets.path / "page.html").exists()
        assert (bets.path / "c.md").exists()

    @pytest.mark.slow
    def test_workers_reports_the_same(self, bets: Project) -> None:
        bets.run_apart("bets", "-n2", "--layerguard-html=page.html", "--layerguard-markdown=c.md")
        assert (bets.path / "c.md").read_text(encoding="utf-8").startswith(HEADING)
        page = (bets.path / "page.html").read_text(encoding="utf-8")
        assert page.count("<article") == 2
        assert "there was a little girl" in page

    @pytest.mark.parametrize("workers", ["", "-n1"])
    def test_a_file_that_cannot_be_read_is_reported(self, bets: Project, workers: str) -> None:
        (bets.path / "bets/bad.yaml").write_text("id: bad\n", encoding="utf-8")
        run = bets.run_apart if workers else bets.run
        result = run(
            "bets",
            "--layerguard-markdown=c.md",
            "--continue-on-collection-errors",
            *workers.split(),
        )
        assert result.ret != 0
        result.stdout.no_fnmatch_line("*INTERNALERROR*")
        reported = (bets.path / "c.md").read_text(encoding="utf-8")
        assert reported.startswith("## layerguard: 1 file could not be read")

    def test_what_cannot_be_written_fails_the_run(self, bets: Project) -> None:
        (bets.path / "file").write_text("", encoding="utf-8")
        result = bets.run("bets", "--layerguard-html=file/page.html", "--layerguard-markdown=c.md")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stdout.fnmatch_lines(["ERROR: cannot write --layerguard-html *"])
        assert (bets.path / "c.md").exists()

    def test_nothing_is_written_when_bets_are_only_collected(self, bets: Project) -> None:
        bets.run("bets", "--collect-only", "--layerguard-html=page.html")
        assert not (bets.path / "page.html").exists()

    def test_a_page_without_jinja_is_refused_before_anything_runs(
        self, bets: Project, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        result = bets.run("bets", "--layerguard-html=page.html")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(
            ["ERROR: --layerguard-html: needs Jinja2*pip install 'pytest-layerguard?html?'"]
        )
        assert bets.measured == []


class TestGitHub:
    def test_failures_are_marked_and_logs_are_folded(self, bets: Project, summary: Path) -> None:
        result = bets.run("bets")
        result.stdout.fnmatch_lines(
            [
                "::group::bet-1: CATASTROPHIC, failed",
                "| claim: At least one layer*",
                "::endgroup::",
                "::error file=bets/bet-1.yaml,line=1,title=bet-1%3A CATASTROPHIC::Claim: *",
            ]
        )
        assert HEADING in summary.read_text(encoding="utf-8")

    @pytest.mark.slow
    def test_once_also_with_workers(self, bets: Project, summary: Path) -> None:
        result = bets.run_apart("bets", "-n2")
        assert sum(line.startswith("::error ") for line in result.outlines) == 1
        assert summary.read_text(encoding="utf-8").count("## layerguard") == 1

    def test_a_file_that_cannot_be_read_is_marked(self, bets: Project, summary: Path) -> None:
        (bets.path / "bets/bad.yaml").write_text("id: bad\n", encoding="utf-8")
        result = bets.run("bets")
        result.stdout.fnmatch_lines(["::error file=bets/bad.yaml,line=1,col=1,title=bet file::*"])
        assert "could not be read" in summary.read_text(encoding="utf-8")

    def test_a_run_without_bets_says_nothing(self, bets: Project, summary: Path) -> None:
        bets.pytester.makepyfile("def test_it(): assert False")
        result = bets.run("test_a_run_without_bets_says_nothing.py")
        assert not any(line.startswith("::") for line in result.outlines)
        assert not summary.exists()

    def test_an_unwritable_summary_changes_no_exit(
        self, bets: Project, summary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(bets.path / "absent/summary.md"))
        result = bets.run("bets", "-k", "bet-2")
        assert result.ret == pytest.ExitCode.OK
        result.stdout.fnmatch_lines(["cannot write the step's summary: *"])

    def test_elsewhere_nothing_is_printed(self, bets: Project) -> None:
        assert not any(line.startswith("::") for line in bets.run("bets").outlines)
