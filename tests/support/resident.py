"""How much memory of this process the kernel says is resident; Linux only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

_SELF = Path("/proc/self")
_FORGET_PEAK = "5"


def status(name: str) -> int:
    """A line of the process's status, such as ``VmRSS``, in bytes."""
    lines = (_SELF / "status").read_text(encoding="ascii").splitlines()
    found = next(line for line in lines if line.startswith(f"{name}:"))
    return int(found.split()[1]) * 1024


def resident(work: Callable[[], object]) -> int:
    """Runs something; returns by how many bytes its resident memory at most exceeded what it was before.

    Raises:
        OSError: Where the kernel does not let the peak be forgotten that came before.
    """
    (_SELF / "clear_refs").write_text(_FORGET_PEAK, encoding="ascii")
    before = status("VmRSS")
    result = work()
    peak = status("VmHWM")
    del result
    return peak - before
