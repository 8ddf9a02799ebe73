"""A hint to the C library to reuse memory that tensors leave behind."""

from __future__ import annotations

from typing import Final

import torch

_LARGEST: Final = 2**25 - 2**16
"""Just below the largest block (32 MiB) that glibc takes for a hint."""


def reuse_freed_memory() -> None:
    """Make glibc reuse the blocks that freed activations and logits leave behind.

    glibc keeps what it takes to be worth keeping by the largest block freed so far (``mallopt(3)``,
    ``M_MMAP_THRESHOLD``). Without the hint the chunks of logits at a vocabulary of 262,144 leave the heap in
    pieces: 84 MiB of tensors take 1.2 GiB of resident memory, with it 116 MiB
    (``tests/benchmarks/memory.py``). At most 64 MiB are kept. With another allocator nothing happens.
    """
    torch.empty(_LARGEST, dtype=torch.uint8)
