"""What all commands share: output, errors and the registry of installed packages."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pytest_layerguard.bet.errors import Problem
    from pytest_layerguard.interventions.registry import Registry

PROBLEMS: Final = 1
"""The exit status where something is wrong."""


UNKNOWN: Final = ("unknown intervention", "unknown metric")
"""How a problem begins that another registry would not have."""


class UserError(Exception):
    """Something that whoever gave the command can put right; the text says how."""


def say(line: str = "") -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")


def complain(line: str) -> None:
    """Print a line where errors go."""
    sys.stderr.write(f"{line}\n")


def elsewhere(problems: Iterable[Problem]) -> Iterator[str]:
    """Yield where else an intervention or a metric may be registered that no installed package has."""
    if any(each.message.startswith(UNKNOWN) for each in problems):
        yield (
            "Interventions and metrics that a conftest.py or a plugin of pytest registers are not known here, "
            "where no such file is loaded: check their bets with 'pytest --collect-only FILE', or register "
            "them in a package by the entry points layerguard.interventions and layerguard.metrics."
        )


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
