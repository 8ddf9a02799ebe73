"""What a checkpoint is, from its configuration and its headers."""

from __future__ import annotations

import pytest
import torch
from support.checkpoints import CONFIG, FILES, Saver, state

from pytest_layerguard.checkpoints.checkpoint import open_checkpoint
from pytest_layerguard.checkpoints.facts import CheckpointFacts


def facts(name: str) -> CheckpointFacts:
    return CheckpointFacts.of(open_checkpoint(FILES / name))


@pytest.mark.parametrize(
    ("name", "words", "scheme"),
    [
        (
            "ct-w8a8",
            "compressed-tensors W8A8, one scale per row",
            "8-bit integers, one scale per row",
        ),
        ("ct-w4a16-g32", "compressed-tensors W4A16, groups of 32", "4-bit integers, groups of 32"),
        (
            "ct-fp8-dynamic",
            "compressed-tensors FP8 W8A8, one scale per row",
            "FP8 (E4M3) values, one scale per row",
        ),
        (
            "ct-nvfp4a16",
            "compressed-tensors NVFP4 W4A16, groups of 16",
            "4-bit floats (E2M1), groups of 16",
        ),
        (
            "ao-int8wo",
            "torchao Int8WeightOnly, one scale per row",
            "8-bit integers, one scale per row",
        ),
        ("ao-intx4-g32", "torchao IntxWeightOnly, groups of 32", "4-bit integers, groups of 32"),
        ("bnb-8bit", "bitsandbytes int8, one scale per row", "8-bit integers, one scale per row"),
        (
            "bnb-nf4-double",
            "bitsandbytes NF4, blocks of 64, scales quantised",
            "NF4 values, blocks of 64",
        ),
        ("gptq-4-g32", "GPTQ, 4 bits, groups of 32", "4-bit integers, groups of 32"),
        ("autoround-w4-g32", "AutoRound, 4 bits, groups of 32", "4-bit integers, groups of 32"),
        (
            "fp8-block",
            "FP8 (E4M3), blocks of 32 by 32",
            "FP8 (E4M3) values, blocks of 32 by 32",
        ),
    ],
)
def test_the_format_is_described_in_words(name: str, words: str, scheme: str) -> None:
    known = facts(name)
    assert known.format == words
    assert known.schemes == {scheme: 7}
    assert known.quantized.count > 0.99
    assert 0.9 < known.quantized.bytes < 1


def test_activations_are_named_where_the_format_quantises_them() -> None:
    assert facts("ct-w8a8").activations == "8-bit integers per token at run time"
    assert facts("ct-w4a16-g32").activations is None


def test_a_gguf_file_says_its_type() -> None:
    pytest.importorskip("gguf")
    known = facts("stories-Q4_0.gguf")
    assert known.format == "GGUF Q4_0"
    assert known.schemes == {"Q4_0 values, blocks of 32": 7}
    assert (known.architecture, known.layers, known.dtype) == ("llama", 1, "float32")


def test_an_adapter_says_its_rank() -> None:
    known = facts("peft-lora")
    assert known.format == "LoRA adapter of rank 4"
    assert known.architecture is None
    assert next(iter(known.lines())) == "LoRA adapter of rank 4; dtype float32"


def test_a_plain_model_is_its_shape_and_its_dtype() -> None:
    known = facts("base")
    assert (known.architecture, known.layers, known.hidden_size, known.vocabulary) == (
        "LlamaForCausalLM",
        1,
        64,
        512,
    )
    assert known.bytes == (FILES / "base" / "model.safetensors").stat().st_size
    assert known.quantized.count == 0
    assert list(known.lines()) == [
        "LlamaForCausalLM, 1 layer, 512 tokens, 64 wide",
        "safetensors; dtype float32",
        f"{known.parameters:,} weights in {known.bytes:,} bytes",
    ]


def test_experts_that_were_left_as_they_were_are_distinguished(save: Saver) -> None:
    weights = state()
    for name in [name for name in weights if "self_attn" in name]:
        weights[name] = weights[name].sign().to(torch.int8)
        weights[name.replace(".weight", ".SCB")] = torch.ones(64)
    folder = save(
        "attention-only",
        weights,
        CONFIG,
        quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True},
    )
    known = CheckpointFacts.of(open_checkpoint(folder))
    assert known.experts_quantized is not None
    assert known.experts_quantized.count == 0
    assert "experts: not quantised" in list(known.lines())
    assert 0 < known.quantized.count < 0.3
