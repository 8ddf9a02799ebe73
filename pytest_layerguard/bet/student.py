"""Student's t, as every interval here uses it."""

from __future__ import annotations

from functools import cache
from typing import Final

CONFIDENCE: Final = 0.95


@cache
def quantile(windows: int, comparisons: int = 1) -> float:
    """Student's t quantile for a two-sided interval on so many windows, shared by so many comparisons."""
    from scipy.special import stdtrit

    return float(stdtrit(windows - 1, 1 - (1 - CONFIDENCE) / (2 * comparisons)))
