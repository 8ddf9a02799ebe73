"""Another whole model in the base's place: paired token by token, or refused with a reason."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hub.tiny import WORDS, model, save, tokenizer
from safetensors.torch import load_file, save_file
from support.held_weights import HeldWeights
from transformers import (
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

import pytest_layerguard
from pytest_layerguard.api import Measured
from pytest_layerguard.catalogue.staleness import changed_digests, digests_of
from pytest_layerguard.checkpoints.checkpoint import Checkpoint, GgufCheckpoint, open_checkpoint
from pytest_layerguard.checkpoints.recognition import recognise
from pytest_layerguard.environment import devices, file_digests
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.models import loading
from pytest_layerguard.models.streaming import LayerStore

Judge = Callable[..., Measured]
EXACT = {"perplexity_ratio": 1.0, "kl": 0.0, "top1_agreement": 1.0}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base of three layers and a text, from which a mapping is measured."""
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "base", num_hidden_layers=3)
    letters = random.Random(0).choices(WORDS[3:], k=600)
    (tmp_path / "text.txt").write_text(" ".join(letters), encoding="utf-8")
    return tmp_path


def judged(
    *done: dict[str, Any], base: Any = None, measure: dict[str, Any] | None = None, **more: Any
) -> Measured:
    arms = {f"arm{at}": each for at, each in enumerate(done)}
    return pytest_layerguard.measure(
        {
            "model": base or {"path": "base"},
            **({"arms": arms} if len(done) > 1 else {"intervention": done[0]}),
            "measure": {
                "text": {"file": "text.txt"},
                "tokens": 500,
                "window": 40,
                "max_base_perplexity": "none",
                "sample": {"prompts": ["a b"], "tokens": 6},
                **(measure or {}),
            },
            "criteria": {"lenient": "max(perplexity_ratio) <= 3"},
        },
        device="cpu",
        **more,
    )


def points(measured: Measured, at: int = 0) -> dict[str, float]:
    return {name: each.value for name, each in measured.result.variants[at].metrics.items()}


def candidates_of(measured: Measured) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = measured.result.provenance["checkpoints"][0]["candidates"]
    return found


def load(name: str, **more: Any) -> dict[str, Any]:
    return {"load_checkpoint": {"path": name, **more}}


