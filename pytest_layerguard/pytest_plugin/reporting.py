"""Results of all bets of a run: gathered from the reports of every worker, then printed and written."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_layerguard import LayerguardWarning
from pytest_layerguard.environment.secrets import without_secrets
from pytest_layerguard.pytest_plugin.bet_items import (
    REPORT,
    SUFFIXES,
    BetItem,
    asked_paths,
    bet_folder,
    folder_of_bets,
)
from pytest_layerguard.pytest_plugin.options import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.report.bet_report import BetReport, UnreadableFile

ATTRIBUTE: Final = "layerguard"
"""The attribute of a test report that holds a bet's `BetReport`, as a string."""


@dataclass
class RunResults:
    """The results of a run, for its reports."""

    bets: list[BetReport] = field(default_factory=list)
    unreadable: list[UnreadableFile] = field(default_factory=list)
    write_errors: list[str] = field(default_factory=list)
    more_json: dict[str, Any] = field(default_factory=dict)
    """Further keys of the JSON report, beside the bets."""


RESULTS: Final[pytest.StashKey[RunResults]] = pytest.StashKey()


class Gathering:
    """Keeps the results that test reports carry. A plugin object, since the hook gets no config."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._results = config.stash[RESULTS] = RunResults()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the result of a bet; the controller of pytest-xdist gets the reports of all workers."""
        bet = attached(report)
        if bet is not None:
            self._results.bets.append(bet)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep the errors of a bet file that could not be read."""
        if report.failed and folder_of_bets(self._config.rootpath / report.nodeid, self._config):
            from pytest_layerguard.report.bet_report import UnreadableFile

            unreadable = UnreadableFile.of(report.nodeid, report.longreprtext)
            self._results.unreadable.append(unreadable)


def header(config: pytest.Config) -> list[str]:
    """Return the lines above a run with bets; none for a run without."""
    outside = list(_outside(config))
    if not has_bets(config):
        return outside
    from pytest_layerguard import reference
    from pytest_layerguard.environment import devices
    from pytest_layerguard.report import terminal

    verbose = config.get_verbosity() > 0
    models = [f"{name} {reference.digest(name)}" for name in reference.NAMES] if verbose else []
    return [*terminal.header(devices.expected(config.stash[SETTINGS].device), models), *outside]


def _outside(config: pytest.Config) -> Iterator[str]:
    """Explain why bet files that were asked for are not collected; pytest itself only says "not found"."""
    for arg, path in zip(config.args, asked_paths(config), strict=True):
        if path.suffix.lower() not in SUFFIXES or bet_folder(path, config) or not path.is_file():
            continue
        from pytest_layerguard.bet.errors import printable
        from pytest_layerguard.bet.validation import LIMITS

        with path.open("rb") as file:
            # Other YAML files may belong to other plugins.
            if not re.search(rb"(?m)^criteria:", file.read(LIMITS.file_bytes)):
                continue
        names = ", ".join(folder.as_posix() for folder in config.stash[SETTINGS].bets)
        yield printable(
            f"layerguard: {arg} lies in no bet folder ({names}), so its bets are not collected; "
            f"-o layerguard_bets={path.parent.name} makes its folder one"
        )


def has_bets(config: pytest.Config) -> bool:
    """Return whether an argument lies in a bet folder or has one directly below it."""
    names = config.stash[SETTINGS].bets
    return any(
        bet_folder(path / "bet.yaml", config) or any((path / name).is_dir() for name in names)
        for path in asked_paths(config)
    )


def attach(item: pytest.Item, report: pytest.TestReport) -> pytest.TestReport:
    """Attach the result of a bet to its test report, which pytest-xdist sends to its controller."""
    if not isinstance(item, BetItem):
        return report
    _remove_secrets(report)
    if report.when != "call":
        return report
    bet = item.stash.get(REPORT, None) or _unjudged(item, report)
    # A bet that passes may still fail as a test, as by a warning under -W error.
    bet = replace(bet, outcome=report.outcome)
    setattr(report, ATTRIBUTE, without_secrets(bet.to_json()))
    properties = junit_properties(bet)
    item.user_properties.extend(properties)
    report.user_properties.extend(properties)
    if isinstance(report.longrepr, tuple):
        # Name the bet as the place of a skip, not the line of this package that raised it.
        report.longrepr = (str(item.path), item.document.line, report.longrepr[2])
    return report


def _unjudged(item: BetItem, report: pytest.TestReport) -> BetReport:
    """Return an ERROR that quotes the last line of the traceback, for reports without tracebacks."""
    from pytest_layerguard.catalogue.outcome import error
    from pytest_layerguard.catalogue.wording import cut

    crash = getattr(report.longrepr, "reprcrash", None)
    raised = str(getattr(crash, "message", "")).strip().split("\n")[0] or "something unknown"
    return item.make_report(
        error(
            f"running it raised an unexpected error: {cut(raised, 600)}; the traceback "
            "stands in the output of pytest"
        )
    )


def _remove_secrets(report: pytest.TestReport) -> None:
    """Remove access tokens from the traceback, the reason and the captured output."""
    report.sections = [(name, without_secrets(text)) for name, text in report.sections]
    if isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = (path, line, without_secrets(reason))
        return
    text = report.longreprtext
    clean = without_secrets(text)
    if clean != text:
        report.longrepr = clean


def junit_properties(bet: BetReport) -> list[tuple[str, str | float]]:
    """Return flat values for JUnit XML; of several variants, the worst."""
    values: dict[str, str | float | None] = {
        "bet": bet.id,
        "status": bet.status,
        "word": bet.word,
        "verdict": bet.verdict,
        "digest": bet.digest,
        "cached": bet.cached,
    }
    if len(bet.bases) == 1 and "perplexity" in bet.bases[0].metrics:
        values["base_perplexity"] = bet.bases[0].metrics["perplexity"].value
    values["perplexity"] = max(bet.points("perplexity"), default=None)
    values["ratio"] = max(bet.points("perplexity_ratio"), default=None)
    values["unique_tokens"] = min(bet.points("unique_tokens"), default=None)
    return [(f"layerguard_{key}", value) for key, value in values.items() if value is not None]


def attached(report: pytest.CollectReport | pytest.TestReport) -> BetReport | None:
    """Return the result of a bet that is attached to a report, or None."""
    text = getattr(report, ATTRIBUTE, None)
    if text is None:
        return None
    from pytest_layerguard.report.bet_report import BetReport

    return BetReport.from_json(text)


def status(
    report: pytest.CollectReport | pytest.TestReport,
) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """Return the word of a bet's report. The category stays pytest's own, which decides counts and exit status."""
    bet = attached(report)
    if bet is None:
        return None
    from pytest_layerguard.report.terminal import markup

    letter = {"passed": ".", "failed": "F", "skipped": "s"}[report.outcome]
    return report.outcome, letter, (bet.word, markup(bet.word, report.outcome))


def lost(document: BetDocument, why: str, config: pytest.Config) -> BetReport:
    """Return an ERROR for a bet whose process ended before it was judged."""
    from pytest_layerguard.catalogue import outcome
    from pytest_layerguard.report.make_report import make_report

    return make_report(document, outcome.error(why), config.rootpath)


def write(session: pytest.Session) -> None:
    """Write the reports that were asked for; the run fails with a usage error if one cannot be written."""
    config = session.config
    if not _reports_here(config):
        return
    from pytest_layerguard.environment.atomic_write import write_whole

    for name, render in _REPORTS:
        path: Path | None = getattr(config.stash[SETTINGS], name)
        if path is None:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A lone surrogate has no place in a file.
            write_whole(path, render(config, path).encode("utf-8", "replace").decode())
        except OSError as error:
            config.stash[RESULTS].write_errors.append(
                f"cannot write --layerguard-{name} {path}: {error.strerror}"
            )
            session.exitstatus = pytest.ExitCode.USAGE_ERROR


def _json(config: pytest.Config, _path: Path) -> str:
    from pytest_layerguard.report import json

    results = config.stash[RESULTS]
    return json.render(results.bets, results.more_json)


def _csv(config: pytest.Config, _path: Path) -> str:
    from pytest_layerguard.report import rows

    return rows.csv(config.stash[RESULTS].bets)


def _page(config: pytest.Config, path: Path) -> str:
    from pytest_layerguard.report import github, html

    results = config.stash[RESULTS]
    links = html.FileLinks(config.rootpath, path, github.address(os.environ, config.rootpath))
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return html.render(results.bets, results.unreadable, links, when)


def _markdown(config: pytest.Config, _path: Path) -> str:
    from pytest_layerguard.report import github, markdown

    results = config.stash[RESULTS]
    address = github.address(os.environ, config.rootpath)
    return markdown.render(results.bets, results.unreadable, address=address)


def _comment(config: pytest.Config, _path: Path) -> str:
    from pytest_layerguard.report import run_file

    results = config.stash[RESULTS]
    return run_file.render(results.bets, results.unreadable)


_REPORTS: Final = (
    ("json", _json),
    ("csv", _csv),
    ("html", _page),
    ("markdown", _markdown),
    ("comment", _comment),
)
"""The reports by the names of their options."""


def is_worker(config: pytest.Config) -> bool:
    """Return whether this process is a worker of pytest-xdist, whose controller writes the reports."""
    return hasattr(config, "workerinput")


def _reports_here(config: pytest.Config) -> bool:
    return not is_worker(config) and not config.getoption("collectonly")


def summarise(terminal: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of bets, lines of other packages, and reports that could not be written."""
    results = config.stash[RESULTS]
    if results.bets and config.get_verbosity() >= -1:
        from pytest_layerguard.report.bet_report import by_place
        from pytest_layerguard.report.terminal import Marks, notes, summary, title

        bets = by_place(results.bets)
        width, verbosity = config.get_terminal_writer().fullwidth, config.get_verbosity()
        marks = Marks.of(getattr(sys.__stdout__, "encoding", None))
        if verbosity == -1:
            terminal.ensure_newline()
            lines = notes(bets, width)
        else:
            terminal.section(title(bets))
            lines = summary(bets, width, marks, verbose=verbosity > 0)
        for line in lines:
            terminal.write(line.mark, **line.markup)
            terminal.line(line.text)
        _fold_skips(terminal)
    if results.bets and config.get_verbosity() >= 0:
        for texts in config.hook.pytest_layerguard_report_lines(config=config, bets=bets):
            for text in texts:
                terminal.line(text)
    for error in results.write_errors:
        terminal.line(f"ERROR: {error}", red=True)
    if results.bets or results.unreadable:
        _report_to_github(terminal, config)


