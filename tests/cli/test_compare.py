"""`python -m pytest_layerguard compare`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.checkpoints import FILES

from pytest_layerguard.cli.main import main

BASE, CANDIDATE = str(FILES / "base-padded"), str(FILES / "gptq-4-g32")


def test_both_are_described_and_what_was_done_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(FILES)
    assert main(["compare", "base-padded", "gptq-4-g32"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert (
        out
        == """\
base: base-padded
  LlamaForCausalLM, 1 layer, 512 tokens, 64 wide
  safetensors; dtype float32
  49,344 weights in 198,416 bytes

candidate: gptq-4-g32
  LlamaForCausalLM, 1 layer, 512 tokens, 64 wide
  GPTQ, 4 bits, groups of 32; dtype bfloat16
  49,344 weights in 34,192 bytes
  quantised: 99.6 % of the weights, 98.8 % of their bytes
    7 tensors as 4-bit integers, groups of 32

the candidate has 0.172 of the base's bytes

recognised:
  quantize_weights: every matrix of layer 0 on a grid of 16 values in groups of
      32 (up to 12.3 % off the base's)
  cast: input_layernorm and post_attention_layernorm of layer 0 and norm rounded
      to bfloat16 and otherwise the base's
  quantization_config: is stored as GPTQ, 4 bits, groups of 32
"""
    )
    assert max(map(len, out.splitlines())) <= 80


def test_json_has_the_same_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", BASE, CANDIDATE, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["kinds"] == ["cast", "quantization_config", "quantize_weights"]
    assert printed["base"]["path"] == BASE
    assert printed["candidate"]["format"] == "GPTQ, 4 bits, groups of 32"
    assert printed["size_ratio"] == pytest.approx(0.172, rel=0.01)
    (quantized,) = (each for each in printed["findings"] if each["kind"] == "quantize_weights")
    assert quantized["details"] == {
        "grids": [{"levels": 16, "group": "groups of 32", "tensors": 7}],
        "tensors": 7,
        "layers": [0],
    }


def test_the_reference_models_go_by_their_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "reference", "reference"]) == 0
    assert "  identical: every tensor is the base's, bit for bit\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        ("nowhere", "nowhere: there is no such folder or file"),
        (str(FILES / "quanto-own-int8"), "optimum-quanto's own format"),
        (str(FILES / "peft-lora"), "is an adapter of another base"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    candidate: str, words: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["compare", BASE, candidate]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1
