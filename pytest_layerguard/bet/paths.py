"""Check paths in a bet file as text. Whether they may be read is decided when they are opened."""

from __future__ import annotations

from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from pytest_layerguard.bet.validation import refusal

_LONGEST: Final = 1_000


def _plain(path: str) -> str:
    if any(ord(character) < 32 for character in path):
        raise refusal("must be one line without control characters; a path")
    if "\\" in path or PureWindowsPath(path).drive:
        raise refusal("must be written with '/', without a drive")
    if path.startswith("~"):
        raise refusal("must not start with '~'; a path relative to the bet file")
    # One spelling for one place, so that './a//b' and 'a/b' have one digest.
    return str(PurePosixPath(path))


RelativePath = Annotated[str, Field(min_length=1, max_length=_LONGEST), AfterValidator(_plain)]
"""A path as written, relative to the bet file. An absolute path needs an allowed root."""
