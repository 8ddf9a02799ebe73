"""Checkpoints in a temporary folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from safetensors.torch import save_file
from support.checkpoints import CONFIG, Saver, State


@pytest.fixture
def save(tmp_path: Path) -> Saver:
    """Save weights and a configuration as a folder."""

    def saved(
        name: str, weights: State, config: Mapping[str, object] = CONFIG, **more: object
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        whole = {key: tensor.contiguous().clone() for key, tensor in weights.items()}
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
        text = json.dumps({**config, **more})
        (folder / "config.json").write_text(text, encoding="utf-8")
        return folder

    return saved
