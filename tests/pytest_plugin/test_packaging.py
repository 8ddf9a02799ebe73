"""What is shipped, and that the README's commands are those that the project's CI runs."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("dist")
    (path,) = WheelBuilder(str(ROOT)).build(directory=str(folder), versions=["standard"])
    with ZipFile(path) as archive:
        return archive.namelist()


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "pytest_plugin/plugin.py",
        "bet/schema.json",
        "reference/heldout.txt",
        "reference/manifest.json",
        "reference/narrow/model.safetensors",
        "reference/wide/model.safetensors",
    ],
)
def test_the_wheel_has_all_that_it_needs(wheel: list[str], name: str) -> None:
    assert f"pytest_layerguard/{name}" in wheel


def test_the_wheel_has_nothing_else(wheel: list[str]) -> None:
    strays = [name for name in wheel if not name.startswith("pytest_layerguard")]
    assert strays == []


def test_ci_reads_its_commands_out_of_the_readme() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for block in ("bets", "tests"):
        assert f"run_readme {block}\n" in script
        _, found, after = readme.partition(f"<!-- ci: {block} -->\n")
        assert found
        assert after.startswith("```sh\n")
