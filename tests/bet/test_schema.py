from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from pytest_layerguard.bet.arguments import BUILTIN_KINDS
from pytest_layerguard.bet.bet import Bet
from pytest_layerguard.bet.errors import BetFileError
from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.bet.schema import SHIPPED, bet_schema, main, written
from pytest_layerguard.bet.yaml import read_documents

SCHEMA = bet_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
BETS = Path(__file__).parents[2] / "bets"

FULL = """\
id: bet-1
title: Everything
claim: It holds.
status: falsified
model: {hub: org/name, revision: unpinned, dtype: float32, device_map: auto,
        attn_implementation: sdpa, placement: stream}
arms:
  one: {skip_layers: {layers: 3}}
  two:
    - {average_experts: {layers: [0, -1]}}
    - {train: {steps: 200, lr: 5e-5, optimizer: adamw, text: {reference: training}, batch: 8}}
measure:
  texts:
    held: {reference: heldout}
    file: {file: a.txt, sha256: DIGEST}
    hub: {dataset: org/name, config: c, split: test, column: text, revision: unpinned, join: " "}
    local: {dataset: parquet, file: a.parquet, column: text}
  tokens: 1e3
  window: 128
  stride: 64
  bos: always
  positions: last
  max_base_perplexity: none
  sample: {prompts: [a, b], tokens: 10}
  speak: {prompts: [a], tokens: 10, temperature: 0.5, seed: 1}
criteria: {lenient: any(perplexity_ratio <= 3)}
closes: {interventions: [skip_layers], models: parameters <= 1e8}
evidence: [{source: s, model: m, text: t, verdict: STRICT, base: {kl: 1}, variants: {a b: {kl: 2}},
            note: n}]
needs: {gpu: 24GiB, memory: 1024}
challenges: [bet-2]
acknowledges: [bet-3]
placeholders: [strict]
amends: {digest: "sha256:DIGEST", because: a typo}
links: ["https://example.org/a?b"]
notes: more
""".replace("DIGEST", "ab" * 32)

KINDS = [
    {"skip_layers": {"layers": {"each": [0, 1]}}},
    {"skip_layers": {"layers": {"each": "all"}, "part": "attention"}},
    {"zero_layers": {"layers": "all", "keep": "none", "part": "feed_forward"}},
    {"reinitialize_layers": {"layers": {"each": "all"}, "seed": 1}},
    {"repeat_layers": {"layers": 1, "times": 3}},
    {"merge_layers": {"layers": {"each": [0, 1]}, "count": 2}},
    {"replace_layers": {"pairs": {"each": {"max_gap": 3}}}},
    {"interchange_layers": {"pairs": [[4, 5], [8, 9]]}},
    {"interchange_layers": {"pairs": {"each": "adjacent"}}},
    {"remove_layers": {"count": 3, "guided_by": "interchange"}},
    {"remove_layers": {"layers": [1, 2]}},
    {"remove_layers": {"count": 1, "guided_by": "perplexity", "rescored": True, "protect": [0, -1],
                       "spacing": 3, "text": {"reference": "training"}}},
    {"remove_layers": {"count": 2, "guided_by": "angular_distance", "contiguous": True}},
    {"average_experts": {}},
    {"drop_experts": {"count": 4}},
    {"drop_experts": {"count": 4, "by": "reap", "text": {"reference": "training"}}},
    {"merge_experts": {"count": 8, "by": "weights", "weighted": "uniform"}},
    {"ternary_weights": {"scale": "group", "group_size": 64, "parts": "experts"}},
    {"prune_weights": {"sparsity": 0.5, "by": "random", "seed": 3}},
    {"prune_weights": {"pattern": "2:4", "by": "wanda", "text": {"reference": "training"}}},
    {"quantize_weights": {"bits": 4, "symmetric": False, "clip": "mse"}},
    {"quantize_weights": {"format": "nvfp4"}},
    {"quantize_activations": {"format": "fp8", "parts": "experts"}},
    {"quantize_kv_cache": {"bits": 2, "keys": "channel", "group_size": 32, "residual": 128}},
    {"low_rank": {"ratio": 0.5, "by": "activations", "text": {"reference": "training"}}},
    {"train": {"steps": 2, "text": [{"reference": "training"}], "objective": "layer_output",
               "layers": {"each": "all"}}},
    {"load_checkpoint": {"path": "candidate", "as": "stored", "dtype": "bfloat16"}},
    {"load_checkpoint": {"hub": "a/b", "revision": "a" * 40}},
    {"load_checkpoint": {"gguf": "a.gguf", "sha256": "a" * 64}},
    {"load_checkpoint": {"adapter": "lora"}},
    {"cast": {"dtype": "bfloat16"}},
]  # fmt: skip
MODELS = [
    "reference",
    {"reference": "reference-wide"},
    {"path": "../model"},
    {"gguf": "a.gguf", "sha256": "a" * 64},
    {"paths": {"a": "x", "b": "y"}},
    {"hub": "a/b", "revision": "a" * 40},
    {"hub": "a/b", "revisions": {"a": "a" * 40}},
    {"reference": "reference", "revisions": {"a": "init"}},
]


