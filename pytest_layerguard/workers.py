"""Several processes, on one machine or on many."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_layerguard import collect, progress, run

if TYPE_CHECKING:
    from collections.abc import Mapping

EVERY: Final = 30.0
"""Seconds between two looks at what the workers are at."""


def configure(config: pytest.Config) -> None:
    """Look after the workers of pytest-xdist, where there are bets."""
    dealt = config.getoption("dist", "no") != "no" and not run.is_worker(config)
    if dealt and run.has_bets(config):
        config.pluginmanager.register(Controller(config), "layerguard-controller")


class Controller:
    """The controller of pytest-xdist: deals bets out by model, and shows what the workers are at."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._folder = Path(tempfile.mkdtemp(prefix="layerguard-"))
        config.add_cleanup(lambda: shutil.rmtree(self._folder, ignore_errors=True))
        self._models: dict[Path, Mapping[str, str]] = {}
        self._over = threading.Event()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker where it may leave what it is at."""
        path = self._folder / f"{node.gateway.id}.txt"
        node.workerinput[progress.WORKER_INPUT] = str(path)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> Any:
        """Keep all bets on one model on one worker, so that it is loaded once."""
        from pytest_layerguard.scheduling import scheduler

        return scheduler(config, log, self.model_of)

    def pytest_sessionstart(self) -> None:
        """Begin to look."""
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None and self._config.get_verbosity() >= 0:
            threading.Thread(
                target=self._watch, args=(reporter,), name="layerguard-progress", daemon=True
            ).start()

    def pytest_sessionfinish(self) -> None:
        """Look no more."""
        self._over.set()

    def model_of(self, nodeid: str) -> str | None:
        """The model of a bet, by its node id; None of what is no bet."""
        file, _, name = nodeid.partition("::")
        path = self._config.rootpath / file
        if path.suffix not in collect.SUFFIXES:
            return None
        if path not in self._models:
            self._models[path] = self._read(path)
        return self._models[path].get(name)

    def _read(self, path: Path) -> Mapping[str, str]:
        from pytest_layerguard.bet.problems import BetFileError
        from pytest_layerguard.bet.reading import read_bets

        kinds = collect.registry_of(self._config).arguments
        try:
            documents = read_bets(path, kinds=kinds)
        except (BetFileError, OSError):
            # Told by the workers, which collect it.
            return {}
        return {document.bet.id: document.model_identity for document in documents}

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
                # Done in this moment.
                continue
        return lines
