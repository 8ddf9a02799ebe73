"""The page of findings and its pictures are what the records give."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
FINDINGS = runpy.run_path(str(DOCS / "pictures" / "findings.py"))
STALE = "stale: run `python docs/pictures/findings.py`"


def test_its_tables_are_not_stale() -> None:
    text = (DOCS / "findings.md").read_text(encoding="utf-8")
    assert text == FINDINGS["page"](text), STALE


@pytest.mark.parametrize("name", PICTURES := FINDINGS["pictures"]())
def test_its_pictures_are_not_stale(name: str) -> None:
    drawn = (DOCS / "pictures" / name).read_text(encoding="utf-8")
    assert drawn == PICTURES[name], STALE
