"""The reference is written from the code, and nothing that a user can meet is missing in it."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

from pytest_layerguard.bet import bet
from pytest_layerguard.bet.arguments import BUILTIN_KINDS
from pytest_layerguard.bet.criteria import evaluate
from pytest_layerguard.bet.criteria.metrics import METRICS
from pytest_layerguard.catalogue.outcome import Word
from pytest_layerguard.pytest_plugin import hookspecs

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
SCHEMA = ROOT / "pytest_layerguard" / "catalogue" / "record.schema.json"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = load()
PAGES: dict[str, str] = GENERATE.pages()


@pytest.mark.parametrize("name", PAGES)
def test_it_is_not_stale(name: str) -> None:
    on_disk = (REFERENCE / name).read_text(encoding="utf-8")
    assert on_disk == PAGES[name], f"docs/reference/{name} is stale: run `python docs/generate.py`"


def test_there_is_no_page_that_nothing_writes() -> None:
    assert {page.name for page in REFERENCE.iterdir()} == set(PAGES)


def documented(page: str) -> set[str]:
    """The names that a page's tables and headings have, each with something said of it."""
    found: set[str] = set()
    for part in re.split(r"^## ", PAGES[page], flags=re.MULTILINE):
        name, _, said = part.partition("\n")
        if re.search(r"^[`\w]", re.sub(r"```.*?```", "", said, flags=re.DOTALL), re.MULTILINE):
            found.add(name)
        for row in re.findall(r"^\| (.*) \|$", part, re.MULTILINE):
            first, *rest = re.split(r" \| ?", row)
            if any(cell.strip("- ") for cell in rest):
                found.add(first.strip("`"))
    return found


def test_every_option_is_documented() -> None:
    text = PAGES["options.md"]
    recorder = GENERATE.declared()
    for flag, more in recorder.flags.items():
        assert f"`{flag}" in text
        assert len(more["help"]) > 10, flag
    for name in recorder.ini:
        assert f"`{name}`" in text


def test_every_key_of_a_bet_is_documented() -> None:
    for title, part, _ in GENERATE.PARTS:
        for name, field in part.model_fields.items():
            assert field.description, f"{title}: {name} has no description"
            assert f"| `{name}` |" in PAGES["format.md"]
    reported = {part for _, part, _ in GENERATE.PARTS}
    from pytest_layerguard.bet.validation import BetPart

    here = {
        each for each in [*vars(bet).values(), *vars(evaluate).values()] if isinstance(each, type)
    }
    # An exploration has no key of its own, and no file holds one.
    undocumented = {BetPart, bet.Exploration, evaluate.NoCriteria}
    assert {each for each in here if issubclass(each, BetPart)} - reported == undocumented


def test_every_intervention_and_its_keys_are_documented() -> None:
    assert BUILTIN_KINDS.keys() <= documented("interventions.md")
    for kind, reported in BUILTIN_KINDS.items():
        for name, field in reported.model_fields.items():
            assert field.description, f"{kind}: {name} has no description"


def test_every_metric_is_documented() -> None:
    assert METRICS.keys() <= documented("metrics.md")


def test_every_outcome_word_is_documented() -> None:
    assert {str(word) for word in Word} <= documented("words.md")


def test_every_key_of_a_record_is_documented() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    assert set(schema["properties"]) <= documented("records.md")


def test_every_hook_is_documented() -> None:
    hooks = {name for name in vars(hookspecs) if name.startswith("pytest_layerguard_")}
    assert hooks <= documented("hooks.md")


def test_every_name_of_the_python_page_can_be_imported_from_a_public_module() -> None:
    for place in re.findall(r"^## (\S+)$", PAGES["python.md"], re.MULTILINE):
        module, _, name = place.rpartition(".")
        assert module in ("pytest_layerguard", "pytest_layerguard.extending")
        assert hasattr(importlib.import_module(module), name), place


def test_every_link_between_pages_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                there = page.parent / target
                assert there.exists(), f"{page.relative_to(ROOT)}: {target}"
