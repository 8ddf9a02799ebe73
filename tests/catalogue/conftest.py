"""A folder of bets, empty for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.catalogue import Bets

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def bets(tmp_path: Path) -> Bets:
    return Bets(tmp_path)
