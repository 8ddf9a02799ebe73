"""Pause Python's garbage collector while large libraries are imported."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Do not look for garbage within a block that makes many objects and keeps them all.

    torch and transformers make about a million objects on import, which the collector goes through again and again: a
    fifth of the time of the import (``tests/benchmarks/first_token.py``).
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        # All objects so far count as old, as if they had been gone through.
        gc.freeze()
        gc.unfreeze()
        gc.enable()
