"""`check`: list everything that is wrong with bet files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_layerguard.bet.errors import many
from pytest_layerguard.cli.command_output import PROBLEMS, echo, echo_error, elsewhere, registry

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from pytest_layerguard.bet.errors import Problem
    from pytest_layerguard.bet.reader import BetDocument


def run(given: argparse.Namespace) -> int:
    """Check files and folders, and print every error in them."""
    from pytest_layerguard.bet.errors import BetFileError
    from pytest_layerguard.bet.reader import duplicate_ids, read_bets

    known = registry()
    found: list[BetDocument] = []
    problems: list[Problem] = []
    paths = list(dict.fromkeys(files(given.files)))
    for path in paths:
        try:
            found += read_bets(path, kinds=known.arguments, metrics=known.metrics)
        except BetFileError as error:
            problems += error.problems
            echo_error(str(error))
    for problem in duplicate_ids(found):
        problems.append(problem)
        echo_error(str(problem))
    if problems:
        for hint in elsewhere(problems):
            echo_error(hint)
        echo_error(many(len(problems), "problem"))
        return PROBLEMS
    echo(
        f"{many(len(found), 'bet')} in {many(len(paths), 'file')}: nothing is wrong "
        "(models and texts were not looked at; explain does that)"
    )
    return 0


def files(given: Iterable[Path]) -> Iterator[Path]:
    """Yield files as they are, and the bet files below folders."""
    from pytest_layerguard.catalogue.bet_folders import bet_files

    for path in given:
        if path.is_dir():
            yield from bet_files(path)
        else:
            yield path
