"""Run a model's own code, and distinguish a failing model from a lack of memory."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import torch

from pytest_layerguard.environment.captured_output import first_line
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.models.plan import InterventionError

if TYPE_CHECKING:
    from collections.abc import Iterator

_UNTYPED: Final = re.compile(
    r"DefaultCPUAllocator: can't allocate memory|not enough memory: you tried to allocate"
    r"|MPS backend out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
)
"""The messages of torch for a lack of memory that has no exception of its own."""

_ASKED: Final = re.compile(r"[Tt]ried to allocate ([0-9.]+) ?([KMGT]iB|[KMGT]B|bytes)")


@contextmanager
def own_code() -> Iterator[None]:
    """Turn what a model's own code raises into a message of one line, but for a lack of memory.

    Raises:
        MeasurementError: If it fails.
    """
    try:
        yield
    except (InterventionError, MeasurementError, UnavailableError):
        raise
    except Exception as error:
        if shortage(error) is not None:
            raise
        raise MeasurementError(
            f"the model cannot run like this: its own code fails with {type(error).__name__}: "
            f"{first_line(error).removeprefix(f'{type(error).__name__}: ')}"
        ) from None


def shortage(error: BaseException) -> str | None:
    """Return how much memory was requested, or None if an error does not mean out of memory."""
    if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not (
        isinstance(error, RuntimeError) and _UNTYPED.search(str(error))
    ):
        return None
    asked = _ASKED.search(str(error))
    if asked is None:
        return "more than there was"
    if asked[2] == "bytes":
        return f"another {float(asked[1]) / 2**30:.3g} GiB"
    return f"another {asked[1]} {asked[2]}"
