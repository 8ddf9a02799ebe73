"""What this run saw: gathered from the reports of every worker, then shown and written."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_layerguard.collect import SUFFIXES, BetItem, bet_folder, folder_of_bets, shown
from pytest_layerguard.lab.secrets import without_secrets
from pytest_layerguard.options import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_layerguard.bet.reading import BetDocument
    from pytest_layerguard.report.entry import Told
    from pytest_layerguard.report.refused import Refused

TOLD: Final[pytest.StashKey[list[Told]]] = pytest.StashKey()
REFUSED: Final[pytest.StashKey[list[Refused]]] = pytest.StashKey()
WRITE_ERRORS: Final[pytest.StashKey[list[str]]] = pytest.StashKey()
MORE_JSON: Final = pytest.StashKey[dict[str, Any]]()
"""What the JSON report says beside the bets, by key."""
ATTRIBUTE: Final = "layerguard"
"""The attribute of a test report that carries a bet's `Told`, as a JSON string."""


def header(config: pytest.Config) -> list[str]:
    """The lines above a run with bets; none for a run without."""
    outside = list(_outside(config))
    if not has_bets(config):
        return outside
    from pytest_layerguard import reference
    from pytest_layerguard.report import terminal

    models = ", ".join(f"{name} {reference.digest(name)}" for name in reference.NAMES)
    return [*terminal.header(config.stash[SETTINGS].device, models), *outside]


def _outside(config: pytest.Config) -> Iterator[str]:
    """Say of files that were asked for why they are no bets: of that pytest says "not found" alone."""
    for arg in config.args:
        path = Path(config.invocation_params.dir, arg.split("::")[0])
        if path.suffix not in SUFFIXES or bet_folder(path, config) or not path.is_file():
            continue
        import re

        from pytest_layerguard.bet.limits import DEFAULT_LIMITS
        from pytest_layerguard.bet.problems import printable

        with path.open("rb") as file:
            # The YAML files of other plugins are none of ours.
            if not re.search(rb"(?m)^criteria:", file.read(DEFAULT_LIMITS.file_bytes)):
                continue
        names = ", ".join(folder.as_posix() for folder in config.stash[SETTINGS].bets)
        yield printable(
            f"layerguard: {arg} lies in no bet folder ({names}), so its bets are not collected; "
            f"-o layerguard_bets={path.parent.name} makes its folder one"
        )


def has_bets(config: pytest.Config) -> bool:
    """Whether an argument lies in a bet folder or has one directly below it."""
    start = config.invocation_params.dir
    for arg in config.args:
        path = Path(start, arg.split("::")[0])
        folders = (path / folder for folder in config.stash[SETTINGS].bets)
        if bet_folder(path / "bet.yaml", config) or any(folder.is_dir() for folder in folders):
            return True
    return False


def attach(item: pytest.Item, report: pytest.TestReport) -> pytest.TestReport:
    """Let a bet's report carry what the bet came to, to wherever the report is read."""
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
        # A skip is told at the bet, not at the line of ours that raised it.
        report.longrepr = (str(item.path), item.document.line, report.longrepr[2])
    return report


def scrub(report: pytest.TestReport) -> None:
    """Take access tokens out of a traceback, a reason and whatever was captured."""
    report.sections = [(name, without_secrets(text)) for name, text in report.sections]
    if isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = (path, line, without_secrets(reason))
        return
    shown = report.longreprtext
    clean = without_secrets(shown)
    if clean != shown:
        report.longrepr = clean


def carried(report: pytest.CollectReport | pytest.TestReport) -> Told | None:
    """What a report carries about a bet."""
    text = getattr(report, ATTRIBUTE, None)
    if text is None:
        return None
    from pytest_layerguard.report.entry import Told

    return Told.from_json(text)


def status(
    report: pytest.CollectReport | pytest.TestReport,
) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """The word of a bet's report; the category stays pytest's, which counts and exits by it."""
    told = carried(report)
    if told is None:
        return None
    from pytest_layerguard.report.terminal import markup

    word = told.entry["word"]
    letter = {"passed": ".", "failed": "F", "skipped": "s"}[report.outcome]
    return report.outcome, letter, (word, markup(word, report.outcome))


class Gathering:
    """Keeps what reports carry; the hook it needs is not told of any config."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._bets = config.stash.setdefault(TOLD, [])
        self._refused = config.stash.setdefault(REFUSED, [])
        config.stash.setdefault(MORE_JSON, {})

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a report carries; the controller of pytest-xdist sees every worker's."""
        told = carried(report)
        if told is not None:
            self._bets.append(told)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep what is wrong with a bet file that could not be read."""
        if report.failed and folder_of_bets(self._config.rootpath / report.nodeid, self._config):
            from pytest_layerguard.report.refused import Refused

            self._refused.append(Refused.of(report.nodeid, report.longreprtext))


def lost(document: BetDocument, path: Path, why: str, config: pytest.Config) -> Told:
    """What there is to tell of a bet that came to nothing, because the process that measured it ended."""
    from pytest_layerguard.catalogue import outcome
    from pytest_layerguard.report.entry import tell

    file = shown(path, config).as_posix()
    return tell(document, outcome.error(why), file, "failed", config.rootpath)


def write(session: pytest.Session) -> None:
    """Write the files that were asked for; the run fails where that cannot be done."""
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
    """Whether this process is a worker of pytest-xdist, whose controller reports."""
    return hasattr(config, "workerinput")


def summarise(terminal: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of bets, what other packages add, and what could not be written."""
    told = config.stash[TOLD]
    if told and config.get_verbosity() >= 0:
        from pytest_layerguard.report.entry import by_place
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
    """Where GitHub Actions runs this, fold the log, mark the lines and add to the step's summary."""
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
