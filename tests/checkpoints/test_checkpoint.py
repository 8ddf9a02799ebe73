"""Reading weights as they are stored, in every format, and refusing what cannot be read."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from support.checkpoints import FILES, Saver, state

from pytest_layerguard.checkpoints.checkpoint import open_checkpoint
from pytest_layerguard.checkpoints.checkpoint_errors import (
    CheckpointError,
    MissingLibraryError,
    library,
)

# Format, the library that it needs, its base, how far the values are from the base's.
FORMATS = [
    ("ct-w8a8", "compressed_tensors", "base", 0.0063),
    ("ct-w4a16-chan", "compressed_tensors", "base", 0.106),
    ("ct-w4a16-g32", "compressed_tensors", "base-padded", 0.093),
    ("ct-fp8-dynamic", "compressed_tensors", "base", 0.026),
    ("ct-nvfp4a16", "compressed_tensors", "base-padded", 0.093),
    ("ao-int8wo", "torchao", "base", 0.0063),
    ("ao-fp8wo", "torchao", "base", 0.026),
    ("ao-intx4-g32", "torchao", "base-padded", 0.093),
    ("bnb-8bit", "torch", "base", 0.0063),
    ("bnb-nf4", "bitsandbytes", "base", 0.091),
    ("bnb-nf4-double", "bitsandbytes", "base", 0.091),
    ("gptq-4-g32", "torch", "base-padded", 0.108),
    ("autoround-w4-g32", "torch", "base-padded", 0.083),
    ("fp8-block", "torch", "base-padded", 0.026),
]


@pytest.mark.parametrize(("name", "library", "base", "distance"), FORMATS)
def test_every_format_is_read_as_values_near_those_that_it_was_made_from(
    name: str, library: str, base: str, distance: float
) -> None:
    pytest.importorskip(library)
    checkpoint, original = open_checkpoint(FILES / name), open_checkpoint(FILES / base)
    assert checkpoint.weights.keys() == original.weights.keys()
    quantized = [weight for weight in checkpoint.weights.values() if weight.scheme is not None]
    assert len(quantized) == 7
    apart = norm = 0.0
    for weight in quantized:
        values, plain = checkpoint.read(weight.name).float(), original.read(weight.name)
        assert tuple(values.shape) == weight.shape == original.weights[weight.name].shape
        apart += float((values - plain).square().sum())
        norm += float(plain.square().sum())
    assert (apart / norm) ** 0.5 == pytest.approx(distance, rel=0.1)


def test_a_gguf_file_is_read_in_the_layout_of_transformers() -> None:
    pytest.importorskip("gguf")
    checkpoint, original = (
        open_checkpoint(FILES / "stories-Q4_0.gguf"),
        open_checkpoint(FILES / "base-padded"),
    )
    for ours, theirs in (("attn_q", "self_attn.q_proj"), ("ffn_down", "mlp.down_proj")):
        values = checkpoint.read(f"blk.0.{ours}.weight")
        plain = original.read(f"model.layers.0.{theirs}.weight")
        assert float((values - plain).norm() / plain.norm()) < 0.1


def test_blocks_are_the_weight_row_by_row() -> None:
    checkpoint = open_checkpoint(FILES / "gptq-4-g32")
    for name in ("model.layers.0.mlp.down_proj.weight", "model.norm.weight"):
        whole = checkpoint.read(name)
        assert torch.equal(torch.cat(list(checkpoint.blocks(name, rows=7))), whole)
        assert torch.equal(checkpoint.read(name, 3, 9), whole[3:9])


def packed(values: list[list[int]], bits: int) -> torch.Tensor:
    """Pack integers down each column into 32-bit words, bit by bit."""
    columns = []
    for column in zip(*values, strict=True):
        stream = sum(value << (bits * place) for place, value in enumerate(column))
        words = len(column) * bits // 32
        columns.append([(stream >> (32 * word)) & 0xFFFFFFFF for word in range(words)])
    return torch.tensor(columns, dtype=torch.int64).T.contiguous().to(torch.int32)


@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    version=st.sampled_from(["gptq", "gptq_v2"]),
    acting=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_gptq_is_read_by_its_rule(
    tmp_path_factory: pytest.TempPathFactory, bits: int, version: str, acting: bool, seed: int
) -> None:
    made = torch.Generator().manual_seed(seed)
    inputs, outputs, group = 64, 32, 32
    values = torch.randint(0, 2**bits, (inputs, outputs), generator=made)
    zeros = torch.randint(1, 2**bits, (inputs // group, outputs), generator=made)
    scales = torch.rand((inputs // group, outputs), generator=made).half()
    order = torch.randperm(inputs, generator=made) if acting else torch.arange(inputs)
    groups = order // group
    less = 1 if version == "gptq" else 0
    save_file(
        {
            "l.qweight": packed(values.tolist(), bits),
            "l.qzeros": packed((zeros - less).T.tolist(), bits).T.contiguous(),
            "l.scales": scales,
            "l.g_idx": groups.int(),
        },
        (folder := tmp_path_factory.mktemp("gptq")) / "model.safetensors",
    )
    quantization = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group,
        "checkpoint_format": version,
    }
    (folder / "config.json").write_text(json.dumps({"quantization_config": quantization}))
    expected = scales.float()[groups] * (values - zeros[groups])
    assert torch.equal(open_checkpoint(folder).read("l.weight"), expected.T)


def test_awq_is_read_by_its_rule(save: Saver) -> None:
    torch.manual_seed(0)
    values, zeros = torch.randint(0, 16, (64, 32)), torch.randint(0, 16, (2, 32))
    scales = torch.rand(2, 32).half()
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def ordered(plain: torch.Tensor) -> torch.Tensor:
        words = plain.reshape(len(plain), -1, 8)[:, :, order]
        return packed(words.reshape(len(plain), -1).T.tolist(), 4).T.contiguous()

    folder = save(
        "awq",
        {"l.qweight": ordered(values), "l.qzeros": ordered(zeros), "l.scales": scales},
        {
            "quantization_config": {
                "quant_method": "awq",
                "bits": 4,
                "group_size": 32,
                "version": "gemm",
            }
        },
    )
    expected = (values - zeros.repeat_interleave(32, 0)) * scales.float().repeat_interleave(32, 0)
    assert torch.equal(open_checkpoint(folder).read("l.weight"), expected.T)
    utils = pytest.importorskip("gptqmodel.quantization.awq.utils.packing_utils")
    theirs = utils.dequantize_gemm(ordered(values), ordered(zeros), scales.float(), 4, 32)
    assert torch.equal(theirs.T, expected.T)


def test_the_experts_of_gpt_oss_are_read_one_at_a_time(save: Saver) -> None:
    torch.manual_seed(0)
    blocks = torch.randint(0, 256, (3, 64, 2, 16), dtype=torch.uint8)
    scales = torch.randint(120, 130, (3, 64, 2), dtype=torch.uint8)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    folder = save(
        "mxfp4",
        {f"{name}_blocks": blocks, f"{name}_scales": scales},
        {"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}},
    )
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    both = torch.cat([values, -values])
    nibbles = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2).long()
    expected = both[nibbles] * 2.0 ** (scales.float() - 127).unsqueeze(-1)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.weights[name].shape == (3, 64, 64)
    assert torch.equal(checkpoint.read(name, 1, 2)[0].float(), expected[1].reshape(64, 64).T)


def test_shards_are_one_model_and_half_of_them_are_none(save: Saver) -> None:
    folder = save("sharded", weights := state())
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for file, part in zip(files, (names[:20], names[20:]), strict=True):
        save_file({name: weights[name] for name in part}, folder / file)
    index = {"weight_map": {name: files[place >= 20] for place, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = open_checkpoint(folder)
    assert checkpoint.weights.keys() == weights.keys()
    assert all(torch.equal(checkpoint.read(name), weights[name]) for name in (names[0], names[-1]))
    whole = (folder / files[1]).read_bytes()
    (folder / files[1]).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors is truncated"):
        open_checkpoint(folder)
    (folder / files[1]).unlink()
    with pytest.raises(
        CheckpointError, match=r"missing: 'model-00002-of-00002.safetensors' \(1 of 2\)"
    ):
        open_checkpoint(folder)
    shutil.copy(folder / files[0], folder / files[1])
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002.safetensors lacks model"):
        open_checkpoint(folder)


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for folder, module, extra in (
        ("ct-w8a8", "compressed_tensors", "compressed-tensors"),
        ("bnb-nf4", "bitsandbytes", "bitsandbytes"),
        ("ao-int8wo", "torchao", "torchao"),
    ):
        for loaded in [name for name in sys.modules if name.split(".")[0] == module]:
            monkeypatch.delitem(sys.modules, loaded)
        monkeypatch.setitem(sys.modules, module, None)
        checkpoint = open_checkpoint(FILES / folder, folder)
        with pytest.raises(MissingLibraryError) as raised:
            checkpoint.read("model.layers.0.self_attn.q_proj.weight")
        assert str(raised.value).endswith(f"pip install 'pytest-layerguard[{extra}]'")
        assert "\n" not in str(raised.value)


def test_a_library_that_no_extra_has_is_installed_by_its_own_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "gptqmodel", None)
    with pytest.raises(MissingLibraryError, match=r"pip install --no-deps gptqmodel$"):
        library("gptqmodel", "gptq", "out")


def damaged(save: Saver, tmp_path: Path) -> Iterator[tuple[str, Path, str]]:
    """Yield what may be wrong with a checkpoint, the checkpoint, and what the message says."""
    weights = {"l.weight": torch.zeros(2, 2)}
    yield "nothing there", tmp_path / "nowhere", "no such folder"
    (tmp_path / "notes.txt").write_text("")
    yield "a file", tmp_path / "notes.txt", "is a file"
    (empty := tmp_path / "empty").mkdir()
    yield "an empty folder", empty, "has no config.json"
    (ggufs := tmp_path / "ggufs").mkdir()
    (ggufs / "a.gguf").write_bytes(b"")
    yield "a folder of GGUF files", ggufs, "name one, such as a.gguf"
    pickled = save("pickled", weights)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    yield "a pickle", pickled, "runs whatever code"
    (bare := save("bare", weights)).joinpath("model.safetensors").unlink()
    yield "no weights", bare, "has no weights"
    config = save("config", weights)
    (config / "config.json").write_text("[]")
    yield "no configuration", config, "not a JSON mapping"
    header = save("header", weights)
    (header / "model.safetensors").write_bytes(struct.pack("<Q", 10) + b"not json..")
    yield "a damaged header", header, "truncated or damaged"
    yield "optimum-quanto's format", FILES / "quanto-own-int8", "optimum-quanto's own format"
    bytes_ = save("bytes", {"l.weight": torch.zeros(2, 2, dtype=torch.int8)})
    yield "integers without a reason", bytes_, "nothing in config.json explains"
    unknown = save("unknown", weights, quantization_config={"quant_method": "shrinkwrap"})
    yield "an unknown method", unknown, "quant_method 'shrinkwrap' is not supported"
    vague = save("vague", weights, quantization_config={"quant_method": "gptq"})
    odd = save("odd", weights, quantization_config="gptq")
    yield "a word for a mapping", odd, "does not fit its tensors"
    yield "a method without bits", vague, "does not fit its tensors: KeyError('bits')"
    half = save(
        "half",
        {"l.qweight": torch.zeros(4, 4, dtype=torch.int32)},
        quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 32},
    )
    yield "scales missing", half, "l.weight is incomplete"
    for name, more, words in (
        ("saved", {"modules_to_save": ["lm_head"]}, "modules_to_save: lm_head"),
        ("ia3", {"peft_type": "IA3"}, "type IA3"),
    ):
        adapter = tmp_path / name
        shutil.copytree(FILES / "peft-lora", adapter)
        config = json.loads((adapter / "adapter_config.json").read_text())
        (adapter / "adapter_config.json").write_text(json.dumps({**config, **more}))
        yield name, adapter, words


def test_what_cannot_be_read_is_one_clear_line(save: Saver, tmp_path: Path) -> None:
    for what, path, words in damaged(save, tmp_path):
        with pytest.raises(CheckpointError) as raised:
            open_checkpoint(path, "candidate")
        message = str(raised.value)
        assert words in message, what
        assert message.startswith("candidate: "), what
        assert "\n" not in message, what


def test_parts_that_do_not_fit_one_another_are_one_clear_line(save: Saver) -> None:
    parts = {
        "l.qweight": torch.zeros(8, 4, dtype=torch.int32),
        "l.qzeros": torch.zeros(1, 1, dtype=torch.int32),
        "l.scales": torch.zeros(1, 4),
    }
    quantization = {"quant_method": "gptq", "bits": 4, "group_size": 8}
    folder = save("odd", parts, quantization_config=quantization)
    with pytest.raises(CheckpointError, match=r"l\.weight has 1 group, and by config.json 8;"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    ("name", "lie", "words"),
    [
        ("gptq-4-g32", {"group_size": 64}, "groups, and by config.json"),
        ("gptq-4-g32", {"group_size": -1}, "groups, and by config.json 1;"),
        ("autoround-w4-g32", {"group_size": 64}, "groups, and by config.json"),
        ("fp8-block", {"weight_block_size": [64, 64]}, "blocks, and by config.json"),
        ("bnb-nf4", {"bnb_4bit_quant_type": "fp4"}, "has NF4, and by config.json FP4;"),
        ("bnb-nf4", {"bnb_4bit_use_double_quant": True}, "plain scales, and by config.json"),
        ("bnb-nf4", {"load_in_4bit": False}, "has NF4, and by config.json 8 bits;"),
        ("bnb-8bit", {"load_in_4bit": True}, "has 8 bits, and by config.json FP4;"),
        ("ct-fp8-dynamic", {"type": "int"}, "has values in F8_E4M3, and by config"),
        ("ct-w8a8", {"num_bits": 4}, "has values up to 128, and by config.json 4 bits;"),
    ],
)
def test_a_configuration_that_its_tensors_do_not_bear_out_is_refused(
    tmp_path: Path, name: str, lie: dict[str, object], words: str
) -> None:
    if name == "ct-w8a8":
        pytest.importorskip("compressed_tensors")
    shutil.copytree(FILES / name, folder := tmp_path / name)
    config = json.loads((folder / "config.json").read_text())
    place = config["quantization_config"]
    if name.startswith("ct-"):
        place = place["config_groups"]["group_0"]["weights"]
    place.update(lie)
    (folder / "config.json").write_text(json.dumps(config))

    def read() -> None:
        checkpoint = open_checkpoint(folder)
        for weight in checkpoint.weights:
            checkpoint.read(weight)

    with pytest.raises(CheckpointError) as raised:
        read()
    assert words in str(raised.value)


def test_a_tensor_in_two_shards_is_refused(save: Saver) -> None:
    folder = save("sharded", weights := state())
    (folder / "model.safetensors").unlink()
    name = "lm_head.weight"
    save_file(weights, folder / "a.safetensors")
    save_file({name: torch.zeros(96, 64)}, folder / "b.safetensors")
    index = {"weight_map": {**dict.fromkeys(weights, "a.safetensors"), name: "b.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is in a\.safetensors and in b\."):
        open_checkpoint(folder)


def test_a_gguf_file_that_is_damaged_or_of_an_unknown_architecture_is_refused(
    tmp_path: Path,
) -> None:
    gguf = pytest.importorskip("gguf")
    whole = (FILES / "stories-Q4_0.gguf").read_bytes()
    (tmp_path / "half.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="truncated or no GGUF file"):
        open_checkpoint(tmp_path / "half.gguf")
    writer = gguf.GGUFWriter(tmp_path / "rwkv.gguf", "rwkv7")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", torch.zeros(4, 32).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match="does not map the GGUF architecture 'rwkv7'"):
        open_checkpoint(tmp_path / "rwkv.gguf")


def test_the_header_of_a_gguf_file_is_read_once_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gguf = pytest.importorskip("gguf")
    made: list[Path] = []
    alive: weakref.WeakSet[gguf.GGUFReader] = weakref.WeakSet()

    class Counted(gguf.GGUFReader):
        def __init__(self, path: Path, *more: object) -> None:
            # A reader takes 140 MB for a vocabulary of 49,152.
            assert not alive
            made.append(path)
            alive.add(self)
            super().__init__(path, *more)

    monkeypatch.setattr(gguf, "GGUFReader", Counted)
    file = shutil.copy(FILES / "stories-Q4_0.gguf", tmp_path / "stories.gguf")
    first, second = open_checkpoint(file, "model"), open_checkpoint(file, "candidate")
    # One reader is ours, the other that of transformers.
    assert len(made) == 2
    assert (first.name, second.name) == ("model", "candidate")
    assert (first.weights, first.config) == (second.weights, second.config)
    os.utime(file, ns=(0, 0))
    open_checkpoint(file)
    assert len(made) == 4
    assert not alive


def test_opening_reads_headers_alone(save: Saver) -> None:
    file = save("plain", weights := state()) / "model.safetensors"
    size = file.stat().st_size
    header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    with file.open("r+b") as opened:
        # The values are a hole in the file.
        opened.truncate(header)
        opened.truncate(size)
    checkpoint = open_checkpoint(file.parent)
    assert {name: weight.shape for name, weight in checkpoint.weights.items()} == {
        name: tuple(tensor.shape) for name, tensor in weights.items()
    }
    assert header + sum(weight.nbytes for weight in checkpoint.weights.values()) == size
    assert checkpoint.nbytes == size
