"""Writing a trained model as the folder that is shipped, whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_layerguard.reference.shape import EXPERTS, ROPE_THETA

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def save(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    report: Mapping[str, Any],
    target: Path,
    *,
    dtype: torch.dtype,
) -> None:
    """Writes a model folder in place of what stood there.

    Args:
        model: The model, in fp32; it is left as it is.
        tokenizer: Its tokenizer.
        report: What is told of the training; it becomes ``training.json``.
        target: The folder.
        dtype: The 16-bit type in which weights are stored.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        _stored(model, dtype).save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        _suit_both_versions(draft)
        write_json(draft / "training.json", report)
        # Weights are saved readable by their owner only, and so is a temporary folder.
        for path in draft.iterdir():
            path.chmod(0o644)
        draft.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file in place of what stood there, whole or not at all.

    Args:
        path: The file.
        content: What it is to hold.
    """
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, content: str) -> None:
    """Writes a text file in place of what stood there, whole or not at all.

    Args:
        path: The file.
        content: What it is to hold, with line feeds on every system.
    """
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(content, encoding="utf-8", newline="\n")
    draft.replace(path)


def _stored(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    from copy import deepcopy

    copy: PreTrainedModel = deepcopy(model).to(dtype)  # type: ignore[arg-type]
    return copy


def _suit_both_versions(folder: Path) -> None:
    """Says in the configurations what transformers 4.57 reads under names that 5 has left."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {
        "num_experts": EXPERTS,
        "rope_theta": ROPE_THETA,
        "torch_dtype": config["dtype"],
        "use_cache": True,
    }
    # The version that happened to save it would change the digest and tell a reader nothing.
    config.pop("transformers_version", None)
    write_json(folder / "config.json", dict(sorted(config.items())))
    path = folder / "generation_config.json"
    generation = json.loads(path.read_text(encoding="utf-8"))
    generation.pop("transformers_version", None)
    write_json(path, generation)
    path = folder / "tokenizer_config.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    tokenizer |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(path, dict(sorted(tokenizer.items())))
