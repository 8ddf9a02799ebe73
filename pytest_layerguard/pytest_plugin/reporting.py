"""Results of all bets of a run: gathered from the reports of every worker, then printed and written."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_layerguard.environment.secrets import without_secrets
from pytest_layerguard.pytest_plugin.bet_items import (
    SUFFIXES,
    BetItem,
    bet_folder,
    folder_of_bets,
    shown,
)
from pytest_layerguard.pytest_plugin.options import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.report.bet_report import BetReport
    from pytest_layerguard.report.refused import Refused

TOLD: Final[pytest.StashKey[list[BetReport]]] = pytest.StashKey()
REFUSED: Final[pytest.StashKey[list[Refused]]] = pytest.StashKey()
WRITE_ERRORS: Final[pytest.StashKey[list[str]]] = pytest.StashKey()
MORE_JSON: Final = pytest.StashKey[dict[str, Any]]()
"""What the JSON report says beside the bets, by key."""
ATTRIBUTE: Final = "layerguard"
"""The attribute of a test report that carries a bet's `BetReport`, as a JSON string."""


def header(config: pytest.Config) -> list[str]:
    """Return the lines above a run with bets; none for a run without."""
    outside = list(_outside(config))
    if not has_bets(config):
        return outside
    from pytest_layerguard import reference
    from pytest_layerguard.report import terminal

    models = ", ".join(f"{name} {reference.digest(name)}" for name in reference.NAMES)
    return [*terminal.header(config.stash[SETTINGS].device, models), *outside]


def _outside(config: pytest.Config) -> Iterator[str]:
    """Explain why bet files that were asked for are not collected; pytest itself only says "not found"."""
    for arg in config.args:
        path = Path(config.invocation_params.dir, arg.split("::")[0])
        if path.suffix not in SUFFIXES or bet_folder(path, config) or not path.is_file():
            continue
        import re

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
    start = config.invocation_params.dir
    for arg in config.args:
        path = Path(start, arg.split("::")[0])
        folders = (path / folder for folder in config.stash[SETTINGS].bets)
        if bet_folder(path / "bet.yaml", config) or any(folder.is_dir() for folder in folders):
            return True
    return False


def attach(item: pytest.Item, report: pytest.TestReport) -> pytest.TestReport:
    """Attach the result of a bet to its report, which carries it to the controller of pytest-xdist."""
    if not isinstance(item, BetItem):
        return report
    scrub(report)
    if report.when != "call":
        return report
    told = item.told(report)
    setattr(report, ATTRIBUTE, without_secrets(told.to_json()))
    item.user_properties.extend(told.properties())
    report.user_properties.extend(told.properties())
    if isinstance(report.longrepr, tuple):
        # Name the bet as the place of a skip, not the line of this package that raised it.
        report.longrepr = (str(item.path), item.document.line, report.longrepr[2])
    return report


def scrub(report: pytest.TestReport) -> None:
    """Remove access tokens from the traceback, the reason and the captured output."""
    report.sections = [(name, without_secrets(text)) for name, text in report.sections]
    if isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = (path, line, without_secrets(reason))
        return
    shown = report.longreprtext
    clean = without_secrets(shown)
    if clean != shown:
        report.longrepr = clean


def carried(report: pytest.CollectReport | pytest.TestReport) -> BetReport | None:
    """Return the result of a bet that is attached to a report, or None."""
    text = getattr(report, ATTRIBUTE, None)
    if text is None:
        return None
    from pytest_layerguard.report.bet_report import BetReport

    return BetReport.from_json(text)


def status(
    report: pytest.CollectReport | pytest.TestReport,
) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """Return the word of a bet's report. The category stays that of pytest, which counts and exits by it."""
    told = carried(report)
    if told is None:
        return None
    from pytest_layerguard.report.terminal import markup

    word = told.entry["word"]
    letter = {"passed": ".", "failed": "F", "skipped": "s"}[report.outcome]
    return report.outcome, letter, (word, markup(word, report.outcome))


