"""Turn panics of libraries written in Rust, which `except Exception` does not catch, into errors."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_layerguard.environment.library_output import first_line
from pytest_layerguard.environment.measurement_errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def panics_told() -> Iterator[None]:
    """Turn a panic in the block into an error of the bet's model or text.

    Raises:
        MeasurementError: If native code panicked.
    """
    try:
        yield
    except BaseException as error:
        # Each extension module has its own class, which it does not export.
        if type(error).__name__ != "PanicException":
            raise
        raise MeasurementError(
            f"a tokenizer or a weights file made its library give up: {first_line(error)}. "
            "It is damaged, or does what no sound one does."
        ) from None
