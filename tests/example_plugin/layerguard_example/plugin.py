"""Hooks: what this package adds to the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_layerguard.extending import BetReport


def pytest_layerguard_report_lines(bets: Sequence[BetReport]) -> list[str]:
    """Name the bets in which a window suffers more than 1 nat per token."""
    hurt = [bet.id for bet in bets if max(bet.points("worst_window"), default=0) > 1]
    return [f"worst_window above 1 nat per token: {', '.join(hurt)}"] if hurt else []
