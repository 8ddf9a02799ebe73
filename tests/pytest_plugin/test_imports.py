"""What may import what: the plugin costs those little who have no bets, and arrows run one way."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import families

import pytest_layerguard

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(pytest_layerguard.__file__).parent
HEAVY = {"torch", "transformers", "numpy", "pydantic", "yaml", "scipy", "datasets"}
ALWAYS_LOADED = (
    "catalogue/guard",
    "pytest_plugin/plugin",
    "pytest_plugin/options",
    "pytest_plugin/bet_items",
    "pytest_plugin/hookspecs",
    "pytest_plugin/reporting",
)


def imports(path: Path, *, module_level: bool) -> Iterator[str]:
    """Yield the dotted names that a file imports, but for those of type checking."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    waiting: list[ast.AST] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting.extend(node.orelse)
        elif not (module_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)):
            waiting.extend(ast.iter_child_nodes(node))


def files(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (PACKAGE / room).rglob("*.py"))


def named(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("name", ALWAYS_LOADED)
def test_what_every_pytest_run_loads_imports_nothing_heavy(name: str) -> None:
    found = {each.partition(".")[0] for each in imports(PACKAGE / f"{name}.py", module_level=True)}
    assert not found & HEAVY


@pytest.mark.parametrize("path", files("bet", "catalogue", "report"), ids=named)
def test_bets_and_reports_never_need_torch_to_be_read(path: Path) -> None:
    found = {each.partition(".")[0] for each in imports(path, module_level=True)}
    assert not found & {"torch", "transformers"}


PROBE = """
import json, os, sys

def pytest_unconfigure(config):
    with open(os.environ["PROBE"], "w") as file:
        json.dump(sorted(sys.modules), file)
"""


def modules_of_a_run(folder: Path, *args: str) -> set[str]:
    """The modules that a pytest run in `folder` has loaded at its end."""
    import os

    probe = folder / "modules.json"
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args],
        cwd=folder,
        check=True,
        capture_output=True,
        env={**os.environ, "PROBE": str(probe)},
    )
    return set(json.loads(probe.read_text(encoding="utf-8")))


def test_a_run_without_bets_pays_next_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(PROBE, encoding="utf-8")
    (tmp_path / "test_one.py").write_text("def test_one():\n    pass\n", encoding="utf-8")
    (tmp_path / "config.yaml").write_text("no: bet\n", encoding="utf-8")
    added = modules_of_a_run(tmp_path) - modules_of_a_run(tmp_path, "-p", "no:layerguard")
    assert "pytest_layerguard.pytest_plugin.plugin" in added
    assert len(added) <= 25, sorted(added)
    assert not {name.partition(".")[0] for name in added} & HEAVY


BET = """\
id: {id}
title: A bet on a model in a folder
claim: It can be done.
status: proposed
model: {{path: model}}
intervention: {{{kind}: {{{arguments}}}}}
measure: {{text: {{reference: heldout}}, tokens: 256, window: 32, bos: never}}
criteria: {{lenient: perplexity_ratio <= 3}}
"""
KINDS = {
    "skip_layers": "layers: 1",
    "quantize_weights": "bits: 4",
    "prune_weights": "sparsity: 0.5",
    "average_experts": "layers: all",
    "drop_experts": "layers: all, count: 1",
    "merge_experts": "layers: all, count: 2",
    "quantize_activations": "layers: all, bits: 8",
    "quantize_kv_cache": "layers: all, bits: 4",
    "train": "steps: 2, lr: 1e-4, optimizer: adamw, text: {reference: training}, batch: 2",
}
ASKED = """\
import sys
import pytest
from pytest_layerguard.cli.main import main

def loaded():
    print("LOADED", sorted({"torch", "transformers", "scipy"} & set(sys.modules)))

main(["explain", "bets"])
loaded()
pytest.main(["bets", "--layerguard-ask", "skip_layers on bets/model"])
loaded()
pytest.main(["bets", "--layerguard-shard", "1/2", "--layerguard-json", "one.json", "--collect-only"])
loaded()
"""


def test_a_model_in_a_folder_is_explained_asked_about_and_divided_without_torch(
    tmp_path: Path,
) -> None:
    model = tmp_path / "bets" / "model"
    families.model("mixtral").save_pretrained(model)
    for kind, arguments in KINDS.items():
        text = BET.format(id=kind.replace("_", "-"), kind=kind, arguments=arguments)
        (tmp_path / "bets" / f"{kind}.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", ASKED], cwd=tmp_path, capture_output=True, check=True, text=True
    )
    assert done.stdout.count("LOADED []") == 3, done.stdout + done.stderr
    assert done.stdout.count("layer evaluations over all tokens") == len(KINDS)
    assert "layers 4" in done.stdout
    assert f"/{len(KINDS)} tests collected" in done.stdout
