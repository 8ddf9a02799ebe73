"""Run the notebook of the guides and keep what comes out: `python docs/execute.py`; a test compares the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from nbclient import NotebookClient

if TYPE_CHECKING:
    from nbformat import NotebookNode

NOTEBOOK = Path(__file__).with_name("guides") / "explore.ipynb"


def main() -> None:
    """Run it and write it."""
    nbformat.write(executed(), NOTEBOOK)


def read() -> NotebookNode:
    """Return the notebook as it is kept."""
    return nbformat.read(NOTEBOOK, as_version=4)


def executed() -> NotebookNode:
    """Return the notebook with the outputs of a fresh kernel, without its times, versions and warnings."""
    notebook = read()
    metadata = notebook.metadata.copy()
    NotebookClient(notebook, kernel_name="python3", record_timing=False).execute()
    notebook.metadata = metadata
    for cell in notebook.cells:
        if "outputs" in cell:
            # What libraries warn of depends on which others are installed.
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    main()
