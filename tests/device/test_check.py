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
    made = check.Check("cpu", check.SMALL, True, tmp_path, time.monotonic() + 600)
    made.run(step, 0, 600, getattr(made, step))
    assert "failed" not in made.found[step], made.found[step]["failed"]


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


def test_a_step_that_takes_too_long_keeps_what_it_has_measured(tmp_path: Path) -> None:
    made = check.Check("cpu", check.SMALL, True, tmp_path, time.monotonic() + 600)

    def step() -> dict[str, object]:
        made.note({"seconds_of_one": 1.5})
        time.sleep(60)
        return {}

    made.run("sweeps", 0, 0.1, step)
    found = json.loads((tmp_path / "check.json").read_text(encoding="utf-8"))["steps"]["sweeps"]
    assert found["seconds_of_one"] == 1.5
    assert found["failed"].startswith("not done within")


@pytest.mark.machine
def test_pytest_is_interrupted_before_the_time_of_its_step_is_over(tmp_path: Path) -> None:
    (tmp_path / "test_long.py").write_text(
        "import time\n\ndef test_it():\n    time.sleep(600)\n", encoding="utf-8"
    )
    made = check.Check("cpu", check.SMALL, True, tmp_path, 0)
    made.over = time.monotonic() + 2 * check.ENDS + 10
    code, printed = made.pytest(folder=tmp_path)
    assert code == pytest.ExitCode.INTERRUPTED
    assert "KeyboardInterrupt" in printed


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
