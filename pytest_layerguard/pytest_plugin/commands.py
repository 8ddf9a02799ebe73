"""Options that answer without running a test: questions, the audit and the summary."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import pytest

from pytest_layerguard.pytest_plugin import bet_items, options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from pytest_layerguard.catalogue.bet_folders import Catalogue

ASK: Final = "--layerguard-ask"
AUDIT: Final = "--layerguard-audit"
WRITE: Final = "--layerguard-summary"
CHECK: Final = "--layerguard-check-summary"


def add_options(parser: pytest.Parser) -> None:
    """Declare the commands; each ends the run when it has answered."""
    group = parser.getgroup("layerguard")
    group.addoption(
        ASK,
        action="append",
        default=[],
        metavar="IDEA",
        help="list what is known of an idea, such as 'skip_layers on ORG/NAME', or the bets that have the "
        "words of a question, such as 'reap on moonlight', and exit (multi-allowed)",
    )
    group.addoption(
        AUDIT,
        action="store_true",
        help="list the bets whose criteria were changed after their first record, and exit",
    )
    group.addoption(
        WRITE, action="store_true", help="write bets/SUMMARY.md from bets and records, and exit"
    )
    group.addoption(
        CHECK, action="store_true", help="fail where bets/SUMMARY.md is stale, and exit"
    )


def main(config: pytest.Config) -> int | None:
    """Carry out the commands that were given, one after the other; return None if there are none.

    Raises:
        pytest.UsageError: a question that cannot be understood, or no bet folder.
    """
    given: dict[str, Callable[[pytest.Config], int]] = {
        ASK: _ask,
        WRITE: _write,
        CHECK: _check,
        AUDIT: _audit,
    }
    chosen = [run for option, run in given.items() if config.getoption(option)]
    if not chosen:
        return None
    options.configure(config)
    return max(run(config) for run in chosen)


def _ask(config: pytest.Config) -> int:
    from pytest_layerguard.catalogue.ask import (
        AskError,
        NoIdeaError,
        answer,
        by_words,
        nearest,
        read_idea,
    )
    from pytest_layerguard.catalogue.model_facts import ModelLookup

    scout = ModelLookup(bet_items.conditions_of(config))
    catalogue = _catalogue(config)
    kinds = bet_items.registry_of(config).arguments
    for place, question in enumerate(config.getoption(ASK)):
        try:
            idea = read_idea(question, kinds, scout, config.invocation_params.dir)
            lines = list(answer(idea, catalogue, scout, config.rootpath))
        except AskError as error:
            lines = list(by_words(question, catalogue, config.rootpath))
            if not lines:
                in_words = isinstance(error, NoIdeaError)
                near = nearest(question, catalogue, config.rootpath) if in_words else ()
                text = "\n".join(near) or str(error)
                raise pytest.UsageError(f"{ASK}: {text}") from None
        if place:
            _print("")
        for line in lines:
            _print(line)
    return pytest.ExitCode.OK


def _write(config: pytest.Config) -> int:
    from pytest_layerguard.catalogue.summary import SummaryError, write_summary

    for folder in _folders(config):
        try:
            path = write_summary(folder, _catalogue(config))
        except SummaryError as error:
            return _fail(str(error))
        _print(f"wrote {bet_items.shown(path, config)}")
    return pytest.ExitCode.OK


def _check(config: pytest.Config) -> int:
    from pytest_layerguard.catalogue.summary import SummaryError, check_summary

    for folder in _folders(config):
        try:
            check_summary(folder, _catalogue(config))
        except SummaryError as error:
            return _fail(str(error))
    return pytest.ExitCode.OK


def _audit(config: pytest.Config) -> int:
    from pytest_layerguard.catalogue.audit import audit
    from pytest_layerguard.catalogue.git import GitError

    known = bet_items.registry_of(config)
    try:
        found = audit(list(_folders(config)), kinds=known.arguments, metrics=known.metrics)
    except GitError as error:
        return _fail(f"no history can be read: {error}")
    for line in found.lines():
        _print(line)
    return pytest.ExitCode.OK if found.is_clean else pytest.ExitCode.TESTS_FAILED


def _catalogue(config: pytest.Config) -> Catalogue:
    """Read every bet folder that was named, and those above it whose doors count for it."""
    from pytest_layerguard.catalogue.bet_folders import Catalogue, folders_for

    names = config.stash[options.SETTINGS].bets
    folders = [
        counted
        for folder in _folders(config)
        for counted in folders_for(folder, config.rootpath, names)
    ]
    known = bet_items.registry_of(config)
    return Catalogue.load(folders, kinds=known.arguments, metrics=known.metrics)


def _folders(config: pytest.Config) -> Iterator[Path]:
    """Yield the bet folders that the arguments name, lie in or hold; of the root, where nothing is named."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    found = _found(bet_items.asked_paths(config), config)
    if not found and not named:
        found = _found([config.rootpath], config)
    if not found:
        option = next(each for each in (ASK, WRITE, CHECK, AUDIT) if config.getoption(each))
        example = f"{option} IDEA" if option == ASK else option
        raise pytest.UsageError(f"no bet folder there; name one, as in 'pytest bets/ {example}'")
    yield from found


def _found(paths: Iterable[Path], config: pytest.Config) -> dict[Path, None]:
    found: dict[Path, None] = {}
    for asked in paths:
        path = asked.resolve()
        inside = bet_items.bet_folder(path / "bet.yaml", config)
        below = (path / name for name in config.stash[options.SETTINGS].bets)
        for folder in [inside] if inside is not None else below:
            if folder.is_dir():
                found[folder] = None
    return found


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def _fail(text: str) -> int:
    sys.stderr.write(f"ERROR: {text}\n")
    return pytest.ExitCode.TESTS_FAILED
