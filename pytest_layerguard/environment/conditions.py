"""The conditions under which bets are measured: the device, and what the user allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pytest_layerguard.environment.budget import Budget
from pytest_layerguard.environment.progress_listener import Counting, uncounted

if TYPE_CHECKING:
    from pathlib import Path

Progress = Callable[[str], None]
"""Called with one line before each step that takes long."""

ROOT_FLAG: Final = "--layerguard-root"
UNPINNED_FLAG: Final = "--layerguard-allow-unpinned, or in Python with allow_unpinned=True"
REMOTE_CODE_FLAG: Final = "--layerguard-allow-remote-code, or in Python allow_remote_code=True,"
DEVICE_FLAG: Final = "--layerguard-device"
WAIT_FLAG: Final = "--layerguard-device-wait"
TIMEOUT_FLAG: Final = "--layerguard-timeout"


def silent(_line: str) -> None:
    """Ignore the line."""


@dataclass(frozen=True)
class Conditions:
    """What the user who runs the bets allows; no bet can change it.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        worker: The number of this process among those that share the machine. ``auto`` and ``cuda``
            distribute the visible GPUs by it.
        roots: Folders outside a bet's own tree from which it may read.
        allow_unpinned: Whether hub revisions that are not pinned may be measured.
        allow_remote_code: Whether a model may run Python code of its own.
        cache: The folder that keeps results from run to run, or None.
        fresh: Whether kept results are measured again.
        budget: How much one bet may use.
        device_wait: How many seconds to wait for a GPU that another run holds.
        timeout: How many seconds a bet may be measured; 0 for no limit.
        progress: Called with one line before each step that takes long.
        counting: Called when work that counts its steps begins.
    """

    device: str = "auto"
    worker: int = 0
    roots: tuple[Path, ...] = ()
    allow_unpinned: bool = False
    allow_remote_code: bool = False
    cache: Path | None = None
    fresh: bool = False
    budget: Budget = field(default_factory=Budget)
    device_wait: float = 3600.0
    timeout: float = 0.0
    progress: Progress = silent
    counting: Counting = uncounted
