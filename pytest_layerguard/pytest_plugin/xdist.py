"""Workers of pytest-xdist: bets on one model go to one worker, and a worker that dies costs one bet."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_layerguard.pytest_plugin import bet_items, progress, reporting
from pytest_layerguard.pytest_plugin.options import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from xdist.scheduler import LoadScopeScheduling

    from pytest_layerguard.bet.reader import BetDocument

EVERY = 30.0
"""Seconds between two lines on what the workers do."""


def configure(config: pytest.Config) -> None:
    """Register a controller if pytest-xdist distributes bets."""
    dealt = config.getoption("dist", "no") != "no" and not reporting.is_worker(config)
    if dealt and reporting.has_bets(config):
        config.pluginmanager.register(XdistController(config), "layerguard-controller")


class XdistController:
    """Distributes bets by model, and shows what the workers do."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._folder = Path(tempfile.mkdtemp(prefix="layerguard-"))
        config.add_cleanup(lambda: shutil.rmtree(self._folder, ignore_errors=True))
        self._models: dict[str, Mapping[str, str]] = {}
        self._over = threading.Event()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Name the file to which a worker writes what it does."""
        path = self._folder / f"{node.gateway.id}.txt"
        node.workerinput[progress.WORKER_INPUT] = str(path)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(
        self, config: pytest.Config, log: Any
    ) -> LoadScopeScheduling | None:
        """Keep all bets on one model on one worker, so that it is loaded once."""
        return scheduler(config, log, self.model_of)

    def pytest_sessionstart(self) -> None:
        """Begin to show what the workers do."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and self._config.get_verbosity() >= 0:
            threading.Thread(
                target=self._watch, args=(reporter,), name="layerguard-progress", daemon=True
            ).start()

    def pytest_sessionfinish(self) -> None:
        """Stop showing it."""
        self._over.set()

    def model_of(self, nodeid: str) -> str | None:
        """Return the model of a bet by its node id, or None for any other test."""
        file, _, name = nodeid.partition("::")
        if file not in self._models:
            bets = _bets(file, self._config)
            self._models[file] = {each.bet.id: each.model_identity for each in bets}
        return self._models[file].get(name)

    def _watch(self, reporter: pytest.TerminalReporter) -> None:
        while not self._over.wait(EVERY):
            for line in self._notes():
                reporter.write_line(line)

    def _notes(self) -> list[str]:
        lines = []
        for path in sorted(self._folder.glob("*.txt")):
            try:
                lines.append(f"layerguard: {path.stem}: {path.read_text(encoding='utf-8')}")
            except OSError:
                # The worker has just removed it.
                continue
        return lines


def report_crash(nodeid: str, report: pytest.TestReport, config: pytest.Config) -> None:
    """Make the report that pytest-xdist makes of a dead worker an ERROR of its bet.

    The system killed the worker, it hung and was ended, or it crashed in native code.
    """
    file, _, name = nodeid.partition("::")
    document = next((each for each in _bets(file, config) if each.bet.id == name), None)
    if document is None:
        return
    limit = config.stash[SETTINGS].timeout
    hung = f", hung past its limit of {limit:g} seconds" if limit else ""
    why = (
        f"the process that measured it died ({report.longrepr}): killed by the system, which is what it does "
        f"when memory runs out{hung}, or crashed in native code; other bets went on in another one"
    )
    report.longrepr = (
        f"{bet_items.shown(document.path, config)}:{document.line}: {name}: ERROR: {why}"
    )
    setattr(report, reporting.ATTRIBUTE, reporting.lost(document, why, config).to_json())


def _bets(file: str, config: pytest.Config) -> Sequence[BetDocument]:
    """Return the bets of a file by the first part of its node id; none where it cannot be read."""
    path = config.rootpath / file
    if bet_items.folder_of_bets(path, config) is None:
        return ()
    from pytest_layerguard.bet.errors import BetFileError
    from pytest_layerguard.bet.reader import read_bets

    known = bet_items.registry_of(config)
    try:
        return read_bets(path, kinds=known.arguments, metrics=known.metrics)
    except (BetFileError, OSError):
        # The workers, which collect it, report it.
        return ()


def scheduler(
    config: pytest.Config, log: Any, model_of: Callable[[str], str | None]
) -> LoadScopeScheduling | None:
    """Return a scheduler that keeps all bets on one model on one worker; None under `--dist each`.

    `model_of` returns the model of a bet by its node id, and None for any other test. Marks that group
    tests would have to change node ids, and file by file would load a model once per file.
    """
    from xdist.scheduler import LoadFileScheduling, LoadGroupScheduling, LoadScopeScheduling

    class ByItself(LoadScopeScheduling):  # type: ignore[misc]
        """Each test by itself, as `--dist load` and `worksteal` have it."""

        def _split_scope(self, nodeid: str) -> str:
            return nodeid

    # How tests that are not bets are distributed.
    bases: dict[str, type[LoadScopeScheduling]] = {
        "load": ByItself,
        "worksteal": ByItself,
        "loadscope": LoadScopeScheduling,
        "loadfile": LoadFileScheduling,
        "loadgroup": LoadGroupScheduling,
    }
    base = bases.get(config.getvalue("dist"))
    if base is None:
        return None

    class ByModel(base):  # type: ignore[misc, valid-type]
        def _split_scope(self, nodeid: str) -> str:
            model = model_of(nodeid)
            if model is not None:
                return f"bets on {model}"
            scope: str = super()._split_scope(nodeid)
            return scope

        def remove_node(self, node: Any) -> str | None:
            """Take a dead worker's tests back, apart from the one that it died of.

            pytest-xdist 3.8 would give that one to the next worker, which would die of it too, until no
            worker is left.
            """
            units: dict[str, dict[str, bool]] = self.assigned_work.pop(node)
            waiting = [nodeid for unit in units.values() for nodeid in unit if not unit[nodeid]]
            if not waiting:
                return None
            for scope, unit in units.items():
                unit.pop(waiting[0], None)
                if not all(unit.values()):
                    self.workqueue[scope] = unit
            for other in self.assigned_work:
                self._reschedule(other)
            return waiting[0]

    return ByModel(config, log)
