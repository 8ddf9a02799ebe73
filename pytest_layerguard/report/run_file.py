"""All that a run found as one JSON file: written where bets are judged, read where a comment is made of it.

Whoever opens a pull request decides what the file holds. So it is read as data: bounded, of one form, its numbers
numbers and its names names. Texts in it stay untrusted, as they are in every report.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, Literal

from pydantic import TypeAdapter, ValidationError

from pytest_layerguard.bet.bet import SLUG
from pytest_layerguard.bet.errors import printable
from pytest_layerguard.bet.verdict import Verdict
from pytest_layerguard.catalogue.outcome import Word
from pytest_layerguard.report.bet_report import OUTCOMES, BetReport, UnreadableFile, by_place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LARGEST: Final = 16 * 2**20
"""Bytes of a file that is read; 10,000 variants take about 5 MiB."""
_LEVELS: Final = ("strict", "lenient", "catastrophic")
_SIGNS: Final = ("<", "<=", ">", ">=")
_STATUSES: Final = ("proposed", "upheld", "falsified")
_LINES: Final = 10**7


class RunFileError(Exception):
    """A file that is not what a run writes; the text says why."""


@dataclass(frozen=True)
class RunFile:
    """The bets of a run, and the bet files that could not be read."""

    schema: Literal[1]
    bets: tuple[BetReport, ...]
    unreadable: tuple[UnreadableFile, ...]


def render(bets: Sequence[BetReport], unreadable: Sequence[UnreadableFile]) -> str:
    """Return what `--layerguard-comment` writes; it is not strict JSON: a number may be infinite."""
    found = RunFile(1, tuple(by_place(bets)), tuple(unreadable))
    # A lone surrogate stays a character, so that the file's encoding replaces it.
    return json.dumps(_adapter().dump_python(found), ensure_ascii=False) + "\n"


def read(data: bytes) -> RunFile:
    """Read what `render` returned; raises RunFileError for anything else."""
    if len(data) > LARGEST:
        raise RunFileError(f"it has more than {LARGEST:,} bytes")
    try:
        found = _adapter().validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"][:12]))
        reason = f"{place}: {first['msg']}" if place else first["msg"]
        raise RunFileError(printable(reason)[:300]) from None
    for at, bet in enumerate(found.bets):
        for what in _faults(bet):
            raise RunFileError(f"bets.{at}.{what} is not what a run writes")
    for at, each in enumerate(found.unreadable):
        if not _is_place(each.file, 1):
            raise RunFileError(f"unreadable.{at}.file is not what a run writes")
    return found


def _faults(bet: BetReport) -> Iterator[str]:
    """Yield the fields that reports show as they are, or look something up by, and that hold something else."""
    for name, value, allowed in (
        ("status", bet.status, _STATUSES),
        ("outcome", bet.outcome, OUTCOMES),
        ("word", bet.word, tuple(Word)),
        ("verdict", bet.verdict, (None, *Verdict)),
    ):
        if value not in allowed:
            yield name
    if not re.fullmatch(SLUG, bet.id):
        yield "id"
    if not _is_place(bet.file, bet.line):
        yield "file"
    for door in bet.doors:
        if not re.fullmatch(SLUG, door.id) or not _is_place(door.file, door.line):
            yield "doors"
    if any(each.level not in _LEVELS for each in bet.criteria):
        yield "criteria"
    if any(each.level not in _LEVELS or each.sign not in _SIGNS for each in bet.thresholds):
        yield "thresholds"
    if any(not 0 <= at < len(bet.variants) for at in bet.shown):
        yield "shown"


def _is_place(file: str, line: int) -> bool:
    """Return whether a link to the place leads into the repository."""
    path = PurePosixPath(file)
    inside = bool(path.parts) and not path.is_absolute() and ".." not in path.parts
    return inside and len(file) <= 1_000 and 1 <= line <= _LINES


@cache
def _adapter() -> TypeAdapter[RunFile]:
    return TypeAdapter(RunFile)
