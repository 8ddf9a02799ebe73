"""The manifest and the cards of the shipped models, from their files and figures."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from pytest_layerguard.reference import HELDOUT, MANIFEST, NAMES, QUESTIONS, folder
from pytest_layerguard.reference.initial_weights import initial_weights, weights_digest
from tools.reference_models.card import render
from tools.reference_models.checkpoint import read_json, write_json
from tools.reference_models.figures import RUNS, compare, figures, measure
from tools.reference_models.recipe import LAYERS, RECIPES, configuration
from tools.reference_models.text import HELDOUT_STORIES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


def write_figures(runs: Sequence[Path]) -> None:
    """Measure the shipped models and write ``measured.json`` and ``again.json``.

    Args:
        runs: Folders of further runs to compare with them. Without any, ``again.json`` is kept.
    """
    for name in NAMES:
        write_json(figures(name) / "measured.json", measure(name))
        homes = [run / folder(name).name for run in runs]
        if again := [compare(name, home) for home in homes if home.is_dir()]:
            write_json(figures(name) / "again.json", {"runs": again})


def write_cards() -> None:
    """Write the manifest and the cards of the shipped models."""
    write_json(MANIFEST, manifest())
    for name in NAMES:
        (folder(name) / "README.md").write_text(card(name), encoding="utf-8", newline="\n")


def manifest() -> dict[str, Any]:
    """Return the content of the manifest: digests of the shipped files and of the initial weights."""
    return {
        "models": {name: _digests(name) for name in NAMES},
        "heldout": {
            "sha256": _file_digest(HELDOUT),
            "tokens": read_json(figures(NAMES[0]) / "measured.json")["heldout_tokens"],
            "stories": HELDOUT_STORIES,
        },
        "questions": {
            "sha256": _file_digest(QUESTIONS),
            "questions": len(QUESTIONS.read_text(encoding="utf-8").splitlines()),
        },
    }


def card(name: str) -> str:
    """Return the card of a shipped model, in Markdown.

    Args:
        name: ``reference`` or ``reference-wide``.

    Returns:
        The content of the model's ``README.md``.
    """
    return render(
        name,
        read_json(figures(name) / "training.json"),
        read_json(figures(name) / "measured.json"),
        manifest(),
        [*read_json(RUNS / "tried.json"), *map(_row, NAMES)],
        read_json(figures(name) / "again.json")["runs"],
        losses_measured(name),
    )


def losses_measured(name: str) -> list[dict[str, Any]]:
    """Read what the command ``loss`` printed under several versions of transformers.

    Args:
        name: ``reference`` or ``reference-wide``.

    Returns:
        One entry for each version.
    """
    lines = (RUNS / "losses.jsonl").read_text(encoding="utf-8").splitlines()
    return [entry for entry in map(json.loads, lines) if entry["model"] == name]


def _row(name: str) -> dict[str, Any]:
    """Return the entry of a shipped model in the table of everything that was tried."""
    training = read_json(figures(name) / "training.json")
    measured = read_json(figures(name) / "measured.json")
    variants = measured["variants"]
    return {
        "by": "recipe, **shipped**",
        "width": training["width"],
        "parameters": training["parameters"],
        "tokens": training["tokens"],
        "seed": training["seed"],
        "base": measured["base"]["perplexity"],
        "skip": [variants[f"skip-{layer}"]["ratio"] for layer in range(LAYERS)],
        "averaged": variants["experts-averaged"]["ratio"],
        "averaged_unique": variants["experts-averaged"]["unique_tokens"],
        "recovered": variants["experts-averaged-recovered"]["ratio"],
        "ternary": variants["ternary-per-row"]["ratio"],
        "half_pruned": variants["half-pruned"]["ratio"],
    }


def _digests(name: str) -> dict[str, str]:
    home = folder(name)
    seed = read_json(figures(name) / "training.json")["seed"]
    return {
        "weights": _file_digest(home / "model.safetensors"),
        "config": _file_digest(home / "config.json"),
        "tokenizer": _file_digest(home / "tokenizer.json"),
        "initial": weights_digest(initial_weights(configuration(RECIPES[name]), seed)),
    }


def _file_digest(path: Path) -> str:
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
