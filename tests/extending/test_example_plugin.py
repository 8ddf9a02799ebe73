"""A package that adds an intervention, a metric and report lines is really installed and used."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "example_plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has the package as pip installs it, entry points and all."""
    source = tmp_path_factory.mktemp("source") / "example"
    shutil.copytree(EXAMPLE, source)
    target = tmp_path_factory.mktemp("site")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)],
        check=True,
        capture_output=True,
    )
    return target


def run(installed: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    paths = [str(installed), os.environ.get("PYTHONPATH", "")]
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    bets = tmp_path / "bets"
    bets.mkdir()
    shutil.copy(EXAMPLE / "bet.yaml", bets / "scale.yaml")
    return tmp_path


def test_a_bet_uses_what_another_package_adds(installed: Path, project: Path) -> None:
    bet = (project / "bets" / "scale.yaml").read_text(encoding="utf-8")
    harmful = bet.replace("0.9", "0.1").replace("id: scale-each-layer", "id: scale-to-a-tenth")
    (project / "bets" / "tenth.yaml").write_text(harmful, encoding="utf-8")
    ran = run(
        installed, project, "pytest", "bets", "--layerguard-json=out.json", "-p", "no:cacheprovider"
    )
    reported = json.loads((project / "out.json").read_text(encoding="utf-8"))["bets"]
    bets = {bet["id"]: bet for bet in reported}
    assert bets["scale-each-layer"]["outcome"] == "passed", ran.stdout + ran.stderr
    variants = bets["scale-each-layer"]["variants"]
    assert [variant["name"] for variant in variants] == [f"scale-{n}" for n in range(4)]
    for variant in variants:
        mean = variant["metrics"]["perplexity_ratio"]["value"]
        assert variant["metrics"]["worst_window"]["value"] > 0
        assert mean > 1
    # The package's hook adds this line, for bets that lose more than a nat.
    assert "worst_window above 1 nat per token: scale-to-a-tenth" in ran.stdout


def test_the_command_line_knows_it_too(installed: Path, project: Path) -> None:
    checked = run(installed, project, "pytest_layerguard", "check", "bets/scale.yaml")
    assert checked.returncode == 0, checked.stderr
    schema = json.loads(run(installed, project, "pytest_layerguard", "schema").stdout)
    kinds = schema["$defs"]["Intervention"]["properties"]
    assert {"scale_layers", "skip_layers"} <= kinds.keys()


def test_without_it_the_bet_says_what_is_not_known(project: Path, tmp_path: Path) -> None:
    checked = run(tmp_path, project, "pytest_layerguard", "check", "bets/scale.yaml")
    assert checked.returncode == 1
    assert "unknown intervention 'scale_layers'" in checked.stderr