class Gathering:
    """Keeps the results that reports carry. A plugin object, since the hook gets no config."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._bets = config.stash.setdefault(TOLD, [])
        self._refused = config.stash.setdefault(REFUSED, [])
        config.stash.setdefault(MORE_JSON, {})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the result of a bet; the controller of pytest-xdist gets the reports of all workers."""
        told = carried(report)
        if told is not None:
            self._bets.append(told)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep what is wrong with a bet file that could not be read."""
        if report.failed and folder_of_bets(self._config.rootpath / report.nodeid, self._config):
            from pytest_layerguard.report.refused import Refused

            self._refused.append(Refused.of(report.nodeid, report.longreprtext))


def lost(document: BetDocument, path: Path, why: str, config: pytest.Config) -> BetReport:
    """Return an ERROR for a bet whose process ended before it was judged."""
    from pytest_layerguard.catalogue import outcome
    from pytest_layerguard.report.bet_report import tell

    file = shown(path, config).as_posix()
    return tell(document, outcome.error(why), file, "failed", config.rootpath)


def write(session: pytest.Session) -> None:
    """Write the reports that were asked for; the run fails with a usage error where one cannot be written."""
    config = session.config
    if is_worker(config) or config.getoption("collectonly"):
        return
    failed = config.stash.setdefault(WRITE_ERRORS, [])
    for name in ("json", "html", "markdown"):
        path = getattr(config.stash[SETTINGS], name)
        if path is None:
            continue
        try:
            write_report(name, path, config)
        except OSError as error:
            failed.append(f"cannot write --layerguard-{name} {path}: {error.strerror}")
            session.exitstatus = pytest.ExitCode.USAGE_ERROR


def write_report(name: str, path: Path, config: pytest.Config) -> None:
    """Write one report.

    Raises:
        OSError: when the path cannot be written; whatever stood there still does.
    """
    bets, refused = config.stash[TOLD], config.stash[REFUSED]
    root = config.rootpath
    if name == "json":
        from pytest_layerguard.report import json

        more = config.stash[MORE_JSON]
        json.write(path, bets, more)
        return
    from pytest_layerguard.report import github

    address = github.address(os.environ, root)
    if name == "markdown":
        from pytest_layerguard.report import markdown

        markdown.write(path, bets, refused, address)
        return
    from pytest_layerguard.report import html

    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    html.write(path, bets, refused, html.Source(root, path, address), when)


def is_worker(config: pytest.Config) -> bool:
    """Return whether this process is a worker of pytest-xdist; its controller reports."""
    return hasattr(config, "workerinput")


def summarise(terminal: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of bets, lines of other packages, and reports that could not be written."""
    told = config.stash[TOLD]
    if told and config.get_verbosity() >= 0:
        from pytest_layerguard.report.bet_report import by_place
        from pytest_layerguard.report.terminal import summary

        bets = by_place(told)
        terminal.section("bets")
        for line in summary(bets, config.get_terminal_writer().fullwidth):
            terminal.write(line.text)
            terminal.line(line.word, **line.markup)
        for lines in config.hook.pytest_layerguard_report_lines(config=config, bets=bets):
            for text in lines:
                terminal.line(text)
    for error in config.stash.get(WRITE_ERRORS, ()):
        terminal.line(f"ERROR: {error}", red=True)
    refused = config.stash[REFUSED]
    if told or refused:
        tell_github(terminal, config)


def tell_github(terminal: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Under GitHub Actions, fold the log, annotate lines and add to the summary of the step."""
    from pytest_layerguard.report import github

    quiet = is_worker(config) or config.getoption("collectonly")
    if quiet or not github.active(os.environ):
        return
    bets, refused = config.stash[TOLD], config.stash[REFUSED]
    root = config.rootpath
    for line in github.groups(bets):
        terminal.line(line)
    for line in github.annotated(bets, refused, os.environ, root):
        terminal.line(line)
    problem = github.summarise(bets, refused, os.environ, root)
    if problem is not None:
        terminal.line(problem, yellow=True)
