"""What the fuzzers start from and what they once found, without a fuzzer."""

from __future__ import annotations

from pathlib import Path

import pytest

from fuzz import targets

CORPUS = Path(__file__).parent / "corpus"
"""Below it no folder may be called bets: pytest would collect what is malformed on purpose."""


@pytest.mark.parametrize(
    "path", sorted(CORPUS.joinpath("files").iterdir()), ids=lambda path: path.name
)
def test_bets(path: Path) -> None:
    targets.bets(path.read_bytes())


@pytest.mark.parametrize(
    "path", sorted(CORPUS.joinpath("criteria").iterdir()), ids=lambda path: path.name
)
def test_criteria(path: Path) -> None:
    targets.criterion(path.read_bytes())