def fold_warnings(config: pytest.Config) -> None:
    """Take the warnings of undecided bets out of pytest's list, unless `-v` asks for it: the table notes them."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is None or config.get_verbosity() > 0 or not config.stash[RESULTS].bets:
        return
    warnings = terminal.stats.get("warnings", [])
    others = [each for each in warnings if f"{LayerguardWarning.__name__}: " not in each.message]
    if others:
        terminal.stats["warnings"] = others
    else:
        terminal.stats.pop("warnings", None)


def _fold_skips(terminal: pytest.TerminalReporter) -> None:
    """Make one line of the skipped bets in the list of skips that `-rs` prints: the table has the reasons.

    `--no-fold-skipped` lists them one by one.
    """
    if not terminal.config.getoption("fold_skipped"):
        return
    for report in terminal.stats.get("skipped", ()):
        if isinstance(report, pytest.TestReport) and hasattr(report, ATTRIBUTE):
            folder = report.nodeid.split("/")[0]
            reason = "bets not measured, for the reasons above"
            # pytest prints no line number where there is none, as for a mark of a whole module.
            report.longrepr = (folder, None, reason)  # type: ignore[assignment]


def without_file_names(session: pytest.Session) -> None:
    """Leave the names of files out of the dots, where all tests are bets: each would take a line."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and all(isinstance(item, BetItem) for item in session.items):
        reporter.showfspath = False


def _report_to_github(terminal: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Under GitHub Actions, fold the log, annotate lines and add to the summary of the step."""
    from pytest_layerguard.report import github

    if not _reports_here(config) or not github.active(os.environ):
        return
    results, root = config.stash[RESULTS], config.rootpath
    for line in github.groups(results.bets):
        terminal.line(line)
    for line in github.annotated(results.bets, results.unreadable, os.environ, root):
        terminal.line(line)
    problem = github.summarise(results.bets, results.unreadable, os.environ, root)
    if problem is not None:
        terminal.line(problem, yellow=True)
