"""Under which conditions bets are measured here: what the user allows, and on what machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from pytest_layerguard.environment.budget import Budget
from pytest_layerguard.environment.progress_listener import Counting, uncounted

if TYPE_CHECKING:
    from pathlib import Path

Progress = Callable[[str], None]
"""Is told, in one line, what the laboratory is about to do."""

ROOT_FLAG: Final = "--layerguard-root"
UNPINNED_FLAG: Final = "--layerguard-allow-unpinned"
REMOTE_CODE_FLAG: Final = "--layerguard-allow-remote-code"
DEVICE_FLAG: Final = "--layerguard-device"
WAIT_FLAG: Final = "--layerguard-device-wait"
TIMEOUT_FLAG: Final = "--layerguard-timeout"


def silent(_line: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Conditions:
    """What the user who runs the bets allows; no bet can change it.

    Attributes:
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        worker: Number of this process among those that share the machine; ``auto`` and ``cuda``
            deal the visible GPUs out by it.
        roots: Folders outside a bet's own tree from which it may read.
        allow_unpinned: Whether hub revisions that are not pinned may be measured.
        allow_remote_code: Whether a model may bring Python code of its own.
        cache: Where results are kept from run to run; ``None`` for nowhere.
        fresh: Whether results that are kept are measured again.
        budget: How much one bet may use.
        device_wait: Seconds that are waited for a GPU that another run holds.
        timeout: Seconds that a bet may be measured; 0 for as long as it takes.
        progress: Is told what is about to happen.
        counting: Is told how far it is.
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
