"""Lock GPUs, so that two runs do not share one.

Two runs on one GPU are slow, and run out of memory where each alone would not. The lock is the system's own
on a file, so it ends with the process that holds it.
"""

from __future__ import annotations

import os
import re
import stat
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_layerguard.environment import devices
from pytest_layerguard.environment.conditions import WAIT_FLAG
from pytest_layerguard.environment.measurement_errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_layerguard.environment.conditions import Conditions


class DeviceLock:
    """The GPUs that this process holds for the model in memory."""

    def __init__(self, conditions: Conditions) -> None:
        self._conditions = conditions
        self._held = ExitStack()

    def take(self, gpus: Sequence[str]) -> None:
        """Hold these GPUs, as torch names them, and release others. Wait for those of another process.

        Raises:
            UnavailableError: If one is not free within the time that the user allows.
        """
        self.end()
        deadline = time.monotonic() + self._conditions.device_wait
        # All in one order, or two processes could each hold what the other waits for.
        for identity, gpu in sorted((devices.identity(gpu), gpu) for gpu in gpus):
            self._lock(_lock_file(identity), gpu, deadline)

    def end(self) -> None:
        """Release all."""
        self._held.close()

    def _lock(self, file: Path, gpu: str, deadline: float) -> None:
        from filelock import FileLock, Timeout

        lock = FileLock(file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self._conditions.progress(f"waiting for {gpu}, which another run holds ({file})")
            try:
                lock.acquire(timeout=max(deadline - time.monotonic(), 0), poll_interval=0.25)
            except Timeout:
                self.end()
                raise UnavailableError(
                    f"{gpu} was held by another run for {self._conditions.device_wait:g} seconds "
                    f"({file}); wait for that run, or wait longer with {WAIT_FLAG} SECONDS"
                ) from None
        self._held.callback(lock.release)


def _lock_file(identity: str) -> Path:
    # Where the system has no user ids, its folder for temporary files is each user's own.
    user = os.getuid() if sys.platform != "win32" else 0
    folder = Path(tempfile.gettempdir(), f"pytest-layerguard-{user}")
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or (user and status.st_uid != user):
        raise UnavailableError(f"{folder} belongs to somebody else, so no GPU can be locked there")
    return folder / f"{re.sub('[^A-Za-z0-9.-]', '_', identity)}.lock"
