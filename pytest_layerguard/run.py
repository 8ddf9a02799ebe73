"""What this run saw: gathered from the reports of every worker, then shown and written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from pytest_layerguard.collect import BetItem, bet_folder
from pytest_layerguard.options import SETTINGS

if TYPE_CHECKING:
    from pytest_layerguard.report.entry import Told

TOLD: Final[pytest.StashKey[list[Told]]] = pytest.StashKey()
WRITE_ERROR: Final[pytest.StashKey[str]] = pytest.StashKey()
ATTRIBUTE: Final = "layerguard"
"""The attribute of a test report that carries a bet's `Told`, as a JSON string."""


def header(config: pytest.Config) -> list[str]:
    """The lines above a run with bets; none for a run without."""
    if not has_bets(config):
        return []
    from pytest_layerguard import reference
    from pytest_layerguard.report import terminal

    models = ", ".join(f"{name} {reference.digest(name)}" for name in reference.NAMES)
    return list(terminal.header(config.stash[SETTINGS].device, models))


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
    if not isinstance(item, BetItem) or report.when != "call":
        return report
    told = item.told(report)
    setattr(report, ATTRIBUTE, told.to_json())
    item.user_properties.extend(told.properties())
    report.user_properties.extend(told.properties())
    if isinstance(report.longrepr, tuple):
        # A skip is told at the bet, not at the line of ours that raised it.
        report.longrepr = (str(item.path), item.document.line, report.longrepr[2])
    return report


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
        self._bets = config.stash.setdefault(TOLD, [])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a report carries; the controller of pytest-xdist sees every worker's."""
        told = carried(report)
        if told is not None:
            self._bets.append(told)


def write(session: pytest.Session) -> None:
    """Write the files that were asked for; the run fails where that cannot be done."""
    config = session.config
    path = config.stash[SETTINGS].json
    if path is None or is_worker(config) or config.getoption("collectonly"):
        return
    from pytest_layerguard.report import json

    bets = config.stash[TOLD]
    try:
        json.write(path, bets)
    except OSError as error:
        config.stash[WRITE_ERROR] = f"cannot write --layerguard-json {path}: {error.strerror}"
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


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
    if WRITE_ERROR in config.stash:
        terminal.line(f"ERROR: {config.stash[WRITE_ERROR]}", red=True)