def changed(tree: Path, name: str, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """Write a copy of the base with other weights."""
    folder = shutil.copytree(tree / "base", tree / name)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def quantized(tree: Path) -> Path:
    """Write the base as DeepSeek stores weights: FP8 with a scale for each block."""
    folder = shutil.copytree(tree / "base", tree / "fp8")
    weights = load_file(folder / "model.safetensors")
    for name in [name for name in weights if name.endswith("proj.weight")]:
        scale = weights[name].abs().max() / 448
        weights[name] = (weights[name] / scale).to(torch.float8_e4m3fn)
        weights[f"{name}_scale_inv"] = scale.reshape(1, 1)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    how = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}
    config["quantization_config"] = {**how, "activation_scheme": "dynamic"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def recording(
    function: Callable[..., Any], note: Callable[[tuple[Any, ...]], None]
) -> Callable[..., Any]:
    """Return a function that notes its arguments before it does the same."""

    def recorded(*args: Any) -> Any:
        note(args)
        return function(*args)

    return recorded


def gguf_file(tree: Path, *, letters: bool = False, experts: bool = False) -> dict[str, str]:
    """Write the base as a GGUF file, with a tokenizer that takes a letter for a token if asked to; name it."""
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tree / "tiny.gguf", "llama")
    writer.add_block_count(3)
    writer.add_context_length(64)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(24)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_vocab_size(len(WORDS))
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    if letters:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list([*WORDS[:-1], "ab"])
        writer.add_token_merges(["a b"])
        writer.add_unk_token_id(0)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 3)
    for name, tensor in model(num_hidden_layers=3).state_dict().items():
        values = tensor
        heads = {"q_proj": 2, "k_proj": 1}.get(name.split(".")[-2])
        if heads:
            split = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, -1)
            values = split.transpose(1, 2).reshape(tensor.shape)
        found = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(found, values.contiguous().numpy())
    if experts:
        writer.add_tensor("blk.0.ffn_up_exps.weight", torch.zeros(4, 24, 16).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    digest = file_digests.of_file(tree / "tiny.gguf").removeprefix("sha256:")
    return {"gguf": "tiny.gguf", "sha256": digest}


def test_a_base_is_its_own_candidate_with_nothing_changed(tree: Path) -> None:
    shutil.copytree(tree / "base", tree / "copy")
    model(num_hidden_layers=3).save_pretrained(tree / "sharded", max_shard_size="4KB")
    tokenizer().save_pretrained(tree / "sharded")
    measured = judged(load("copy"), load("sharded"))
    for at in (0, 1):
        found = points(measured, at)
        assert {name: found[name] for name in EXACT} == EXACT
    assert points(measured)["size_ratio"] == 1
    assert measured.result.variants[0].samples == measured.result.bases[0].samples
    first = candidates_of(measured)[0]
    assert [each["kind"] for each in first["recognised"]] == ["identical"]


def test_a_file_without_a_layer_is_the_intervention_that_skips_it(tree: Path) -> None:
    made = model(num_hidden_layers=3)
    del made.model.layers[1]
    made.config.num_hidden_layers = 2
    made.save_pretrained(tree / "shallow")
    tokenizer().save_pretrained(tree / "shallow")
    measured = judged(load("shallow"), {"skip_layers": {"layers": 1}})
    file, skipped = points(measured), points(measured, 1)
    size = file.pop("size_ratio")
    assert file == skipped
    assert 0.5 < size < 1
    assert candidates_of(measured)[0]["recognised"][0]["kind"] == "remove_layers"


def test_it_equals_a_plain_loop(tree: Path) -> None:
    changed(tree, "other", lambda weights: weights["model.norm.weight"].mul_(1.5))
    found = points(judged(load("other")))
    base, other = model(num_hidden_layers=3), model(num_hidden_layers=3)
    with torch.no_grad():
        other.model.norm.weight.mul_(1.5)
    ids = tokenizer()((tree / "text.txt").read_text(), add_special_tokens=False)["input_ids"][:500]
    differences, divergences = [], []
    for start in range(0, 500, 40):
        window = torch.tensor([[1, *ids[start : start + 40]]])
        with torch.no_grad():
            p, q = (
                each(input_ids=window).logits[0, :-1].double().log_softmax(-1)
                for each in (base, other)
            )
        rows = torch.arange(len(p))
        differences.append(p[rows, window[0, 1:]] - q[rows, window[0, 1:]])
        divergences.append((p.exp() * (p - q)).sum(-1))
    assert found["perplexity_ratio"] == pytest.approx(
        float(torch.cat(differences).mean().exp()), rel=1e-6
    )
    assert found["kl"] == pytest.approx(float(torch.cat(divergences).mean()), rel=1e-5)


def test_in_turn_and_together_give_the_same_numbers(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(tree, "other", lambda weights: weights["model.norm.weight"].mul_(1.5))
    arms = (
        load("other"),
        {"cast": {"dtype": "bfloat16"}},
        {"skip_layers": {"layers": 1}},
        {"quantize_weights": {"parts": "linear", "bits": 4}},
    )
    together = judged(*arms).result
    assert "size_ratio" in together.variants[3].metrics
    monkeypatch.setattr(devices, "free_memory", lambda device: 1000)
    in_turn = judged(*arms).result
    assert in_turn.variants == together.variants
    assert in_turn.bases == together.bases


def test_a_base_without_bos_is_checked_before_its_layers_are_let_go_of(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer(adds_bos=False).save_pretrained(tree / "base")
    changed(tree, "other", lambda weights: weights["model.norm.weight"].mul_(1.5))
    bound = {"max_base_perplexity": 1000}
    together = judged(load("other"), measure=bound).result
    monkeypatch.setattr(devices, "free_memory", lambda device: 1000)
    assert judged(load("other"), measure=bound).result.variants == together.variants


def test_layers_on_disk_change_no_number_and_are_read_once(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(tree, "other", lambda weights: weights["model.norm.weight"].mul_(1.5))
    quantized(tree)
    gguf = {"load_checkpoint": gguf_file(tree)}
    arms = (load("other"), load("fp8", **{"as": "stored"}), gguf, {"cast": {"dtype": "bfloat16"}})
    streamed = {"path": "base", "placement": "stream"}
    assert judged(*arms, base=streamed).result.variants == judged(*arms).result.variants
    made: list[LayerStore] = []
    monkeypatch.setattr(
        LayerStore, "__init__", recording(LayerStore.__init__, lambda args: made.append(args[0]))
    )
    held = HeldWeights(monkeypatch)
    judged(*arms, base=streamed, measure={"sample": None})
    # Of one model at a time, to learn how it is built; the heads of two take less.
    whole = model(num_hidden_layers=1)
    assert (
        held.most
        == sum(each.nbytes for each in whole.parameters()) - whole.model.norm.weight.nbytes
    )
    assert len(made) == 5
    for store in made:
        # The first also to learn how the model is built, and that it does not look ahead.
        assert [store.reads[layer] for layer in (1, 2)] == [1, 1]


def test_a_gguf_base_stays_on_disk_and_each_of_its_tensors_is_dequantised_once(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = random.Random(0).choices(WORDS[5:-1], k=600)
    (tree / "text.txt").write_text("".join(letters), encoding="utf-8")
    base = gguf_file(tree, letters=True)
    skip = {"skip_layers": {"layers": {"each": "all"}}}
    memory = judged(skip, base=base).result
    read: list[str] = []
    monkeypatch.setattr(
        GgufCheckpoint, "_read", recording(GgufCheckpoint._read, lambda args: read.append(args[1]))
    )
    disk = judged(skip, base={**base, "placement": "stream"}).result
    assert disk.variants == memory.variants
    assert len(read) == len(set(read)) == len(model(num_hidden_layers=3).state_dict())


def test_a_base_in_16_bits_is_converted_once_before_it_is_read_from_disk(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = changed(
        tree,
        "half",
        lambda weights: weights.update({name: each.bfloat16() for name, each in weights.items()}),
    )
    # Its ends of text are those of its own file.
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": list(range(3, len(WORDS) - 2))})
    )
    skip = {"skip_layers": {"layers": {"each": "all"}}}
    memory = judged(skip, base={"path": "half"}).result
    copied: list[Any] = []
    read = recording(Checkpoint._read, lambda args: copied.append(args[1]))
    monkeypatch.setattr(Checkpoint, "_read", read)
    disk = judged(skip, base={"path": "half", "placement": "stream"}).result
    assert (disk.bases, disk.variants) == (memory.bases, memory.variants)
    assert sorted(copied) == sorted(load_file(folder / "model.safetensors"))


def test_a_mixture_in_a_gguf_file_is_not_read_from_disk(tree: Path) -> None:
    base = {**gguf_file(tree, experts=True), "placement": "stream"}
    with pytest.raises(MeasurementError, match=r"ffn_up_exps.weight\); take placement: memory"):
        judged({"skip_layers": {"layers": 0}}, base=base)


def test_the_layers_of_a_base_are_let_go_of_and_come_back(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_layerguard.interventions.registry import Registry
    from pytest_layerguard.measurement.measurer import LocalMeasurer

    monkeypatch.setattr(devices, "free_memory", lambda device: 1000)
    changed(tree, "other", lambda weights: weights["model.norm.weight"].mul_(1.5))
    document = judged(load("other")).document
    measurer = LocalMeasurer(Conditions(device="cpu"), Registry.of())
    measurer.expect([(document, tree / "bets")])
    first = measurer.measure(document, bets=tree / "bets")
    again = LocalMeasurer(Conditions(device="cpu"), Registry.of())
    results = [again.measure(document, bets=tree / "bets") for _ in range(2)]
    assert again.loads == 2
    assert [each.variants for each in results] == [first.variants] * 2


def test_a_cast_is_the_base_in_another_dtype_and_the_floor_of_a_candidate(tree: Path) -> None:
    shutil.copytree(tree / "base", tree / "copy")
    measured = judged(load("copy", dtype="bfloat16"), {"cast": {"dtype": "bfloat16"}})
    file, cast = points(measured), points(measured, 1)
    assert {name: file[name] for name in EXACT} == {name: cast[name] for name in EXACT}
    assert 0 < file["kl"] < 0.01
    floor = candidates_of(judged(load("copy", dtype="bfloat16")))[0]["floor"]
    assert floor["dtype"] == "bfloat16"
    assert floor["kl"] == file["kl"]


def test_a_quantised_file_is_judged_and_may_be_a_base(tree: Path) -> None:
    quantized(tree)
    served, stored = (judged(load("fp8", **{"as": how})) for how in ("served", "stored"))
    # A processor runs the dequantised weights.
    assert points(served)["kl"] == pytest.approx(points(stored)["kl"], rel=1e-3)
    assert 0 < points(stored)["kl"] < 0.1
    recognised = candidates_of(served)[0]["recognised"]
    assert "quantize_weights" in {each["kind"] for each in recognised}
    assert "quantised:" in "\n".join(candidates_of(served)[0]["facts"])
    # Its ends of text are those of its own file.
    ends = set(range(3, len(WORDS) - 2))
    (tree / "fp8" / "generation_config.json").write_text(json.dumps({"eos_token_id": [*ends]}))
    base = judged({"skip_layers": {"layers": 1}}, base={"path": "fp8"}).result.bases[0]
    assert base.metrics["perplexity"].value == pytest.approx(points(stored)["perplexity"], rel=1e-6)
    assert ends.isdisjoint(base.samples[0].token_ids)


def mixture(tree: Path) -> Path:
    """Write a base with experts."""
    config = Qwen3MoeConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        moe_intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        num_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    Qwen3MoeForCausalLM(config).save_pretrained(tree / "mixture")
    tokenizer().save_pretrained(tree / "mixture")
    return tree / "mixture"


def test_a_served_mixture_computes_in_the_dtype_that_it_is_said_to_compute_in(tree: Path) -> None:
    pytest.importorskip("compressed_tensors")
    from tools.quantize_checkpoint import quantize

    quantize(mixture(tree), tree / "four-bits")
    served, stored = (
        judged(load("four-bits", **{"as": how}), base={"path": "mixture"})
        for how in ("served", "stored")
    )
    assert candidates_of(served)[0]["dtype"] == "float32"
    assert "experts: 100 % of their weights quantised" in candidates_of(served)[0]["facts"]
    document = served.document
    ((candidate,),) = document.bet.arm_interventions.values()
    (source,) = document.bet.model.checkpoints().values()
    conditions = Conditions(device="cpu")
    reach = {"bet_file": document.path, "bets": tree / "bets", "conditions": conditions}
    files = loading.locate_candidate(candidate.arguments, source, **reach)
    made = loading.load_candidate(files, document.bet.model, source, "float32", conditions).model
    floats = {each.dtype for each in made.parameters() if each.is_floating_point()}
    assert floats == {torch.float32}
    # Its experts are rounded to the dtype of their scales, as transformers does.
    assert points(served)["kl"] == pytest.approx(points(stored)["kl"], rel=0.01)


def test_experts_that_a_tool_left_out_are_named(tree: Path) -> None:
    pytest.importorskip("bitsandbytes")
    how = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    made = AutoModelForCausalLM.from_pretrained(
        mixture(tree), quantization_config=how, dtype=torch.float32
    )
    for name, fused in (("fused", True), ("apart", False)):
        made.save_pretrained(tree / name, save_original_format=not fused)
        tokenizer().save_pretrained(tree / name)
        stored = load_file(tree / name / "model.safetensors")
        assert ("model.layers.0.mlp.experts.gate_up_proj" in stored) == fused
        found = recognise(*(open_checkpoint(tree / each) for each in ("mixture", name)))
        sentence = found.findings[0].sentence
        assert sentence.startswith("all but the experts of layers 0 and 1 on a grid of 16 values")
        assert sentence.endswith("; experts: not quantised")
    (candidate,) = candidates_of(judged(load("fused"), base={"path": "mixture"}))
    assert "experts: not quantised" in candidate["facts"]


def test_a_gguf_file_is_judged_and_may_be_a_base(tree: Path) -> None:
    done = {"load_checkpoint": gguf_file(tree)}
    found = points(judged(done))
    assert found["perplexity_ratio"] == pytest.approx(1, abs=1e-6)
    assert found["kl"] < 1e-9
    with pytest.raises(MeasurementError, match="is another file: its digest is"):
        judged({"load_checkpoint": {"gguf": "tiny.gguf", "sha256": "0" * 64}})


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_adapter_is_judged(tree: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    peft.get_peft_model(model(num_hidden_layers=3), config).save_pretrained(tree / "lora")
    served, stored = (
        points(judged({"load_checkpoint": {"adapter": "lora", "as": how}}))
        for how in ("served", "stored")
    )
    assert served["kl"] > 0
    assert served["kl"] == pytest.approx(stored["kl"], rel=1e-3)
    save(tree / "wide", num_hidden_layers=3, hidden_size=32)
    with pytest.raises(MeasurementError, match="is an adapter of another base"):
        judged({"load_checkpoint": {"adapter": "lora"}}, base={"path": "wide"})
    how = json.loads((tree / "lora" / "adapter_config.json").read_text())
    more = {**how, "modules_to_save": ["lm_head"]}
    (tree / "lora" / "adapter_config.json").write_text(json.dumps(more))
    with pytest.raises(MeasurementError, match=r"\(modules_to_save: lm_head\)"):
        judged({"load_checkpoint": {"adapter": "lora"}})
    linked(tree / "lora")
    with pytest.raises(MeasurementError, match="is a link that leads out of what bets may read"):
        judged({"load_checkpoint": {"adapter": "lora"}})


def of_another_tokenizer(folder: Path) -> None:
    tokenizer((*WORDS[:3], *reversed(WORDS[3:]))).save_pretrained(folder)


def of_another_vocabulary(folder: Path) -> None:
    model(num_hidden_layers=3, vocab_size=12).save_pretrained(folder)
    tokenizer(WORDS[:12]).save_pretrained(folder)


def of_fewer_embeddings(folder: Path) -> None:
    model(num_hidden_layers=3, vocab_size=12).save_pretrained(folder)


def of_another_architecture(folder: Path) -> None:
    shape = {"vocab_size": len(WORDS), "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=1, eos_token_id=2)).save_pretrained(folder)


def of_half_a_shard(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    model(num_hidden_layers=3).save_pretrained(folder, max_shard_size="4KB")
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100])


def without_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def of_unknown_quantisation(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "magic"}
    (folder / "config.json").write_text(json.dumps(config))


def of_quanto(folder: Path) -> None:
    (folder / "quanto_qmap.json").write_text("{}")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def linked(folder: Path) -> None:
    (folder / "notes").symlink_to("/etc/hostname")


def with_a_special_token(folder: Path) -> None:
    made = tokenizer()
    made.eos_token = "z"
    made.save_pretrained(folder)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (of_another_tokenizer, "its tokenizer is not the base's: token 0 is"),
        (with_a_special_token, "its tokenizer is not the base's: eos_token is 'z'"),
        (of_another_vocabulary, "its tokenizer is not the base's: token 0 is"),
        (of_fewer_embeddings, "its largest id is 28, and the model has embeddings for 12 tokens"),
        (of_another_architecture, "is a gpt2 and the base a llama"),
        (of_half_a_shard, "model-00002-of-00009.safetensors is truncated or damaged"),
        (without_a_tensor, "would be drawn at random: model.layers.1.mlp.up_proj.weight"),
        (of_unknown_quantisation, "quant_method 'magic' is not supported"),
        (of_quanto, "optimum-quanto's own format"),
        (pickled, "its weights are pickled"),
        (linked, "is a link that leads out of what bets may read"),
    ],
)
def test_what_cannot_be_judged_honestly_is_an_error(
    tree: Path, harm: Callable[[Path], None], message: str
) -> None:
    harm(shutil.copytree(tree / "base", tree / "harmed"))
    before = sorted(tree.rglob("*"))
    with pytest.raises(MeasurementError, match=message) as raised:
        judged(load("harmed"))
    assert "\n" not in str(raised.value)
    assert sorted(tree.rglob("*")) == before


def test_another_model_of_the_same_shape_is_measured_and_called_one(tree: Path) -> None:
    save(tree / "other", seed=1, num_hidden_layers=3)
    measured = judged(load("other"))
    assert points(measured)["kl"] > 0
    (finding,) = candidates_of(measured)[0]["recognised"]
    assert finding["sentence"] == "no tensor is the base's: another model of the same shape"


def test_a_missing_library_is_named_with_its_command(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(tree / "base", tree / "gptq")
    config = json.loads((folder / "config.json").read_text())
    how = {"quant_method": "gptq", "bits": 4, "group_size": 8}
    config["quantization_config"] = how
    (folder / "config.json").write_text(json.dumps(config))
    monkeypatch.setitem(sys.modules, "optimum", None)
    with pytest.raises(UnavailableError, match=r"pip install 'pytest-layerguard\[gptq\]'"):
        judged(load("gptq"))


def test_a_padded_vocabulary_is_compared_over_the_ids_both_have(tree: Path) -> None:
    made = model(num_hidden_layers=3)
    made.resize_token_embeddings(len(WORDS) + 7)
    with torch.no_grad():
        made.lm_head.weight[len(WORDS) :] = 5
    made.save_pretrained(tree / "padded")
    tokenizer().save_pretrained(tree / "padded")
    found = points(judged(load("padded")))
    assert {name: found[name] for name in EXACT} == EXACT


def test_the_cache_knows_a_candidate_by_its_files(tree: Path) -> None:
    changed(tree, "other", lambda weights: weights["model.norm.weight"].mul_(1.5))
    cache = tree / "cache"
    first = judged(load("other"), cache=cache)
    assert judged(load("other"), cache=cache).result.cached
    shutil.rmtree(tree / "other")
    changed(tree, "other", lambda weights: weights["model.norm.weight"].mul_(2))
    again = judged(load("other"), cache=cache)
    assert not again.result.cached
    assert points(again) != points(first)
    (changed_file,) = changed_digests(
        *(digests_of(each.result.provenance) for each in (first, again))
    )
    assert changed_file.startswith("weights of the candidate: sha256:")


@pytest.mark.parametrize("placement", ["memory", "stream"])
def test_weights_that_do_not_fit_the_dtype_are_no_verdict(tree: Path, placement: str) -> None:
    def enlarge(weights: dict[str, torch.Tensor]) -> None:
        weights["model.layers.1.mlp.down_proj.weight"][0, 0] = 1e6

    changed(tree, "other", enlarge)
    with pytest.raises(MeasurementError, match=r"down_proj\.weight"):
        judged(
            load("other", dtype="float16"),
            base={"path": "base", "placement": placement},
            measure={"sample": None},
        )
