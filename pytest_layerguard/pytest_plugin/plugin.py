"""The hooks of pytest that this package implements."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from pytest_layerguard.pytest_plugin import (
    bet_items,
    commands,
    hookspecs,
    options,
    reporting,
    root_directory,
    shards,
    time_limit,
    xdist,
)

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from pytest_layerguard.api import Measuring
    from pytest_layerguard.measurement.measurer import Measurer


@pytest.fixture(scope="session")
def layerguard(pytestconfig: pytest.Config) -> Measuring:
    """Measure bets in a test: `layerguard.measure(bet)` gives the numbers and the verdict."""
    from pytest_layerguard.api import Measuring

    def skip(why: str) -> None:
        if "all" in pytestconfig.stash[options.SETTINGS].require:
            pytest.fail(
                f"{why}\n--layerguard-require all: what cannot be measured here is a failure"
            )
        pytest.skip(why)

    registry = bet_items.registry_of(pytestconfig)
    measurer = partial(bet_items.measurer_of, pytestconfig)
    return Measuring(measurer, registry, pytestconfig.rootpath, skip)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the hooks of this package."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options of the command line and the ini file."""
    options.add_options(parser)
    commands.add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Root the run at the tree of its bets, before conftest files and the cache are looked for there."""
    root_directory.anchor(early_config)


def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Answer options that need no test, and exit."""
    return commands.main(config)


def pytest_configure(config: pytest.Config) -> None:
    """Read and check the options, and register what they need."""
    options.configure(config)
    config.pluginmanager.register(reporting.Gathering(config), "layerguard-gathering")
    shards.configure(config)
    xdist.configure(config)
    time_limit.configure(config)


@pytest.hookimpl(trylast=True)
def pytest_layerguard_measurer(config: pytest.Config) -> Measurer:
    """Build the measurer of this package, unless another plugin provides one."""
    return bet_items.own_measurer(config)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Print the versions and the device, where there are bets."""
    return reporting.header(config)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect bet files."""
    return bet_items.claim(file_path, parent)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put bets on one model next to each other."""
    bet_items.group_by_model(items)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Let a run of bets alone take a line or two while it goes on."""
    reporting.without_file_names(session)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the result of a bet to its report."""
    return reporting.attach(item, (yield))


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, report: pytest.TestReport, sched: Any) -> None:
    """Report the bet of a worker that died as an ERROR."""
    xdist.report_crash(crashitem, report, sched.config)


def pytest_report_teststatus(
    report: pytest.CollectReport | pytest.TestReport,
) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """Show the word of a bet in place of PASSED or FAILED."""
    return reporting.status(report)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the reports that were asked for."""
    reporting.write(session)
    reporting.fold_warnings(session.config)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the table of bets."""
    reporting.summarise(terminalreporter, config)
