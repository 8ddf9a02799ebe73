"""What every workflow keeps to; zizmor and check-jsonschema hold the rest, in .ci/run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_nothing_is_allowed_that_no_job_asks_for(path: Path) -> None:
    assert "\npermissions: {}\n" in path.read_text(encoding="utf-8")
    for name, job in jobs(path).items():
        assert "permissions" in job, name


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_job_ends(path: Path) -> None:
    endless = [name for name, job in jobs(path).items() if "timeout-minutes" not in job]
    assert [name for name in endless if "uses" not in jobs(path)[name]] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_and_say_their_version(path: Path) -> None:
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#") and "uses: " in line and "uses: ./" not in line:
            assert PINNED.search(line), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_checkout_leaves_its_token_behind(path: Path) -> None:
    for job in jobs(path).values():
        for step in job.get("steps", ()):
            if "actions/checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_the_gpu_is_out_of_reach_for_forks() -> None:
    condition = jobs(ROOT / ".github" / "workflows" / "guard.yml")["gpu"]["if"]
    assert "github.event.pull_request.head.repo.full_name == github.repository" in condition


def test_options_that_workflows_give_are_options() -> None:
    from pytest_layerguard.pytest_plugin.options import OPTIONS

    known = {option.flag for option in OPTIONS}
    for path in WORKFLOWS:
        used = set(re.findall(r"--layerguard-[a-z-]+", path.read_text(encoding="utf-8")))
        assert used <= known, path.name
