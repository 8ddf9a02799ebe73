"""Model folders that do not fit their configuration, have hostile names, or make a library panic."""

from __future__ import annotations

import json
import shutil
import struct
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.measurer import LocalMeasurer

if TYPE_CHECKING:
    from pathlib import Path

BET = """\
id: bet
title: Skip a layer
claim: It can go.
status: proposed
model: {path: ../model}
intervention: {skip_layers: {layers: {each: all}}}
measure: {text: {file: ../text.txt}, tokens: 48, window: 6, max_base_perplexity: none}
criteria: {lenient: any(perplexity_ratio <= 1e6)}
"""
COMMAND = "\n::error::owned\x1b[2J##[error]x"


@pytest.fixture
def model(tmp_path: Path, tiny_folder: Path) -> Path:
    (tmp_path / "bets").mkdir()
    (tmp_path / "text.txt").write_text(" ".join("thequickbrownfox" * 20))
    return shutil.copytree(tiny_folder, tmp_path / "model")


def reported(model: Path) -> str:
    """Return the error of a bet on a model."""
    bets = model.parent / "bets"
    (document,) = parse_bets(BET, bets / "bet.yaml")
    with pytest.raises(MeasurementError) as caught:
        LocalMeasurer(Conditions(device="cpu"), Registry.of()).measure(document, bets=bets)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.isprintable()
    assert "##[" not in text
    return text


def configured(model: Path, **changed: Any) -> dict[str, Any]:
    file = model / "config.json"
    config: dict[str, Any] = json.loads(file.read_text()) | changed
    file.write_text(json.dumps(config))
    return config


def test_more_parameters_than_the_files_hold(model: Path) -> None:
    """transformers would draw those that are missing at random first, which takes their memory."""
    save_file({"x": torch.zeros(2)}, model / "model.safetensors", metadata={"format": "pt"})
    configured(model, vocab_size=10**12)
    assert "parameters, and its files hold 2. The checkpoint does not fit" in reported(model)


def test_weights_without_a_tensor(model: Path) -> None:
    (model / "model.safetensors").write_bytes(struct.pack("<Q", 8) + b"{      }")
    assert "hold no tensor" in reported(model)


def test_a_tensor_by_the_name_of_a_command(model: Path) -> None:
    file = model / "model.safetensors"
    tensors = load_file(file) | {f"a{COMMAND}": torch.zeros(2), "b" * 10_000: torch.zeros(2)}
    save_file(tensors, file, metadata={"format": "pt"})
    text = reported(model)
    assert "a\\u000a::error::owned" in text
    assert len(text) < 1_000


def test_a_file_by_the_name_of_a_command(model: Path) -> None:
    (model / "model.safetensors").unlink()
    index = {"weight_map": {"a": f"x{COMMAND}.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "names files that are missing" in reported(model)


@pytest.mark.parametrize("error", [MeasurementError, UnavailableError])
def test_no_message_obeys_what_it_quotes(error: type[Exception]) -> None:
    assert str(error(f"it says{COMMAND}")) == "it says\\u000a::error::owned\\u001b[2J## [error]x"


def test_a_pattern_that_backtracks_for_ever(model: Path) -> None:
    """Its library panics, which is no Exception of Python."""
    file = model / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    pattern = {"Regex": "(a+)+$"}
    tokenizer["pre_tokenizer"] = {
        "type": "Split",
        "pattern": pattern,
        "behavior": "Isolated",
        "invert": False,
    }
    file.write_text(json.dumps(tokenizer))
    (model.parent / "text.txt").write_text("a" * 3_000 + "b")
    assert "made its library give up: PanicException: Onig: Regex search error" in reported(model)


def test_a_tokenizer_that_cannot_be_parsed(model: Path) -> None:
    file = model / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    tokenizer["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    file.write_text(json.dumps(tokenizer))
    assert "made its library give up: PanicException: Precompiled" in reported(model)
