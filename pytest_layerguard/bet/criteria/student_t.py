"""Student's t quantile, shared by all intervals."""

from __future__ import annotations

from functools import cache
from typing import Final

CONFIDENCE: Final = 0.95


@cache
def quantile(windows: int, comparisons: int = 1) -> float:
    """Return Student's t quantile for two-sided intervals on ``windows`` windows.

    The intervals hold together over ``comparisons`` (Bonferroni).
    """
    from scipy.special import stdtrit

    return float(stdtrit(windows - 1, 1 - (1 - CONFIDENCE) / (2 * comparisons)))
