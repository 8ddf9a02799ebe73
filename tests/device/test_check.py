"""The check of a GPU, in its small form on a CPU."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from device import check


@pytest.mark.parametrize(
    "step", ["matrix_product", "heads", "sweeps", "samples", "out_of_memory", "candidates"]
)
def test_a_step(step: str, tmp_path: Path) -> None:
    """Each step raises if what it measures is wrong."""
    ends = time.monotonic() + 600
    found = getattr(check.Check("cpu", check.SMALL, True, tmp_path, ends), step)()
    assert found


@pytest.mark.slow
def test_the_whole_check_writes_two_files(tmp_path: Path) -> None:
    assert check.main(["--small", "--device", "cpu", "--to", str(tmp_path)]) == 0
    steps = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))["steps"]
    assert list(steps) == [
        *("matrix product", "heads", "sweeps", "samples", "hanging kernel", "catalogue"),
        *("out of memory", "candidates"),
    ]
    assert all(found["seconds"] > 0 for found in steps.values())
    assert (tmp_path / "check.md").read_text(encoding="utf-8").count("## ") == len(steps)


def test_a_step_that_fails_is_kept_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in ("sweeps", "samples", "hang", "catalogue", "out_of_memory", "candidates"):
        monkeypatch.setattr(check.Check, step, lambda self: {})

    def fails(self: check.Check) -> dict[str, object]:
        raise check.FailedError("no such head")

    monkeypatch.setattr(check.Check, "heads", fails)
    assert check.main(["--small", "--device", "cpu", "--to", str(tmp_path)]) == 1
    steps = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))["steps"]
    assert steps["heads"]["failed"] == "no such head"
    assert "seconds" in steps["candidates"]
