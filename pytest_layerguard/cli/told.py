"""What every command shares: how it speaks, how it fails, and what it knows of installed packages."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pytest_layerguard.interventions.registry import Registry

PROBLEMS: Final = 1
"""The exit status where something is wrong."""


class UserError(Exception):
    """Something that whoever gave the command can put right; the text says how."""


def say(line: str = "") -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")


def complain(line: str) -> None:
    """Print a line where errors go."""
    sys.stderr.write(f"{line}\n")


def registry() -> Registry:
    """Return the interventions and metrics of this package and of installed ones.

    Those that a conftest file registers are known to pytest only.

    Raises:
        UserError: If two have one name, or an installed package cannot be imported.
    """
    from pytest_layerguard.interventions.registry import Registry

    try:
        return Registry.of()
    except (ValueError, ImportError, AttributeError) as error:
        raise UserError(f"an installed package cannot be used: {error}") from None
