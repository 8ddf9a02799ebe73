"""Measuring the models of a folder and writing what is shipped beside them: cards and manifest."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from pytest_layerguard.reference import HELDOUT, MANIFEST, NAMES, folder
from pytest_layerguard.reference.card import render
from pytest_layerguard.reference.figures import compare, measure
from pytest_layerguard.reference.heldout import STORIES
from pytest_layerguard.reference.initial import initial_weights, weights_digest
from pytest_layerguard.reference.saving import write_json, write_text
from pytest_layerguard.reference.shape import SHAPES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def measure_models(out: Path, again: Sequence[Path] = ()) -> None:
    """Measures the models that stand in a folder and writes the figures beside them.

    Args:
        out: The folder that holds the models' folders.
        again: Folders of further runs, to be compared with these. What was said of earlier ones
            stays where there are none, so that a run need not be kept.
    """
    for name in _names(out):
        home = out / folder(name).name
        write_json(home / "measured.json", measure(name, out))
        runs = [compare(name, out, run) for run in again if (run / home.name).is_dir()]
        if runs:
            write_json(home / "again.json", {"runs": runs})


def write_cards(out: Path) -> None:
    """Writes the manifest and the models' cards from their figures.

    Args:
        out: The folder that holds the models' folders and ``tried.json``.
    """
    names = _names(out)
    first = _read(out / folder(names[0]).name / "measured.json")
    manifest = {
        "models": {name: _digests(name, out) for name in names},
        "heldout": {
            "sha256": file_digest(HELDOUT),
            "tokens": first["heldout_tokens"],
            "stories": STORIES,
        },
    }
    write_json(out / MANIFEST.name, manifest)
    for name in names:
        write_text(out / folder(name).name / "README.md", card(name, out, manifest))


def card(name: str, out: Path, manifest: Mapping[str, Any]) -> str:
    """Writes a model's card from the figures in a folder.

    Args:
        name: The model.
        out: The folder that holds the models' folders and ``tried.json``.
        manifest: The manifest of that folder.

    Returns:
        Markdown.
    """
    home = out / folder(name).name
    again = home / "again.json"
    shipped = [row(each, out) | {"by": "recipe, **shipped**"} for each in manifest["models"]]
    return render(
        name,
        _read(home / "training.json"),
        _read(home / "measured.json"),
        manifest,
        [*_read(out / "tried.json"), *shipped],
        _read(again)["runs"] if again.exists() else [],
        losses_measured(name, out),
    )


def losses_measured(name: str, out: Path) -> list[dict[str, Any]]:
    """Reads what ``--loss`` printed under several versions of transformers.

    Args:
        name: The model.
        out: The folder that holds ``losses.jsonl``.

    Returns:
        One entry for each version; none where there is no such file.
    """
    path = out / "losses.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [entry for entry in map(json.loads, lines) if entry["model"] == name]


def file_digest(path: Path) -> str:
    """Digests a file.

    Args:
        path: The file.

    Returns:
        ``sha256:`` and 64 hex digits.
    """
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def row(name: str, out: Path) -> dict[str, Any]:
    """Makes the row of a model in the table of everything that was tried.

    Args:
        name: The model.
        out: The folder that holds its folder, with ``training.json`` and ``measured.json``.

    Returns:
        An entry as ``tried.json`` has them.
    """
    home = out / folder(name).name
    training, measured = _read(home / "training.json"), _read(home / "measured.json")
    variants = measured["variants"]
    return {
        "by": "recipe",
        "width": training["width"],
        "parameters": training["parameters"],
        "tokens": training["tokens"],
        "seed": training["seed"],
        "base": measured["base"]["perplexity"],
        "skip": [variants[f"skip-{layer}"]["ratio"] for layer in range(4)],
        "averaged": variants["experts-averaged"]["ratio"],
        "averaged_unique": variants["experts-averaged"]["unique_tokens"],
        "recovered": variants["experts-averaged-recovered"]["ratio"],
        "ternary": variants["ternary-per-row"]["ratio"],
        "half_pruned": variants["half-pruned"]["ratio"],
    }


def _names(out: Path) -> list[str]:
    return [name for name in NAMES if (out / folder(name).name).is_dir()]


def _digests(name: str, out: Path) -> dict[str, str]:
    home = out / folder(name).name
    return {
        "weights": file_digest(home / "model.safetensors"),
        "config": file_digest(home / "config.json"),
        "tokenizer": file_digest(home / "tokenizer.json"),
        "initial": weights_digest(
            initial_weights(SHAPES[name], _read(home / "training.json")["seed"])
        ),
    }


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
