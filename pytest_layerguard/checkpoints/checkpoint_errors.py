"""What can be wrong with a checkpoint, as one line for people."""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Final

from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

_APART: Final = {"gptqmodel": "--no-deps gptqmodel"}
"""What pip is given for packages that no extra has, because their pins exclude current libraries."""


class CheckpointError(MeasurementError):
    """A checkpoint that cannot be read or compared."""


class MissingLibraryError(UnavailableError):
    """A format whose library is not installed; the text has the command that installs it."""


def library(module: str, extra: str, name: str) -> ModuleType:
    """Import a format's library.

    Args:
        module: The module to import.
        extra: The extra of this package that installs it.
        name: What messages call the checkpoint.

    Raises:
        MissingLibraryError: If it is not installed or cannot be imported.
    """
    try:
        with _silent():
            return import_module(module)
    except ImportError as error:
        package = module.split(".")[0].replace("_", "-")
        state = "is not installed" if error.name == module.split(".")[0] else f"fails: {error}"
        install = _APART.get(package, f"'pytest-layerguard[{extra}]'")
        raise MissingLibraryError(
            f"{name}: reading its weights needs {package}, which {state}; pip install {install}"
        ) from None


@contextmanager
def _silent() -> Iterator[None]:
    """Keep a library quiet about the kernels that this machine does not have."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
