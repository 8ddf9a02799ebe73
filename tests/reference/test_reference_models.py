"""The shipped models: what they are, that they are whole, and that they work."""

import hashlib
import json
import os
import re
import stat

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from pytest_layerguard.reference import HELDOUT, MANIFEST, NAMES, folder, manifest
from pytest_layerguard.reference import initial_weights as initial
from pytest_layerguard.reference.initial_weights import (
    InitialWeightsError,
    initial_model,
    initial_weights,
    weights_digest,
)
from tools.reference_models.checkpoint import load
from tools.reference_models.evaluate import expert_shares, perplexity, sample, token_losses
from tools.reference_models.figures import figures
from tools.reference_models.text import END_OF_TEXT, heldout_ids

WIDTHS = {"reference": 16, "reference-wide": 64}


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def loaded(name):
    return load(folder(name))


@pytest.fixture(scope="module")
def measured(name):
    return json.loads((figures(name) / "measured.json").read_text())


def test_the_shape_is_the_bets_own(name):
    model = AutoModelForCausalLM.from_pretrained(folder(name), local_files_only=True)
    config = model.config
    assert config.model_type == "qwen3_moe"
    assert (config.num_hidden_layers, config.num_experts, config.num_experts_per_tok) == (4, 16, 1)
    assert config.norm_topk_prob is False
    assert config.hidden_size == WIDTHS[name]
    assert {p.dtype for p in model.parameters()} == {torch.float16}