def data_of(text: str) -> dict[str, object]:
    (document,), fault = read_documents(text)
    assert fault is None
    assert not document.faults
    return document.data


def is_read(data: object) -> bool:
    try:
        parse_bets(yaml.safe_dump(data, allow_unicode=True), Path("a.yaml"))
    except BetFileError:
        return False
    return True


def test_the_shipped_schema_is_the_generated_one():
    assert SHIPPED.read_text(encoding="utf-8") == written(SCHEMA), (
        "run: python -m pytest_layerguard.bet.schema"
    )


def is_taken(data: object) -> bool:
    """Whether the models take it; much faster than writing it as YAML and reading that."""
    try:
        Bet.model_validate(data)
    except ValidationError:
        return False
    return True


def test_it_is_written_by_its_command(tmp_path, monkeypatch):
    monkeypatch.setattr("pytest_layerguard.bet.schema.SHIPPED", tmp_path / "schema.json")
    main()
    assert json.loads((tmp_path / "schema.json").read_text()) == SCHEMA


def test_the_schema_is_one():
    Draft202012Validator.check_schema(SCHEMA)


def test_every_key_and_kind_is_in_the_schema():
    assert set(SCHEMA["properties"]) == set(Bet.model_fields)
    assert set(SCHEMA["$defs"]["Intervention"]["properties"]) == set(BUILTIN_KINDS)
    for kind, arguments in BUILTIN_KINDS.items():
        reference = SCHEMA["$defs"]["Intervention"]["properties"][kind]["$ref"]
        definition = SCHEMA["$defs"][reference.rpartition("/")[2]]
        fields = arguments.model_fields.items()
        assert set(definition["properties"]) == {field.alias or name for name, field in fields}


def test_every_key_says_what_it_is_for():
    for name, definition in {"Bet": SCHEMA, **SCHEMA["$defs"]}.items():
        definition = definition.get("anyOf", [definition])[-1]
        for key, meaning in definition.get("properties", {}).items():
            assert name == "Intervention" or meaning.get("description"), f"{name}.{key}"


def good_bets() -> Iterator[dict[str, object]]:
    full = data_of(FULL)
    yield full
    for kind in KINDS:
        yield {**{key: full[key] for key in full if key != "arms"}, "intervention": kind}
        yield {**full, "arms": {"one": [kind]}}
    for model in MODELS:
        yield {**full, "model": model}
    for path in sorted(BETS.rglob("*.yaml")):
        documents, _ = read_documents(path.read_text(encoding="utf-8"))
        yield from (document.data for document in documents)


@pytest.mark.parametrize("data", list(good_bets()), ids=str)
def test_a_good_bet_is_good_by_both(data):
    assert is_read(data)
    VALIDATOR.validate(data)


WRONG = [None, True, 3, 1.5, -1, "", "wrong\x07", [], ["x"], {}, {"x": 1}, 10**6]


def places(value: object, at: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*at, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*at, key))


def changed(data: dict[str, object], at: tuple[object, ...], value: object) -> dict[str, object]:
    result = copy.deepcopy(data)
    holder: object = result
    for step in at[:-1]:
        holder = holder[step]  # type: ignore[index]
    holder[at[-1]] = value  # type: ignore[index]
    return result


