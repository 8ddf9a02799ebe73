"""Bets whose worker died: killed by the system, ended as hanging, or crashed in native code."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_layerguard import collect, run
from pytest_layerguard.options import SETTINGS

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from pytest_layerguard.bet.reading import BetDocument


def tell(nodeid: str, report: pytest.TestReport, config: pytest.Config) -> None:
    """Let the report that pytest-xdist makes of a dead worker carry what its bet came to."""
    file, _, name = nodeid.partition("::")
    path = config.rootpath / file
    if collect.folder_of_bets(path, config) is None:
        return
    document = _document(path, name, config)
    if document is None:
        return
    limit = config.stash[SETTINGS].timeout
    hung = f", hung past its limit of {limit:g} seconds" if limit else ""
    why = (
        f"the process that measured it died ({report.longrepr}): killed by the system, which is what it does "
        f"when memory runs out{hung}, or crashed in native code; other bets went on in another one"
    )
    told = run.lost(document, path, why, config)
    report.longrepr = f"{collect.shown(path, config)}:{document.line}: {name}: ERROR: {why}"
    setattr(report, run.ATTRIBUTE, told.to_json())


def _document(path: Path, name: str, config: pytest.Config) -> BetDocument | None:
    from pytest_layerguard.bet.problems import BetFileError
    from pytest_layerguard.bet.reading import read_bets

    known = collect.registry_of(config)
    try:
        documents = read_bets(path, kinds=known.arguments, metrics=known.metrics)
    except BetFileError:
        # Changed since the worker read it.
        return None
    return next((each for each in documents if each.bet.id == name), None)
