"""The page on the architecture names files that exist, and its picture shows the imports that there are."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
PACKAGE = DOCS.parent / "pytest_layerguard"


def test_its_picture_is_not_stale() -> None:
    module = runpy.run_path(str(DOCS / "pictures" / "architecture.py"))
    drawn = (DOCS / "pictures" / "architecture.svg").read_text(encoding="utf-8")
    assert drawn == module["picture"](), "stale: run `python docs/pictures/architecture.py`"


def test_every_file_that_it_names_exists() -> None:
    text = (DOCS / "architecture.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`([a-z_]+/[a-z_/.]+\.(?:py|html))`", text))
    assert len(names) > 25
    elsewhere = {name for name in names if name.startswith("docs/")}
    missing = {name for name in names - elsewhere if not (PACKAGE / name).exists()}
    assert not missing