def malformed() -> Iterator[dict[str, object]]:
    full = data_of(FULL)
    for at in places(full):
        for value in WRONG:
            yield changed(full, at, value)
        if isinstance(at[-1], str):
            yield changed(full, (*at[:-1], f"{at[-1]}x"), 1)
    for kind in KINDS:
        alone = {**{key: full[key] for key in full if key != "arms"}, "intervention": kind}
        ((name, arguments),) = kind.items()
        for at in places(arguments):
            for value in WRONG:
                yield changed(alone, ("intervention", name, *at), value)


def test_hundreds_of_malformed_bets_are_refused_by_the_reader_wherever_the_schema_does():
    refused = tried = 0
    for data in malformed():
        tried += 1
        if not VALIDATOR.is_valid(data):
            refused += 1
            assert not is_taken(data), data
            assert tried % 20 or not is_read(data), data
    assert tried > 1_000
    assert refused > 700


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (("id",), "Bet"),
        (("status",), "open"),
        (("model",), "refrence"),
        (("model",), {"hub": "a/b"}),
        (("model",), {"path": "a", "hub": "b/c", "revision": "unpinned"}),
        (("arms",), {}),
        (("arms",), {"any": {"skip_layers": {"layers": 3}}}),
        (("arms",), {"a-b": {"skip_layers": {"layers": 3}}}),
        (("arms",), {"a": {"skip_layer": {"layers": 3}}}),
        (("arms",), {"a": {"skip_layers": {"layers": 3}, "average_experts": {}}}),
        (("arms",), {"a": {"skip_layers": {"layers": {"each": 3}}}}),
        (("arms",), {"a": {"replace_layers": {"pairs": "all"}}}),
        (("arms",), {"a": {"quantize_weights": {"bits": 9}}}),
        (("intervention",), {"skip_layers": {"layers": 3}}),
        (("measure", "tokens"), 0),
        (("measure", "texts"), {"kl": {"reference": "heldout"}}),
        (("measure", "texts"), {"a": {"reference": "test"}}),
        (("measure", "max_base_perplexity"), 1),
        (("needs",), {"gpu": "24"}),
        (("links",), ["ftp://x"]),
        (("evidence",), [{"model": "x"}]),
        (("notes",), 3),
        (("unknown",), 3),
    ],
)
def test_the_schema_refuses_what_the_reader_refuses_in_form(at, value):
    data = changed(data_of(FULL), at, value)
    assert not VALIDATOR.is_valid(data)
    assert not is_read(data)


def patterns(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if isinstance(schema.get("pattern"), str):
            yield schema["pattern"]
        yield from schema.get("patternProperties", ())
    for inner in schema.values() if isinstance(schema, dict) else schema:
        if isinstance(inner, dict | list):
            yield from patterns(inner)


def check_jsonschema(folder: Path, bets: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what check-jsonschema, which follows ECMA 262, reports of bets, each in its own file."""
    for number, bet in enumerate(bets):
        (folder / f"{number:03}.json").write_text(json.dumps(bet), encoding="utf-8")
    command = [sys.executable, "-m", "check_jsonschema", "--schemafile", SHIPPED, "-o", "json"]
    done = subprocess.run(
        [*map(str, command), *map(str, sorted(folder.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_check_jsonschema_takes_good_bets_and_refuses_malformed_ones(tmp_path):
    for name in ("good", "malformed"):
        (tmp_path / name).mkdir()
    assert check_jsonschema(tmp_path / "good", list(good_bets()))["status"] == "ok"
    refused = [data for data in malformed() if not VALIDATOR.is_valid(data)][::10]
    report = check_jsonschema(tmp_path / "malformed", refused)
    assert len({error["filename"] for error in report["errors"]}) == len(refused) > 70


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_every_pattern_is_a_regular_expression_of_javascript():
    found = sorted(set(patterns(SCHEMA)))
    assert len(found) > 5
    for pattern in found:
        program = f"new RegExp({json.dumps(pattern)}, 'u')"
        done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("link", ["https://a.b/c?d=e#f", "https://a.b/\\"])
def test_a_link_may_have_what_addresses_have(link):
    assert VALIDATOR.is_valid(changed(data_of(FULL), ("links",), [link]))


@pytest.mark.parametrize("character", list("\"'`<> "))
def test_a_link_ends_where_text_would_quote_it(character):
    data = changed(data_of(FULL), ("links",), [f"https://a.b/{character}"])
    assert not VALIDATOR.is_valid(data)
    assert not is_taken(data)
