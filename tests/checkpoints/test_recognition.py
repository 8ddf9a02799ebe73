"""What was done to a model, from its files and its base's."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.checkpoints import (
    CONFIG,
    FILES,
    Saver,
    State,
    changed,
    halved,
    mean_of_experts,
    of_experts,
    of_layers,
    rounded,
    state,
)

from pytest_layerguard import reference
from pytest_layerguard.checkpoints.checkpoint import open_checkpoint
from pytest_layerguard.checkpoints.checkpoint_errors import CheckpointError
from pytest_layerguard.checkpoints.recognition import recognise, recognise_configs


@pytest.fixture
def recognised(save: Saver) -> Callable[..., dict[str, str]]:
    """Save a base and a candidate; returns the sentence of each kind that is recognised."""

    def of(candidate: State, base: State | None = None, **more: object) -> dict[str, str]:
        folders = save("base", base or state()), save("candidate", candidate, CONFIG, **more)
        found = recognise(*map(open_checkpoint, folders))
        shutil.rmtree(folders[0].parent)
        folders[0].parent.mkdir()
        return {finding.kind: finding.sentence for finding in found.findings}

    return of


def pruned_two_of_four(tensor: torch.Tensor) -> torch.Tensor:
    fours = tensor.reshape(-1, 4)
    kept = torch.zeros_like(fours).scatter(1, fours.abs().topk(2, dim=1).indices, 1)
    return (fours * kept).reshape(tensor.shape)


def ternary(tensor: torch.Tensor) -> torch.Tensor:
    scale = tensor.abs().mean()
    return (tensor / scale).round().clamp(-1, 1) * scale


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (state(), {"identical": "every tensor is the base's, bit for bit"}),
        (
            of_layers(state(), [0, 2, 3]),
            {"remove_layers": "keeps 3 of 4 layers, bit for bit; layer 1 is gone"},
        ),
        (
            of_layers(state(), [0, 3]),
            {"remove_layers": "keeps 2 of 4 layers, bit for bit; layers 1 and 2 are gone"},
        ),
        (
            of_layers(state(), [0, 2, 1, 3]),
            {"interchange_layers": "has interchanged layers 1 and 2"},
        ),
        (
            of_layers(state(), [1, 2, 3, 0]),
            {"interchange_layers": "has the base's layers in another order: 1, 2, 3, 0"},
        ),
        (
            of_layers(state(), [0, 1, 1, 3]),
            {"replace_layers": "runs layer 2 with the weights of 1"},
        ),
        (of_layers(state(), [0, 1, 1, 2, 3]), {"repeat_layers": "runs layer 1 twice"}),
        (
            of_experts(state(), [1, 3]),
            {"drop_experts": "keeps 2 of 4 experts in layers 0 to 3; gone from layer 0: 0 and 2"},
        ),
        (
            of_experts(state(), [2, 0, 3, 1]),
            {"reordered": "has the experts of layers 0 to 3 in another order"},
        ),
        (
            mean_of_experts(state()),
            {
                "average_experts": "the experts of layers 0 to 3 are all equal, the mean of the base's 4"
            },
        ),
        (
            of_experts(mean_of_experts(state()), [0]),
            {"average_experts": "the experts of layers 0 to 3 are one, the mean of the base's 4"},
        ),
        (
            changed(state(), halved),
            {
                "prune_weights": "50 % of the weights of every matrix of layers 0 to 3 are zero; "
                "the base has none"
            },
        ),
        (
            changed(state(), pruned_two_of_four, r"experts"),
            {
                "prune_weights": "50 % of the weights of every expert of layers 0 to 3 are zero, two of "
                "every four in a row (2:4); the base has none"
            },
        ),
        (
            changed(state(), ternary, r"layers\.2.*[qk]_proj"),
            {
                "quantize_weights": "k_proj and q_proj of layer 2 on a grid of 3 values in each tensor; "
                "embed_tokens and lm_head untouched (up to 51.6 % off the base's); experts: not quantised",
                "ternary_weights": "k_proj and q_proj of layer 2 of -1, 0 and 1 times a scale",
            },
        ),
        (
            changed(state(), torch.zeros_like, r"layers\.1.*(proj|gate)\."),
            {"zero_layers": "every matrix of layer 1 is zero"},
        ),
        (
            changed(state(), torch.zeros_like, r"layers\.[02]\.self_attn.*proj"),
            {"skip_layers": "every matrix of the attention of layers 0 and 2 is zero"},
        ),
        (
            changed(state(), torch.zeros_like, r"layers\.1\.mlp"),
            {"skip_layers": "every matrix of the feed-forward of layer 1 is zero"},
        ),
        (
            changed(state(), lambda tensor: 0.02 * torch.randn(tensor.shape), r"layers\.1.*proj"),
            {"reinitialize_layers": "the weights of layer 1 are those of no layer of the base"},
        ),
        (
            changed(state(), torch.Tensor.bfloat16, "."),
            {"cast": "every tensor rounded to bfloat16 and otherwise the base's"},
        ),
        (
            changed(state(), torch.Tensor.double, "embed"),
            {"identical": "every tensor is the base's by its values, in another dtype"},
        ),
        (
            changed(state(), lambda tensor: 1.03 * tensor, r"layers\.3.*[qv]_proj"),
            {"train": "q_proj and v_proj of layer 3 moved by 3 % of the base's norm"},
        ),
        (
            state(seed=1),
            {"unrelated": "no tensor is the base's: another model of the same shape"},
        ),
        (
            changed(
                changed(state(), lambda tensor: tensor[::2], "(gate|up)_proj"),
                lambda tensor: tensor[:, ::2],
                "down_proj",
            ),
            {
                "prune_weights": "50 % of the rows or columns of down_proj, gate_proj and up_proj of layers "
                "0 to 3 are gone, the others bit for bit the base's"
            },
        ),
        (
            changed(state(), lambda tensor: 2 * tensor[:32], "gate_proj"),
            {
                "resized": "model.layers.0.mlp.experts.0.gate_proj.weight is [32, 64], the base's [64, 64], "
                "and 15 more differ"
            },
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) and len(value) < 5 else "",
)
def test_what_was_done_is_recognised(
    recognised: Callable[..., dict[str, str]], candidate: State, expected: dict[str, str]
) -> None:
    assert recognised(candidate) == expected


def affine(tensor: torch.Tensor) -> torch.Tensor:
    """Return a matrix on 16 even steps from the least to the largest of each 32 values."""
    grouped = tensor.reshape(-1, 32)
    least = grouped.amin(1, keepdim=True)
    step = (grouped.amax(1, keepdim=True) - least) / 15
    return (((grouped - least) / step).round() * step + least).reshape(tensor.shape)


def nearest(tensor: torch.Tensor, levels: list[float], group: int) -> torch.Tensor:
    """Return a matrix on these levels times the largest value of each group."""
    grouped = tensor.reshape(-1, group)
    scale = grouped.abs().amax(1, keepdim=True)
    known = torch.tensor(levels) / max(levels)
    places = ((grouped / scale).unsqueeze(-1) - known).abs().argmin(-1)
    return (known[places] * scale).reshape(tensor.shape)


FP4 = [0.0, 0.5, 1, 1.5, 2, 3, 4, 6]
QUANTILES = torch.distributions.Normal(0, 1).icdf(torch.linspace(0.03, 0.97, 15)).tolist()


def fp8(tensor: torch.Tensor) -> torch.Tensor:
    scale = tensor.abs().amax(1, keepdim=True) / 448
    return (tensor / scale).to(torch.float8_e4m3fn).float() * scale


@pytest.mark.parametrize(
    ("quantize", "grid"),
    [
        (lambda tensor: rounded(tensor, 8), "256 values in each row"),
        (lambda tensor: rounded(tensor, 8, 32), "256 values in groups of 32"),
        (lambda tensor: rounded(tensor, 4), "16 values in each row"),
        (lambda tensor: rounded(tensor, 4, 32), "16 values in groups of 32"),
        (lambda tensor: rounded(tensor, 3, 16), "8 values in groups of 16"),
        (lambda tensor: rounded(tensor, 2), "3 values in each row"),
        (lambda tensor: rounded(tensor, 8).bfloat16(), "256 values in each row"),
        (lambda tensor: rounded(tensor, 4, 32).bfloat16(), "16 values in groups of 32"),
        (lambda tensor: rounded(tensor, 8).half(), "256 values in each row"),
        (affine, "16 values in groups of 32"),
        (
            lambda tensor: nearest(tensor, [*FP4, *(-each for each in FP4)], 16),
            "16 values in groups of 16",
        ),
        (lambda tensor: nearest(tensor, [*QUANTILES, 0.0], 64), "16 values in groups of 64"),
        (fp8, "FP8 values in each row"),
    ],
)
def test_levels_and_groups_are_found_from_the_values(
    recognised: Callable[..., dict[str, str]],
    quantize: Callable[[torch.Tensor], torch.Tensor],
    grid: str,
) -> None:
    found = recognised(changed(state(layers=2, width=128), quantize), state(layers=2, width=128))
    ternary = {"ternary_weights"} if grid.startswith("3 ") else set()
    assert found.keys() == {"quantize_weights"} | ternary
    assert f"every matrix of layers 0 and 1 on a grid of {grid}; embed" in found["quantize_weights"]


def test_norms_that_take_up_the_scales_of_quantised_inputs_are_not_training(
    recognised: Callable[..., dict[str, str]],
) -> None:
    scales = torch.linspace(0.5, 2, 64)
    weights = changed(state(), lambda each: rounded(each * scales, 4, 32), "[qkv]_proj")
    weights = changed(weights, lambda each: each / scales, "input_layernorm")
    found = recognised(weights)
    assert found.keys() == {"quantize_weights"}
    assert found["quantize_weights"].startswith("input_layernorm of layers 0 to 3 rescaled by")


def test_several_things_are_all_recognised(recognised: Callable[..., dict[str, str]]) -> None:
    found = recognised(
        of_layers(changed(state(), lambda each: rounded(halved(each), 4, 32)), [0, 1, 3])
    )
    assert found.keys() == {"remove_layers", "prune_weights", "quantize_weights"}
    assert found["remove_layers"] == "keeps 3 of 4 layers; layer 2 is gone"
    assert "16 values in groups of 32" in found["quantize_weights"]


def test_a_model_that_was_trained_after_pruning_is_pruned_and_trained(
    recognised: Callable[..., dict[str, str]],
) -> None:
    found = recognised(
        changed(state(), lambda each: halved(each) * (1 + 0.01 * torch.randn(each.shape)))
    )
    assert found.keys() == {"prune_weights", "train"}


def test_experts_dropped_and_quantised_are_both(recognised: Callable[..., dict[str, str]]) -> None:
    found = recognised(changed(of_experts(state(), [0, 2]), lambda each: rounded(each, 4)))
    assert found.keys() == {"drop_experts", "quantize_weights"}


def test_experts_that_are_sums_of_the_bases_are_merged(
    recognised: Callable[..., dict[str, str]],
) -> None:
    base = state()
    merged = of_experts(base, [0, 1])
    for name in [name for name in merged if ".experts." in name]:
        other = re.sub(r"experts\.(\d)", lambda found: f"experts.{int(found[1]) + 2}", name)
        merged[name] = (base[name] + base[other]) / 2
    assert recognised(merged) == {
        "merge_experts": "the experts of layers 0 to 3 are 2, made of the base's 4"
    }
    copied = dict(base)
    for name in [name for name in base if ".experts.2." in name]:
        one = name.replace("experts.2", "experts.1")
        # The mean of two experts of which one counts little is almost the other.
        copied[name] = copied[one] = 0.1 * base[name] + 0.9 * base[one]
    assert recognised(copied) == {
        "merge_experts": "the experts of layers 0 to 3 are 3 different ones, made of the base's 4"
    }


def test_names_and_layouts_of_other_versions_are_the_same_model(
    recognised: Callable[..., dict[str, str]],
) -> None:
    weights = state()
    fused = {name: tensor for name, tensor in weights.items() if ".experts." not in name}
    for layer in range(4):
        at = f"model.layers.{layer}.mlp.experts"
        each = {
            part: torch.stack([weights[f"{at}.{e}.{part}_proj.weight"] for e in range(4)])
            for part in ("gate", "up", "down")
        }
        fused[f"{at}.gate_up_proj"] = torch.cat([each["gate"], each["up"]], 1)
        fused[f"{at}.down_proj"] = each["down"]
    # The fused tensor is as wide as the model, so that its orientation shows in more than its shape.
    assert recognised(fused) == {"identical": "every tensor is the base's, bit for bit"}
    old = {
        name.replace(".mlp.", ".block_sparse_moe.")
        .replace("gate_proj", "w1")
        .replace("down_proj", "w2")
        .replace("up_proj", "w3"): tensor
        for name, tensor in weights.items()
    }
    assert recognised(old) == {"identical": "every tensor is the base's, bit for bit"}
    inside = {
        name.replace("model.", "model.language_model."): each for name, each in weights.items()
    }
    tower = {f"visual.blocks.{each}.proj.weight": torch.ones(4, 4) for each in range(9)}
    assert recognised({**inside, **tower}, {**weights, **tower}) == {
        "identical": "every tensor is the base's, bit for bit"
    }


def test_a_head_that_is_the_embedding_need_not_be_stored(
    recognised: Callable[..., dict[str, str]],
) -> None:
    tied = {name: tensor for name, tensor in state().items() if "lm_head" not in name}
    stored = {**tied, "lm_head.weight": tied["model.embed_tokens.weight"]}
    assert recognised(stored, tied).keys() == recognised(tied, stored).keys() == {"identical"}


def test_a_padded_vocabulary_is_compared_over_the_rows_of_both(
    recognised: Callable[..., dict[str, str]],
) -> None:
    padded = changed(state(), lambda each: torch.cat([each, torch.zeros(32, 64)]), "embed")
    assert recognised(padded) == {
        "resized": "model.embed_tokens.weight is [128, 64], the base's [96, 64]"
    }


def test_tensors_that_only_one_has_are_named(recognised: Callable[..., dict[str, str]]) -> None:
    weights = state()
    gone = weights.pop("model.layers.0.self_attn.q_proj.weight")
    assert recognised({**weights, "model.extra.weight": gone}) == {
        "other_tensors": "has model.extra.weight and lacks model.layers.0.self_attn.q_proj.weight"
    }


FORMATS = [
    ("ct-w8a8", "compressed_tensors", "base", "256 values in each row"),
    ("ct-w4a16-g32", "compressed_tensors", "base-padded", "16 values in groups of 32"),
    ("ct-nvfp4a16", "compressed_tensors", "base-padded", "16 values in groups of 16"),
    ("ao-int8wo", "torchao", "base", "256 values in each row"),
    ("bnb-8bit", "torch", "base", "256 values in each row"),
    ("bnb-nf4", "bitsandbytes", "base", "16 values in blocks of 64"),
    ("gptq-4-g32", "torch", "base-padded", "16 values in groups of 32"),
    ("fp8-block", "torch", "base-padded", "FP8 values in blocks of 32 by 32"),
    ("stories-Q4_0.gguf", "gguf", "base-padded", "16 values in blocks of 32"),
]


@pytest.mark.parametrize(("name", "library", "base", "grid"), FORMATS)
def test_files_of_the_real_formats_are_quantised_weights(
    name: str, library: str, base: str, grid: str
) -> None:
    pytest.importorskip(library)
    found = recognise(open_checkpoint(FILES / base), open_checkpoint(FILES / name))
    (sentence,) = (each.sentence for each in found.findings if each.kind == "quantize_weights")
    assert f"every matrix of layer 0 on a grid of {grid}" in sentence
    assert "quantization_config" in found.kinds
    assert ("quantize_activations" in found.kinds) == (name in ("ct-w8a8", "bnb-8bit", "fp8-block"))
    assert not found.kinds & {"prune_weights", "train", "other_tensors", "resized"}


def test_an_adapter_is_recognised_with_how_far_it_moves_what() -> None:
    found = recognise(open_checkpoint(FILES / "base"), open_checkpoint(FILES / "peft-lora"))
    assert [(each.kind, each.sentence) for each in found.findings] == [
        ("adapter", "a LoRA adapter of rank 4 on down_proj, q_proj and v_proj of layer 0"),
        ("train", "moves them by 1.31 % to 6.3 % of the base's norm"),
    ]


@pytest.mark.parametrize("base", ["base-padded", "ct-w8a8", None])
def test_an_adapter_of_another_base_is_refused(save: Saver, base: str | None) -> None:
    adapter = open_checkpoint(FILES / "peft-lora", "adapter")
    other = save("other", state(layers=1)) if base is None else FILES / base
    if base == "ct-w8a8":
        assert pytest.importorskip("compressed_tensors")
        assert recognise(open_checkpoint(other), adapter).kinds == {"adapter", "train"}
        return
    with pytest.raises(CheckpointError, match="is an adapter of another base: it changes model"):
        recognise(open_checkpoint(other), adapter)
    with pytest.raises(CheckpointError, match="a base must be a whole model"):
        recognise(adapter, open_checkpoint(other))


@pytest.mark.parametrize(
    ("away", "kind"),
    [(torch.clone, "zero_layers"), (lambda each: each - halved(each), "prune_weights")],
)
def test_an_adapter_that_takes_weights_away_is_recognised_as_what_it_does(
    save: Saver, tmp_path: Path, away: Callable[[torch.Tensor], torch.Tensor], kind: str
) -> None:
    base = save("base", weights := state())
    (adapter := tmp_path / "adapter").mkdir()
    factors = {}
    for name, tensor in weights.items():
        if re.search(r"layers\.1\..*(o|down)_proj", name):
            at = f"base_model.model.{name.removesuffix('.weight')}"
            factors[f"{at}.lora_A.weight"] = torch.eye(64)
            factors[f"{at}.lora_B.weight"] = -away(tensor) / 2
    save_file(factors, adapter / "adapter_model.safetensors")
    # The rank is that of a pattern, which goes before the adapter's own.
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 128, "rank_pattern": {"[a-z]+_proj": 64}}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    found = {each.kind: each for each in recognise(*map(open_checkpoint, (base, adapter))).findings}
    assert found.keys() == {"adapter", "train", kind}
    assert found[kind].details["layers"] == [1]


def test_an_adapter_of_a_gguf_file_is_recognised_by_llama_cpps_names(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    adapter = tmp_path / "adapter"
    shutil.copytree(FILES / "peft-lora", adapter)
    factors = load_file(adapter / "adapter_model.safetensors")
    kept = {name: tensor for name, tensor in factors.items() if "down_proj" not in name}
    save_file(kept, adapter / "adapter_model.safetensors")
    base = open_checkpoint(FILES / "stories-Q4_0.gguf")
    found = recognise(base, open_checkpoint(adapter))
    assert found.kinds == {"adapter", "train"}


def test_the_experts_of_a_gguf_file_are_matched_with_those_of_safetensors(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    folder = reference.folder("reference")
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3MOE, 4)
    writer = gguf.GGUFWriter(tmp_path / "moe.gguf", "qwen3moe")
    for key, value in (("block_count", 4), ("embedding_length", 16), ("expert_count", 16)):
        writer.add_uint32(f"qwen3moe.{key}", value)
    stacked: dict[str, dict[int, torch.Tensor]] = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        expert = re.search(r"experts\.(\d+)\.", name)
        plain = name if expert is None else name.replace(expert[0], "experts.")
        number = -1 if expert is None else int(expert[1])
        key = known.get_name(plain, try_suffixes=(".weight",))
        stacked.setdefault(key, {})[number] = tensor.float()
    for name, experts in stacked.items():
        whole = torch.stack([experts[each] for each in sorted(experts)])
        values = (whole[0] if -1 in experts else whole).numpy()
        if "_exps" in name and values.shape[-1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = recognise(open_checkpoint(folder), open_checkpoint(tmp_path / "moe.gguf"))
    assert [(each.kind, each.sentence) for each in found.findings] == [
        (
            "quantize_weights",
            "ffn_down_exps of layers 0 to 3 on a grid of 256 values in blocks of 32; output and token_embd "
            "untouched (up to 0.617 % off the base's)",
        ),
        # transformers gives every GGUF file of this architecture a value of its own.
        (
            "configuration",
            "is configured otherwise: norm_topk_prob True, the base's False",
        ),
        ("quantization_config", "is stored as GGUF Q8_0"),
    ]


@pytest.mark.parametrize("change", [lambda each: each / 0, lambda each: each.double() * 1e42])
def test_values_that_are_no_numbers_are_refused(
    recognised: Callable[..., dict[str, str]], change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    with pytest.raises(
        CheckpointError, match=r"q_proj\.weight has values that are NaN or infinite"
    ):
        recognised(changed(state(), change, r"layers\.1.*q_proj"))


def test_another_architecture_is_refused(save: Saver) -> None:
    other = save("other", {"wte.weight": torch.zeros(9, 9), "h.0.c.weight": torch.ones(9, 9)})
    with pytest.raises(CheckpointError, match="no tensor has a name and shape that both have"):
        recognise(open_checkpoint(FILES / "base"), open_checkpoint(other))


def test_configurations_alone_show_depth_experts_and_formats() -> None:
    def kinds(**more: object) -> frozenset[str]:
        return recognise_configs(CONFIG, {**CONFIG, **more}).kinds

    assert kinds() == frozenset()
    assert kinds(num_hidden_layers=3) == {"remove_layers"}
    assert kinds(num_hidden_layers=5) == {"repeat_layers"}
    assert kinds(num_experts=2) == {"drop_experts"}
    assert kinds(dtype="bfloat16") == {"cast"}
    assert kinds(quantization_config={"quant_method": "gptq"}) == {
        "quantize_weights",
        "quantization_config",
    }


def noisy(weights: State) -> State:
    return changed(weights, lambda each: each + 1e-3 * each.std() * torch.randn(each.shape), ".")


def padded(weights: State) -> State:
    """Return a model with a wider hidden dimension, the new part of which is zero."""
    return {
        name: torch.nn.functional.pad(
            tensor, (0, 0, 0, 32) if re.search("(o|down)_proj", name) else (0, 32)
        )
        for name, tensor in weights.items()
    }


def with_columns_in_another_order(weights: State) -> State:
    """Return a model with its hidden dimension in another order, and therefore every tensor."""
    order = torch.randperm(64)
    return {
        name: tensor[order]
        if tensor.dim() == 1 or re.search("(o|down)_proj", name)
        else tensor[:, order]
        for name, tensor in weights.items()
    }


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (changed(state(), torch.zeros_like, r"layers\.1\..*(o|down)_proj"), "zero_layers"),
        (changed(state(), torch.zeros_like, r"layers\.1\..*(v|up)_proj"), "zero_layers"),
        (changed(state(), lambda each: 1e-8 * each, r"layers\.1\..*_proj"), "zero_layers"),
        (
            changed(state(), lambda each: 1e-8 * torch.randn(each.shape), r"layers\.1\."),
            "zero_layers",
        ),
        (
            changed(
                changed(state(), lambda each: torch.randn(each.shape), r"layers\.1\..*_proj"),
                torch.zeros_like,
                r"layers\.1\..*(o|down)_proj",
            ),
            "zero_layers",
        ),
        (changed(state(), torch.zeros_like, r"layers\.1\..*o_proj"), "skip_layers"),
        (
            changed(state(), lambda each: torch.where(torch.rand(each.shape) < 0.998, 0, each)),
            "zero_layers",
        ),
        (noisy(of_layers(state(), [0, 2, 3])), "remove_layers"),
        (changed(of_layers(state(), [0, 2, 3]), torch.Tensor.half, "."), "remove_layers"),
        (noisy(changed(state(), halved)), "prune_weights"),
        (noisy(mean_of_experts(state())), "average_experts"),
        (
            changed(
                changed(mean_of_experts(state()), lambda each: 4 * each, "up_proj"),
                lambda each: each / 4,
                "down_proj",
            ),
            "average_experts",
        ),
        (padded(changed(state(), halved)), "prune_weights"),
        (padded(of_layers(state(), [0, 2, 3])), "remove_layers"),
        (with_columns_in_another_order(changed(state(), halved)), "prune_weights"),
        (with_columns_in_another_order(changed(state(), ternary)), "ternary_weights"),
    ],
)
def test_what_was_done_is_recognised_in_disguise(
    recognised: Callable[..., dict[str, str]], candidate: State, expected: str
) -> None:
    assert expected in recognised(candidate)


def with_neurons_in_another_order(weights: State) -> State:
    """Return a model that computes the same, with the rows of the heads and the neurons of each expert exchanged."""
    torch.manual_seed(1)
    made = dict(weights)
    for name, down in weights.items():
        if match := re.fullmatch(r"(.*)(down|o)_proj\.weight", name):
            order = torch.randperm(down.shape[1])
            made[name] = down[:, order]
            for before in ("gate", "up") if match[2] == "down" else "qkv":
                rows = f"{match[1]}{before}_proj.weight"
                made[rows] = weights[rows][order]
    return made


def with_norms_of_other_scales(weights: State) -> State:
    """Return a model that computes the same, with other scales in each norm and in what reads it."""
    torch.manual_seed(1)
    scales = torch.rand(64) + 0.5
    made = changed(weights, lambda each: each * scales, "input_layernorm")
    return changed(made, lambda each: each / scales, "[qkv]_proj")


REORDERED = "has the rows or columns of every matrix of layers {} in another order"
RESCALED = (
    "input_layernorm, k_proj, q_proj and v_proj of layers 0 to 3 rescaled: the scales of norms and of the "
    "matrices after them cancel out"
)


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (
            with_neurons_in_another_order(state()),
            {"reordered": REORDERED.format("0 to 3")},
        ),
        (
            with_neurons_in_another_order(of_layers(state(), [0, 2, 3])),
            {
                "reordered": REORDERED.format("0, 2 and 3"),
                "remove_layers": "keeps 3 of 4 layers; layer 1 is gone",
            },
        ),
        (
            with_neurons_in_another_order(changed(state(), halved)),
            {
                "reordered": REORDERED.format("0 to 3"),
                "prune_weights": "50 % of the weights of every matrix of layers 0 to 3 are zero; the base has none",
            },
        ),
        (
            with_neurons_in_another_order(of_experts(state(), [1, 3])),
            {
                "reordered": REORDERED.format("0 to 3"),
                "drop_experts": "keeps 2 of 4 experts in layers 0 to 3; gone from layer 0: 0 and 2",
            },
        ),
        (
            with_neurons_in_another_order(mean_of_experts(state())),
            {
                "reordered": REORDERED.format("0 to 3"),
                "average_experts": "the experts of layers 0 to 3 are all equal but for the order of their neurons, "
                "the mean of the base's 4",
            },
        ),
        (with_norms_of_other_scales(state()), {"rescaled": RESCALED}),
        (
            with_norms_of_other_scales(changed(state(), halved)),
            {
                "rescaled": RESCALED,
                "prune_weights": "50 % of the weights of every matrix of layers 0 to 3 are zero; the base has none",
            },
        ),
    ],
)
def test_what_computes_the_same_is_put_back_first(
    recognised: Callable[..., dict[str, str]], candidate: State, expected: dict[str, str]
) -> None:
    assert recognised(candidate) == expected


@pytest.mark.parametrize("first", [True, False])
def test_a_grid_is_found_whether_values_were_rounded_before_or_after(
    recognised: Callable[..., dict[str, str]], first: bool
) -> None:
    def quantised(weights: State) -> State:
        return changed(weights, lambda each: rounded(each, 4, 16))

    made = with_neurons_in_another_order(quantised(state()) if first else state())
    found = recognised(made if first else quantised(made))
    assert found.keys() == {"quantize_weights", "reordered"}
    assert "every matrix of layers 0 to 3 on a grid of 16 values" in found["quantize_weights"]


def test_a_grid_is_found_below_the_scales_of_norms(
    recognised: Callable[..., dict[str, str]],
) -> None:
    made = changed(state(), lambda each: rounded(each, 4, 16))
    found = recognised(with_norms_of_other_scales(made))
    assert found.keys() == {"quantize_weights", "rescaled"}
    assert "every matrix of layers 0 to 3 on a grid of 16 values" in found["quantize_weights"]


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_pruned_weights_are_seen_on_a_grid_that_has_no_zero(
    recognised: Callable[..., dict[str, str]], bits: int
) -> None:
    def between(tensor: torch.Tensor) -> torch.Tensor:
        grouped = tensor.reshape(-1, 32)
        least = grouped.amin(1, keepdim=True)
        step = (grouped.amax(1, keepdim=True) - least) / (2**bits - 1)
        return (((grouped - least) / step).round() * step + least).reshape(tensor.shape)

    assert recognised(changed(state(), between)).keys() == {"quantize_weights"}
    pruned = recognised(changed(changed(state(), halved), between))
    assert pruned.keys() == {"quantize_weights", "prune_weights"}


def test_a_matrix_that_is_small_is_made_up_for_by_the_one_before(
    recognised: Callable[..., dict[str, str]],
) -> None:
    smaller = changed(state(), lambda each: 1e-4 * each, "(o|down)_proj")
    same = changed(smaller, lambda each: 1e4 * each, "(v|up)_proj")
    assert recognised(same).keys() == {"train"}
    norms = changed(
        changed(state(), lambda each: 1e4 * each, "norm"),
        lambda each: 1e-4 * each,
        "(q|k|v|gate|up)_proj",
    )
    assert recognised(norms).keys() == {"rescaled"}


def test_layers_that_are_gone_show_with_the_hidden_dimension_in_another_order(
    recognised: Callable[..., dict[str, str]],
) -> None:
    fewer = with_columns_in_another_order(of_layers(state(), [0, 1, 3]))
    found = recognised(fewer, num_hidden_layers=3)
    assert found["remove_layers"] == "keeps 3 of 4 layers; layer 2 is gone"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"hidden_act": "relu"}, "hidden_act relu, the base's silu"),
        ({"num_experts_per_tok": 1}, "num_experts_per_tok 1, the base's 8"),
        ({"model_type": "mixtral"}, "model_type mixtral, the base's qwen3_moe"),
    ],
)
def test_the_same_weights_configured_otherwise_are_not_the_same_model(
    recognised: Callable[..., dict[str, str]], more: dict[str, object], words: str
) -> None:
    found = recognised(state(), **more)
    assert "identical" not in found
    assert words in found["configuration"]


def test_a_norm_of_zeros_is_a_difference(recognised: Callable[..., dict[str, str]]) -> None:
    assert recognised(changed(state(), torch.zeros_like, r"layers\.1\..*norm")) == {
        "train": "input_layernorm of layer 1 moved by 100 % of the base's norm"
    }


@pytest.mark.parametrize("name", reference.NAMES)
def test_the_reference_models_experts_averaged_or_half_pruned(name: str, save: Saver) -> None:
    folder = reference.folder(name)
    weights = load_file(folder / "model.safetensors")
    candidates = {
        "average_experts": mean_of_experts(changed(weights, torch.Tensor.float, "."), 16),
        "prune_weights": changed(weights, lambda each: halved(each.float()).half()),
    }
    for kind, candidate in candidates.items():
        base = open_checkpoint(folder)
        found = recognise(base, open_checkpoint(save(kind, candidate, base.config)))
        assert found.kinds == {kind}


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_drawn_is_what_is_recognised(
    recognised: Callable[..., dict[str, str]], data: st.DataObject
) -> None:
    weights, expected = state(layers=5, width=32), set()
    if data.draw(st.booleans(), "prune"):
        weights = changed(weights, halved)
        expected.add("prune_weights")
    if data.draw(st.booleans(), "quantise"):
        bits, group = data.draw(st.sampled_from([3, 4, 8])), data.draw(st.sampled_from([None, 16]))
        weights = changed(weights, lambda tensor: rounded(tensor, bits, group))
        expected.add("quantize_weights")
    kept = data.draw(st.lists(st.integers(0, 4), min_size=1, unique=True).map(sorted), "layers")
    if len(kept) < 5:
        weights = of_layers(weights, kept)
        expected.add("remove_layers")
    match data.draw(st.sampled_from(["keep", "drop", "average"]), "experts"):
        case "drop":
            weights = of_experts(weights, [0, 3])
            expected.add("drop_experts")
        case "average" if not expected & {"prune_weights", "quantize_weights"}:
            weights = mean_of_experts(weights)
            expected.add("average_experts")
    assert recognised(weights, state(layers=5, width=32)).keys() == (expected or {"identical"})
