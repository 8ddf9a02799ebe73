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
"""The beginnings of messages whose cause may be a missing package."""


class UserError(Exception):
    """A mistake of the user; the text says how to mend it."""


def echo(line: str = "") -> None:
    """Print a line to the standard output stream."""
    sys.stdout.write(f"{line}\n")


def echo_error(line: str) -> None:
    """Print a line to the standard error stream."""
    sys.stderr.write(f"{line}\n")


def elsewhere(problems: Iterable[Problem]) -> Iterator[str]:
    """Yield a hint where an intervention or a metric is registered in no installed package."""
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
