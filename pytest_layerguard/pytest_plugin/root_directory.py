"""The root directory of a run with bets: the tree that holds their folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_layerguard.pytest_plugin.bet_items import find_bet_folder
from pytest_layerguard.pytest_plugin.options import bet_folder_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


def anchor(config: pytest.Config) -> None:
    """Root a run with bets at their tree, where nothing else says where the project begins.

    Without a configuration file pytest roots a run at the common ancestor of all arguments, and
    takes the value of an option that it does not know yet for one: then the ids of bets, their
    cache and the paths in reports would depend on where pytest was called and where a report is
    written. It offers no other way to say where the root is once the arguments are known.
    """
    known = config.known_args_namespace
    trees = list(_trees(config, known.file_or_dir))
    own = config.inipath is not None and all(
        tree.is_relative_to(config.inipath.parent) for tree in trees
    )
    if known.rootdir or not trees or own:
        return
    others = [
        path if path.is_dir() else path.parent
        for path in _paths(config, known.file_or_dir)
        if path.exists()
    ]
    root = Path(os.path.commonpath([*trees, *others]))
    if known.confcutdir == str(config.rootpath):
        known.confcutdir = str(root)
    config._rootpath = root


def _trees(config: pytest.Config, args: list[str]) -> Iterator[Path]:
    """Yield what holds the bet folder of each argument that is one, has one or lies in one."""
    names = bet_folder_names(config)
    for path in _paths(config, args):
        inside = find_bet_folder(path / "bet.yaml", config, names)
        if inside is not None:
            yield inside.parent
        elif any((path / name).is_dir() for name in names):
            yield path


def _paths(config: pytest.Config, args: list[str]) -> Iterator[Path]:
    for arg in args or [""]:
        yield Path(os.path.normpath(config.invocation_params.dir / arg.split("::")[0]))