def test_nothing_in_a_model_folder_is_code_or_private(name):
    names = {path.name for path in folder(name).iterdir()}
    assert names == {
        "README.md", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert "auto_map" not in json.loads((folder(name) / "config.json").read_text())


@pytest.mark.skipif(os.name != "posix", reason="permissions are posix")
def test_everybody_can_read_the_files(name):
    for path in (MANIFEST, HELDOUT, *folder(name).iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444, path


def test_transformers_4_finds_what_it_looks_for(name):
    config = json.loads((folder(name) / "config.json").read_text())
    assert config["num_experts"] == 16
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 10_000.0
    assert config["torch_dtype"] == config["dtype"] == "float16"
    tokenizer = json.loads((folder(name) / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
    with safe_open(folder(name) / "model.safetensors", "pt") as weights:
        assert "model.layers.3.mlp.experts.15.down_proj.weight" in weights.keys()  # noqa: SIM118


@pytest.mark.parametrize(
    ("key", "file"),
    [("weights", "model.safetensors"), ("config", "config.json"), ("tokenizer", "tokenizer.json")],
)
def test_the_manifest_has_the_digests_of_the_files(name, key, file):
    found = hashlib.sha256((folder(name) / file).read_bytes()).hexdigest()
    assert manifest()["models"][name][key] == f"sha256:{found}"


def test_all_of_it_is_small():
    files = [path for name in NAMES for path in folder(name).rglob("*")] + [HELDOUT, MANIFEST]
    assert sum(path.stat().st_size for path in files) <= 10_000_000


def test_the_heldout_text_is_long_enough(loaded):
    ids = heldout_ids(loaded[1])
    assert len(ids) == manifest()["heldout"]["tokens"]
    assert len(ids) >= 16_000


def test_the_tokenizer_adds_nothing_by_default(loaded):
    assert isinstance(loaded[1], PreTrainedTokenizerFast)
    ids = loaded[1]("Once upon a time").input_ids
    assert loaded[1].eos_token == END_OF_TEXT
    assert loaded[1].eos_token_id == 0
    assert 0 not in ids
    assert loaded[1](END_OF_TEXT).input_ids == [0]


def test_the_tokenizer_loads_by_itself(name):
    tokenizer = AutoTokenizer.from_pretrained(folder(name), local_files_only=True)
    assert len(tokenizer) == 1024


def test_it_knows_the_heldout_text(loaded, measured):
    model, tokenizer = loaded
    ids = heldout_ids(tokenizer)
    found = perplexity(model, ids)
    assert found == pytest.approx(measured["base"]["perplexity"], rel=1e-3)
    assert found < 2.5
    # A model that had learned no more than how often a token comes would be far above this.
    shuffled = [ids[i] for i in torch.randperm(len(ids), generator=torch.manual_seed(0))]
    assert perplexity(model, shuffled) > 50 * found


def test_what_it_reads_early_in_a_window_helps_it_later(loaded):
    losses = token_losses(loaded[0], heldout_ids(loaded[1]))
    assert losses[:, 64:].mean() < 0.8 * losses[:, :16].mean()


def test_every_expert_is_used_in_every_layer(loaded):
    shares = expert_shares(loaded[0], heldout_ids(loaded[1]))
    assert len(shares) == 4
    assert all(len(layer) == 16 and min(layer) > 0 for layer in shares)


def test_the_routers_read_the_text(loaded):
    # Experts chosen by position or at random would not follow the token.
    model, tokenizer = loaded
    for a, b in zip(model.get_decoder().layers, model.get_decoder().layers[1:], strict=False):
        assert not torch.equal(a.mlp.gate.weight, b.mlp.gate.weight)
    chosen = []
    hook = (
        model.get_decoder()
        .layers[0]
        .mlp.gate.register_forward_hook(
            lambda module, inputs, output: chosen.append(output[2].flatten())
        )
    )
    try:
        token_losses(model, ids := heldout_ids(tokenizer))
    finally:
        hook.remove()
    experts, tokens = chosen[0], torch.tensor(ids[: len(chosen[0])])
    agreeing = sum(
        int(experts[tokens == token].bincount().max()) for token in tokens.unique().tolist()
    )
    assert agreeing / len(tokens) > 2 * float(experts.bincount().max()) / len(tokens)


def test_it_tells_a_story(loaded, measured):
    model, tokenizer = loaded
    spoken = sample(model, tokenizer)
    assert len(spoken) == 100
    assert 0 not in spoken
    assert len(set(spoken)) >= 30
    # Another processor may take another way at a near tie, and then writes another story.
    assert len(set(spoken)) == pytest.approx(measured["base"]["unique_tokens"], abs=20)
    known = set(re.findall(r"\w+", HELDOUT.read_text(encoding="utf-8")))
    words = re.findall(r"\w+", tokenizer.decode(spoken))[:-1]
    assert sum(word in known for word in words) > 0.9 * len(words)


def test_the_model_before_training_is_untrained_and_the_recipes(name, loaded):
    model = initial_model(name)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    weights = initial_weights(model.config, seed=0)
    assert weights_digest(weights) == manifest()["models"][name]["initial"]
    down = weights["model.layers.2.mlp.experts.5.down_proj.weight"]
    assert torch.equal(model.get_decoder().layers[2].mlp.experts.down_proj[5], down)
    assert [tuple(p.shape) for p in model.parameters()] == [
        tuple(p.shape) for p in loaded[0].parameters()
    ]
    assert perplexity(model, heldout_ids(loaded[1])) > 500


def test_the_initial_weights_are_the_same_on_every_machine():
    # A uniform draw of 24 bits each: exact in fp32, whatever the processor.
    config = AutoConfig.from_pretrained(folder("reference"), local_files_only=True)
    drawn = initial_weights(config, seed=0)["model.embed_tokens.weight"]
    bound = 0.125 * 3**0.5
    units = (drawn.double() / torch.tensor(bound).double() + 1) / 2 * 2**24
    assert float((units - units.round()).abs().max()) < 2
    assert drawn.abs().max() <= bound
    assert drawn.std() == pytest.approx(0.125, rel=0.02)


def test_a_torch_that_draws_otherwise_is_reported(monkeypatch):
    monkeypatch.setattr(initial, "initial_weights", lambda config, seed: {"x": torch.ones(2)})
    with pytest.raises(InitialWeightsError, match=r"reference@init cannot be rebuilt.*torch"):
        initial_model("reference")


def test_an_unknown_model_has_no_beginning():
    with pytest.raises(KeyError):
        initial_model("refrence")
