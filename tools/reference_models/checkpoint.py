"""Saving and loading of model folders and of the JSON files beside them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from tools.reference_models.recipe import EXPERTS, ROPE_THETA

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

STORED_DTYPE: Final = "float16"


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, target: Path) -> None:
    """Write a model folder that transformers 4.57 and 5 load.

    Args:
        model: The model, in fp32; it is not changed.
        tokenizer: Its tokenizer.
        target: The folder. Weights are stored as ``STORED_DTYPE``.
    """
    from copy import deepcopy

    import torch

    stored: PreTrainedModel = deepcopy(model).to(getattr(torch, STORED_DTYPE))
    stored.save_pretrained(target)
    tokenizer.save_pretrained(target)
    # Weights are saved readable by their owner only.
    for path in target.iterdir():
        path.chmod(0o644)

    def edit(file: str, **changes: Any) -> None:
        content = read_json(target / file) | changes
        # The version that happened to save it would change the digest and inform nobody.
        content.pop("transformers_version", None)
        write_json(target / file, dict(sorted(content.items())))

    # The names under which 4.57 looks for what 5 stores under others.
    edit(
        "config.json",
        num_experts=EXPERTS,
        rope_theta=ROPE_THETA,
        torch_dtype=STORED_DTYPE,
        use_cache=True,
    )
    edit("generation_config.json")
    edit("tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model and its tokenizer from the disk alone.

    Args:
        folder: The model folder.

    Returns:
        The model in fp32, in evaluation mode, on the CPU; and the tokenizer.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )
    model.train(False)
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Args:
        path: The file.

    Returns:
        Its content.
    """
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file.

    Args:
        path: The file.
        content: Its content.
    """
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8", newline="\n")
