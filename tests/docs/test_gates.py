"""The tables of docs/why/gates-that-flake.md are what the commands above them print."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/why/gates-that-flake.md").read_text(encoding="utf-8")
REPLAYS = runpy.run_path(str(ROOT / "tests/experiments/gates.py"))["REPLAYS"]


@pytest.mark.parametrize("name", REPLAYS)
def test_a_replay_stands_below_its_command(name: str) -> None:
    command = f"`python tests/experiments/gates.py {name}`"
    assert f"{command}\n\n" + "\n".join(REPLAYS[name]()) + "\n" in PAGE
