"""Loading a model folder that the recipe wrote."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a model and its tokenizer from the disk alone.

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
