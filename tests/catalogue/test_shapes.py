"""What a configuration says of a model."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support import families

from pytest_layerguard import reference
from pytest_layerguard.catalogue import model_facts
from pytest_layerguard.catalogue.model_facts import ModelFacts, ModelFactsError

if TYPE_CHECKING:
    from pathlib import Path

TINY = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 100,
}


@pytest.mark.parametrize("name", reference.NAMES)
def test_the_shape_of_a_reference_model_is_what_its_configuration_builds(name: str) -> None:
    config = json.loads((reference.folder(name) / "config.json").read_text(encoding="utf-8"))
    shape = model_facts.facts_of_reference(name)
    assert shape == model_facts.facts_of_config(config, None)
    assert (shape.layers, shape.experts) == (4, 16)


def test_the_shape_of_a_reference_model_costs_no_import_of_torch() -> None:
    code = (
        "import sys; from pytest_layerguard.catalogue import ask, audit, judge, model_facts, summary; "
        "model_facts.facts_of_reference('reference'); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'pytest')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # Embedding and head are 3,200 each; tied, they are one.
        ({"model_type": "llama", **TINY, "tie_word_embeddings": False}, (27_040, 2, 0, 32)),
        ({"model_type": "llama", **TINY, "tie_word_embeddings": True}, (23_840, 2, 0, 32)),
        ({"model_type": "gpt2", "n_layer": 3, "n_embd": 32, "n_head": 4}, (None, 3, 0, 32)),
        ({"model_type": "gpt2"}, (124_439_808, 12, 0, 768)),
        ({"model_type": "mixtral", **TINY, "num_local_experts": 5}, (None, 2, 5, 32)),
        ({"model_type": "qwen3_moe", **TINY, "num_experts": 6}, (None, 2, 6, 32)),
        ({"model_type": "qwen3_moe", **TINY}, (None, 2, 128, 32)),
        ({"model_type": "granitemoe", **TINY, "num_local_experts": 3}, (None, 2, 3, 32)),
        ({"model_type": "gpt_oss", **TINY, "num_local_experts": 3}, (None, 2, 3, 32)),
    ],
    ids=lambda value: str(value)[:60],
)
def test_shapes(config: dict[str, Any], expected: tuple[int | None, int, int, int]) -> None:
    shape = model_facts.facts_of_config(config, None)
    parameters, layers, experts, hidden_size = expected
    assert shape.body == (layers, hidden_size, experts)
    assert shape.families == (config["model_type"],)
    if parameters is not None:
        assert shape.parameters == parameters


NAMED_AS_LLAMA = {
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "qwen3-tied",
    "gemma2",
    "phi3",
    "olmo",
    "olmo2",
    "olmo3",
    "cohere",
    "granite",
    "mixtral",
    "qwen3_moe",
    "olmoe",
    "flex_olmo",
}


def test_the_headers_of_a_folder_say_what_its_configuration_builds(tmp_path: Path) -> None:
    reported = set()
    for family in families.FAMILIES:
        folder = tmp_path / family
        families.model(family).save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        facts = model_facts.facts_of_headers(folder, config)
        if facts is not None:
            reported.add(family)
            assert facts == model_facts.facts_of_config(config, None), family
    assert reported == NAMED_AS_LLAMA


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 5},
        {"vocab_size": 97},
        {"hidden_size": None},
        {"model_type": "unheard_of"},
        {"model_type": "../llama"},
        {"quantization_config": {"quant_method": "fp8"}},
        {"tie_word_embeddings": None},
    ],
    ids=str,
)
def test_headers_that_leave_a_doubt_say_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    families.model("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert model_facts.facts_of_headers(tmp_path, config) is not None
    changed = {key: value for key, value in {**config, **change}.items() if value is not None}
    assert model_facts.facts_of_headers(tmp_path, changed) is None


def test_keys_that_only_say_how_a_model_is_run_change_nothing() -> None:
    config = {"model_type": "llama", **TINY}
    plain = model_facts.facts_of_config(config, None)
    for key, value in {
        "auto_map": {"AutoModelForCausalLM": "ORG/NAME--evil.Model"},
        "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
        "_attn_implementation": "flash_attention_2",
        "torch_dtype": "float16",
    }.items():
        assert model_facts.facts_of_config({**config, key: value}, None) == plain


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({}, "no model_type"),
        ({"model_type": "no-such-thing"}, "transformers cannot build it"),
        ({"model_type": "llama", **TINY, "hidden_size": "wide"}, "transformers cannot build it"),
        ({"model_type": "llama", "num_hidden_layers": 10**9}, "too many to build"),
        ({"model_type": "llama", "text_config": {"n_layer": 1e12}}, "too many to build"),
        ({"model_type": "bert"}, None),
        ({"model_type": "clip"}, "transformers cannot build it"),
        ({"model_type": "llama", "note": "x" * 1_000_000}, "more than 1,000,000 characters"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_built_is_reported_in_one_line(
    config: dict[str, Any], said: str | None
) -> None:
    if said is None:
        assert model_facts.facts_of_config(config, None).layers
        return
    with pytest.raises(ModelFactsError) as error:
        model_facts.facts_of_config(config, None)
    assert said in str(error.value)
    assert str(error.value).isprintable()


def test_a_shape_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {"model_type": "llama", **TINY}
    first = model_facts.facts_of_config(config, tmp_path)
    (kept,) = (tmp_path / "shapes").iterdir()

    def refuse(_: object) -> ModelFacts:
        raise AssertionError("built a second time")

    monkeypatch.setattr(model_facts, "_built", refuse)
    assert model_facts.facts_of_config(dict(reversed(config.items())), tmp_path) == first
    with pytest.raises(AssertionError, match="built a second time"):
        model_facts.facts_of_config({**config, "vocab_size": 101}, tmp_path)
    for damage in ("", "[]", '{"layers": 1}', '{"wings": 2, "families": []}'):
        kept.write_text(damage, encoding="utf-8")
        with pytest.raises(AssertionError, match="built a second time"):
            model_facts.facts_of_config(config, tmp_path)


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "shapes").write_text("in the way", encoding="utf-8")
    assert model_facts.facts_of_config({"model_type": "llama", **TINY}, tmp_path).layers == 2
