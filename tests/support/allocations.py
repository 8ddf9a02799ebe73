"""Counting what torch allocates on the CPU, to the byte, temporaries inside its kernels included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Allocated:
    """Bytes beyond what was held before: at most at a time, and in the largest piece."""

    peak: int
    largest: int


def allocated(work: Callable[[], object]) -> Allocated:
    """Runs something and counts.

    torch's own profiler reports every allocation, where a mode that watches operators would miss what a kernel
    takes for itself.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        result = work()
    del result
    assert seen.profiler is not None
    events = seen.profiler.kineto_results.events()
    changes = [(each.start_ns(), each.nbytes()) for each in events if each.name() == "[memory]"]
    held = peak = largest = 0
    for _, change in sorted(changes, key=lambda each: each[0]):
        held += change
        peak, largest = max(peak, held), max(largest, change)
    return Allocated(peak, largest)
