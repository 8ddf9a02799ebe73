"""What is done where the memory of a device or of the host is not enough.

Numbers move with the shapes that go through a model, so base and variants must have one shape: where one of
them does not fit, all are measured again, half as many windows at a time.
"""

from __future__ import annotations

import gc
import re
from typing import TYPE_CHECKING, Final

import torch

from pytest_layerguard.bet.errors import many
from pytest_layerguard.environment import devices
from pytest_layerguard.environment.measurement_errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from pytest_layerguard.environment.conditions import Progress
    from pytest_layerguard.measurement.session import ModelSession

    T = TypeVar("T")

_UNTYPED: Final = re.compile(
    r"DefaultCPUAllocator: can't allocate memory|not enough memory: you tried to allocate"
    r"|MPS backend out of memory|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
)
"""How torch says it where it has no exception of its own for it."""

_ASKED: Final = re.compile(r"[Tt]ried to allocate ([0-9.]+) ?([KMGT]iB|[KMGT]B|bytes)")


def shortage(error: BaseException) -> str | None:
    """Says what was asked for in vain, or None where an error is no lack of memory."""
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


def fitted(subject: ModelSession, work: Callable[[], T], progress: Progress) -> T:
    """Does work on a model, as many windows at a time as there is memory for.

    Starts at the size that is usual for the device, whatever did not fit before: a result must not depend on
    what was measured earlier.

    Raises:
        MeasurementError: If not even one window at a time fits; says how much was needed.
    """
    subject.as_usual()
    while True:
        try:
            return work()
        except Exception as error:
            needed = shortage(error)
            if needed is None:
                raise
        # Only here, where no frame of the failed attempt is left, can its tensors be freed.
        windows = subject.halve()
        gc.collect()
        devices.vacate()
        if windows is None:
            raise MeasurementError(_too_large(subject, needed))
        progress(f"out of memory; measuring again, at most {many(windows, 'window')} at a time")


def together(work: Callable[[], T], rows: int) -> T:
    """Lets a model speak, which all variants do together, with all prompts.

    Raises:
        MeasurementError: If there is no memory for that; fewer windows at a time would not help.
    """
    try:
        return work()
    except Exception as error:
        needed = shortage(error)
        if needed is None:
            raise
    raise MeasurementError(
        f"out of memory while {rows:,} texts (variants times prompts) were spoken together, which "
        f"needed {needed}; take fewer prompts, fewer tokens or fewer variants"
    )


def _too_large(subject: ModelSession, needed: str) -> str:
    where = subject.runner.device.type
    model = sum(each.nbytes for each in subject.loaded.model.parameters())
    return (
        f"out of memory on {'the host' if where == 'cpu' else where}, even with one window at a time: beside the "
        f"model's {model / 2**30:.3g} GiB it needed {needed}. Take a shorter measure.window or a "
        "smaller model.dtype, or say in the bet's needs what the machine must have"
    )
