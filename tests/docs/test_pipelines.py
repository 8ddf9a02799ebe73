"""The commands of the pipelines for other hosts do what they say; .ci/run checks the form of the files."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from pytest_plugin.conftest import Project

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
GITLAB = yaml.safe_load((EXAMPLES / "gitlab-ci.yml").read_text(encoding="utf-8"))
BUILDKITE = yaml.safe_load((EXAMPLES / "buildkite.yml").read_text(encoding="utf-8"))
STEPS = {step["label"]: step for step in BUILDKITE["steps"]}
HOSTS = ("gitlab", "buildkite")
STAND_IN = """#!/bin/sh
for word in "$@"; do printf '%s\\n' "$word"; done >> called
exit $STATUS
"""


def scripts(host: str, job: str) -> str:
    """The commands of a job as its shell gets them, without the installation."""
    if host == "gitlab":
        return "\n".join(GITLAB[job]["script"])
    installation, *commands = STEPS[job]["commands"]
    assert "pip install" in installation
    # Buildkite fills in what stands behind one dollar sign when it reads the pipeline.
    text = "\n".join(commands)
    assert "$" not in text.replace("$$", "")
    return text.replace("$$", "$")


def run(
    host: str, job: str, folder: Path, *, status: int = 0, part: int = 1
) -> tuple[int, list[str]]:
    """Run a job with a stand-in of pytest; return the exit status and the words that it was given."""
    for name in ("pytest", "buildkite-agent"):
        (folder / name).write_text(
            STAND_IN if name == "pytest" else "#!/bin/sh\n", encoding="utf-8"
        )
        (folder / name).chmod(0o755)
    (folder / "called").unlink(missing_ok=True)
    here = {
        "gitlab": {"CI_NODE_INDEX": str(part), "CI_NODE_TOTAL": "2"},
        "buildkite": {
            "BUILDKITE_PARALLEL_JOB": str(part - 1),
            "BUILDKITE_PARALLEL_JOB_COUNT": "2",
        },
    }[host]
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", scripts(host, job)],
        cwd=folder,
        env={**os.environ, **here, "STATUS": str(status), "PATH": f"{folder}:{os.environ['PATH']}"},
        check=False,
    )
    return ran.returncode, (folder / "called").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("host", HOSTS)
def test_a_part_passes_where_only_bets_failed_and_the_verdict_does_not(
    host: str, tmp_path: Path
) -> None:
    for status, fails in ((0, False), (1, False), (2, True), (139, True)):
        assert (run(host, "bets", tmp_path, status=status)[0] != 0) == fails
    assert run(host, "verdict", tmp_path, status=0)[0] == 0
    assert run(host, "verdict", tmp_path, status=1)[0] == 1
    assert run(host, "history", tmp_path, status=1)[0] == 1


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.usefixtures("measured")
def test_what_they_call_comes_to_reports_that_the_host_shows(
    host: str, pytester: pytest.Pytester
) -> None:
    project = Project(pytester)
    project.bet("bet-1", "CATASTROPHIC")
    project.bet("bet-2", "STRICT")
    for part in (1, 2):
        assert project.run(*run(host, "bets", pytester.path, part=part)[1]).ret in (0, 1)
    assert sorted(project.measured) == ["bet-1", "bet-2"]
    assert project.run(*run(host, "verdict", pytester.path)[1]).ret == 1
    assert (pytester.path / "report/bets.html").exists()
    failed, held = ElementTree.parse(pytester.path / "report/bets.xml").findall(".//testcase")
    assert [failed.get("name"), failed.get("file")] == ["bet-1", "bets/bet-1.yaml"]
    assert held.find("failure") is None
    message = failed.find("failure").get("message")  # type: ignore[union-attr]
    assert message.startswith("11 [10.5, 11.5] against >= 10: ")  # type: ignore[union-attr]
    assert len(message) < 120  # type: ignore[arg-type]
    words = run(host, "history", pytester.path)[1]
    assert words == ["bets", "--layerguard-check-summary", "bets", "--layerguard-audit"]
