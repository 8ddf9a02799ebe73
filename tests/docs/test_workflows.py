"""What every workflow keeps to; zizmor and check-jsonschema hold the rest, in .ci/run."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from support.markdown import blocks

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


GUARD = ROOT / ".github" / "workflows" / "guard.yml"


def run_step(
    job: str, name: str, output: Path, cwd: Path | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    steps = {step.get("name"): step for step in jobs(GUARD)[job]["steps"]}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", steps[name]["run"]],
        cwd=cwd,
        env={**os.environ, **env, "GITHUB_OUTPUT": str(output)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("install", "extras", "package"),
    [
        ("pytest-layerguard", "", "pytest-layerguard"),
        ("pytest-layerguard", "html,datasets", "pytest-layerguard[html,datasets]"),
        ("pytest-layerguard==1.2", "html", "pytest-layerguard[html]==1.2"),
        ("pytest-layerguard[ray] >=1, <2", "html", "pytest-layerguard[ray,html] >=1, <2"),
        (
            "git+https://example.com/o/r@v1",
            "html",
            "pytest-layerguard[html] @ git+https://example.com/o/r@v1",
        ),
        (
            "pytest-layerguard @ git+https://example.com/o/r@v1",
            "html",
            "pytest-layerguard[html] @ git+https://example.com/o/r@v1",
        ),
        (".", "html", ".[html]"),
        ("./tools/guard", "html", "./tools/guard[html]"),
    ],
)
def test_extras_stand_where_pip_wants_them(
    install: str, extras: str, package: str, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    ran = run_step(
        "plan", "Put the extras behind the package's name", output, PACKAGE=install, EXTRAS=extras
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert output.read_text() == f"package={package}\n"
    if not install.startswith("."):
        Requirement(package)


def test_what_is_no_requirement_ends_the_plan(tmp_path: Path) -> None:
    given = {"PACKAGE": "a\ncpu=[99]", "EXTRAS": ""}
    ran = run_step("plan", "Put the extras behind the package's name", tmp_path / "output", **given)
    assert ran.returncode == 1
    assert "install is not a requirement of pip" in ran.stderr
    assert (tmp_path / "output").read_text() == ""


@pytest.mark.parametrize("result", ["success", "failure", "cancelled", "skipped"])
@pytest.mark.parametrize("job", ["PLAN", "CPU", "COST", "GPU"])
def test_no_verdict_passes_without_its_shards(job: str, result: str, tmp_path: Path) -> None:
    verdict = jobs(GUARD)["verdict"]
    assert verdict["if"] == "always()"
    assert verdict["needs"] == ["plan", "cpu", "cost", "gpu"]
    assert verdict["steps"][-1]["if"] == "always()"
    results = {**dict.fromkeys(("PLAN", "CPU", "COST", "GPU"), "success"), job: result}
    ran = run_step("verdict", verdict["steps"][-1]["name"], tmp_path / "output", **results)
    passes = result == "success" or (job in {"COST", "GPU"} and result == "skipped")
    assert (ran.returncode == 0) == passes


def test_the_verdict_audits_and_checks_the_summary() -> None:
    steps = jobs(GUARD)["verdict"]["steps"]
    ran = [step.get("run", "") for step in steps]
    assert any("--layerguard-audit" in each for each in ran)
    assert any("--layerguard-check-summary" in each for each in ran)
    (checkout,) = (step for step in steps if "actions/checkout" in step.get("uses", ""))
    assert checkout["with"]["fetch-depth"] == 0


def test_no_gpu_is_taken_before_its_cost_is_named(tmp_path: Path) -> None:
    found = jobs(GUARD)
    assert "cost" in found["gpu"]["needs"]
    assert found["cost"]["if"] == found["gpu"]["if"]
    command = tmp_path / "python"
    command.write_text("#!/bin/sh\necho a bet\necho '2 bets: so much'\nexit 1\n")
    command.chmod(0o755)
    ran = run_step(
        "cost",
        "Say what a GPU would be taken for",
        tmp_path / "output",
        cwd=tmp_path,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        BETS="bets",
        GITHUB_STEP_SUMMARY=str(tmp_path / "summary"),
    )
    assert ran.stdout == "::notice title=before a GPU is taken::2 bets: so much\n"
    assert (tmp_path / "summary").read_text() == "**Before a GPU is taken:** 2 bets: so much\n"


COMMENT = ROOT / ".github" / "workflows" / "comment.yml"


def test_what_may_comment_runs_nothing_of_the_pull_request() -> None:
    (job,) = jobs(COMMENT).values()
    assert job["permissions"] == {
        "actions": "read",
        "contents": "read",
        "pull-requests": "write",
    }
    (checkout,) = (step for step in job["steps"] if "actions/checkout" in step.get("uses", ""))
    # Without a ref it is the default branch.
    assert checkout["with"] == {"persist-credentials": False}
    assert not any("cache" in step.get("uses", "") for step in job["steps"])
    for step in job["steps"]:
        assert "${{" not in step.get("run", "")
        assert "github.event" not in str(step)


def test_the_guard_leaves_what_the_comment_reads() -> None:
    from pytest_layerguard.cli import comment

    steps = jobs(GUARD)["verdict"]["steps"]
    (upload,) = (
        step["with"] for step in steps if step.get("with", {}).get("name") == comment.ARTIFACT
    )
    (merge,) = (step["run"] for step in steps if step.get("name") == "Merge the shards")
    assert f"--layerguard-comment {upload['path']}/{comment.FILE}" in merge


CALLERS = [
    (page.name, name, job)
    for page in sorted((ROOT / "docs" / "guides").glob("*.md"))
    for block in blocks(page)
    if block.language == "yaml" and "\njobs:\n" in block.text
    for name, job in yaml.safe_load(block.text)["jobs"].items()
]


@pytest.mark.parametrize("caller", CALLERS, ids=lambda caller: f"{caller[0]}-{caller[1]}")
def test_who_calls_a_workflow_as_the_guides_do_gives_what_it_takes(
    caller: tuple[str, str, dict[str, Any]],
) -> None:
    _, _, job = caller
    path = re.fullmatch(r"ORG/pytest-layerguard/(\S+)@0123456789abcdef.*", job["uses"])
    assert path is not None
    called = yaml.safe_load((ROOT / path[1]).read_text(encoding="utf-8"))
    # YAML 1.1 reads `on` as true.
    takes = called[True]["workflow_call"]
    assert job.get("with", {}).keys() <= takes["inputs"].keys()
    assert job.get("secrets", {}).keys() <= takes.get("secrets", {}).keys()
    asked = {item for each in called["jobs"].values() for item in each["permissions"].items()}
    # A job that asks for more than its caller has ends the run before it starts.
    assert asked == set(job["permissions"].items())


def test_the_guide_names_the_check_that_there_is() -> None:
    text = (ROOT / "docs" / "guides" / "ci.md").read_text(encoding="utf-8")
    (job,) = (
        name for page, name, each in CALLERS if page == "ci.md" and "guard.yml" in each["uses"]
    )
    assert f"`{job} / {jobs(GUARD)['verdict']['name']}`" in text


def test_options_that_workflows_give_are_options() -> None:
    from pytest_layerguard.pytest_plugin.commands import AUDIT, CHECK
    from pytest_layerguard.pytest_plugin.options import OPTIONS

    known = {option.flag for option in OPTIONS} | {AUDIT, CHECK}
    for path in WORKFLOWS:
        used = set(re.findall(r"--layerguard-[a-z-]+", path.read_text(encoding="utf-8")))
        assert used <= known, path.name
