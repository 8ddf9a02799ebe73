"""What holds for every test."""

from __future__ import annotations

import os

# Before torch is imported, here and in the processes that tests start: the models are tiny and several
# processes share the cores, where threads would mostly wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
