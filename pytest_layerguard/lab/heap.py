"""Telling the C library to keep what is freed between two steps of a sweep."""

from __future__ import annotations

from typing import Final

import torch

_LARGEST: Final = 2**25 - 2**16
"""Just below the largest block (32 MiB) that glibc takes for a hint."""


def keep_freed() -> None:
    """Has memory that tensors leave behind reused, instead of given back and asked for again page by page.

    glibc takes the largest block freed so far for a hint of what is worth keeping (``mallopt(3)``,
    ``M_MMAP_THRESHOLD``). Activations are freed after every layer; without the hint each of them is fresh,
    zeroed memory, which takes a tenth of a sweep. At most 64 MiB are kept. Where there is another allocator
    nothing happens.
    """
    torch.empty(_LARGEST, dtype=torch.uint8)
