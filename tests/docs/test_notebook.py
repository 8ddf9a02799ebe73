"""The notebook of the guides: what is kept in it is what comes out of a run."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOK = DOCS / "guides" / "explore.ipynb"
NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")


def shown(notebook: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what each code cell shows, with the cell's id."""
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            forms = {"text": output.get("text", ""), **output.get("data", {})}
            for _, text in sorted(forms.items()):
                yield cell["id"], "".join(text)


def test_it_was_run_in_order_and_names_no_machine() -> None:
    kept = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in kept["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(cell["outputs"] for cell in code)
    assert not [text for _, text in shown(kept) if re.search(r"/(home|tmp|root|work)/", text)]
    words = "".join("".join(cell["source"]) for cell in kept["cells"])
    links = re.findall(r"\]\(([^)]+)\)", words)
    assert links
    assert all((NOTEBOOK.parent / link).is_file() for link in links)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_what_is_kept_is_what_comes_out() -> None:
    pytest.importorskip("nbclient", reason="nbclient is not installed")
    spec = importlib.util.spec_from_file_location("docs_execute", DOCS / "execute.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kept = list(shown(json.loads(NOTEBOOK.read_text(encoding="utf-8"))))
    made = list(shown(module.executed()))
    assert [cell for cell, _ in made] == [cell for cell, _ in kept]
    for (cell, now), (_, before) in zip(made, kept, strict=True):
        assert NUMBER.sub("#", now) == NUMBER.sub("#", before), cell
        numbers = [
            [float(each.replace(",", "")) for each in NUMBER.findall(text)]
            for text in (now, before)
        ]
        # Another processor rounds otherwise.
        assert numbers[0] == pytest.approx(numbers[1], rel=0.01, abs=0.02), cell
