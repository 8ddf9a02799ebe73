"""Where a bet file belongs, for those who meet it outside a pytest run."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Final

NAMES: Final = (PurePosixPath("bets"),)
"""What bet folders are called where no ini file says otherwise."""


def bets_of(path: Path) -> Path:
    """Return the bet folder of a file: the outermost `bets` that holds it, or its own folder."""
    path = path.absolute()
    named = [folder for folder in path.parents if folder.name == str(NAMES[0])]
    return named[-1] if named else path.parent


def root_of(bets: Path) -> Path:
    """Return the folder whose bet folders count for those of `bets`: here, or what holds `bets`."""
    here = Path.cwd()
    return here if bets.is_relative_to(here) else bets.parent
