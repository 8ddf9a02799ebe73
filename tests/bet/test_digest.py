from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_layerguard.bet.digest import _plain, canonical, differences, digest
from pytest_layerguard.bet.reader import parse_bets

BET = {
    "id": "bet-1",
    "title": "A title",
    "claim": "It holds.",
    "status": "proposed",
    "model": {"reference": "reference"},
    "intervention": [
        {"skip_layers": {"layers": {"each": [0, 1]}}},
        {"prune_weights": {"sparsity": 0.5}},
    ],
    "measure": {
        "text": {"reference": "heldout"},
        "tokens": 1024,
        "window": 128,
        "sample": {"prompts": ["Once", "Twice"]},
    },
    "criteria": {"strict": "any(kl <= 1)", "lenient": "any(kl <= 10)"},
    "notes": "none",
}


def taken(data: object) -> str:
    (document,) = parse_bets(yaml.safe_dump(data), Path("a.yaml"))
    return digest(document.bet)


SAME = [
    ("model", "reference"),
    ("claim", "It\n  holds. "),
    ("title", "Another"),
    ("notes", "changed"),
    ("status", "upheld"),
    ("id", "bet-2"),
    ("needs", {"gpu": "24GiB"}),
    ("challenges", ["bet-3"]),
    ("evidence", [{"source": "somewhere"}]),
    ("links", ["https://example.org"]),
    ("measure.tokens", 1024.0),
    ("measure.stride", 128),
    ("measure.bos", "auto"),
    ("measure.speak", None),
    ("measure.sample.tokens", 100),
    ("criteria.strict", " any( (kl) <= 1.0 ) "),
    ("criteria.lenient", "any(kl <= 1e1)"),
    ("intervention.0.skip_layers.layers.each", [1, 0]),
    ("intervention.1.prune_weights.sparsity", 5e-1),
    ("intervention.1.prune_weights.by", "magnitude"),
    ("intervention.1.prune_weights.layers", "all"),
]
CHANGED = [
    ("claim", "It fails."),
    ("model", "reference-wide"),
    ("model", "reference@init"),
    ("model", {"reference": "reference", "dtype": "bfloat16"}),
    ("model", {"path": "reference"}),
    ("measure.tokens", 1025),
    ("measure.window", 64),
    ("measure.stride", 64),
    ("measure.bos", "never"),
    ("measure.positions", "last"),
    ("measure.max_base_perplexity", "none"),
    ("measure.max_base_perplexity", 100),
    ("measure.sample.tokens", 99),
    ("measure.sample.prompts", ["Once"]),
    ("measure.text", {"file": "a.txt"}),
    ("criteria.strict", "any(kl < 1)"),
    ("criteria.strict", "all(kl <= 1)"),
    ("criteria.lenient", "any(kl <= 10.001)"),
    ("criteria.catastrophic", "any(kl >= 100)"),
    ("intervention.0.skip_layers.layers.each", [0, 2]),
    ("intervention.0.skip_layers.layers.each", "all"),
    ("intervention.1.prune_weights.sparsity", 0.51),
    ("intervention.1.prune_weights.by", "random"),
    ("intervention.1.prune_weights.parts", "experts"),
]


def with_value(path: str, value: object) -> dict[str, object]:
    data = copy.deepcopy(BET)
    at: object = data
    *steps, last = path.split(".")
    for step in steps:
        at = at[int(step)] if isinstance(at, list) else at[step]  # type: ignore[index,call-overload]
    at[last] = value  # type: ignore[index]
    return data


@pytest.mark.parametrize(("path", "value"), SAME)
def test_what_means_the_same_keeps_the_digest(path, value):
    assert taken(with_value(path, value)) == taken(BET)


@pytest.mark.parametrize(("path", "value"), CHANGED)
def test_what_means_something_else_changes_the_digest(path, value):
    assert taken(with_value(path, value)) != taken(BET)


def test_one_intervention_and_a_list_of_one():
    listed = with_value("intervention", [{"skip_layers": {"layers": 3}}])
    alone = with_value("intervention", {"skip_layers": {"layers": [3]}})
    for data in (listed, alone):
        data["criteria"] = {"lenient": "kl <= 1"}
    assert taken(listed) == taken(alone)


def test_the_digest_of_a_bet_never_changes():
    """A change here makes every committed record TAMPERED."""
    assert taken(BET) == ("sha256:5525f4c95037b6aacb525816654deb3c8f41c4694f506d4ed4851f83bf36a314")


@st.composite
def spellings(draw, data):
    """The same data in YAML written otherwise: order of keys, style, quotes, numbers."""

    def shuffled(value):
        if isinstance(value, dict):
            return {key: shuffled(value[key]) for key in draw(st.permutations(list(value)))}
        if isinstance(value, list):
            return [shuffled(item) for item in value]
        if type(value) is int and draw(st.booleans()):
            return float(value)
        return value

    text = yaml.safe_dump(
        shuffled(data),
        sort_keys=False,
        default_flow_style=draw(st.sampled_from([True, False, None])),
        indent=draw(st.integers(2, 6)),
        width=draw(st.integers(20, 200)),
    )
    comment = draw(st.sampled_from(["", "# a comment\n", "\n\n"]))
    return f"{comment}{text}"


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_formatting_keeps_the_digest(data):
    (document,) = parse_bets(data.draw(spellings(BET)), Path("a.yaml"))
    assert digest(document.bet) == taken(BET)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_change_of_meaning_changes_the_digest_however_it_is_written(data):
    path, value = data.draw(st.sampled_from(CHANGED))
    changed = data.draw(spellings(with_value(path, value)))
    (document,) = parse_bets(changed, Path("a.yaml"))
    assert digest(document.bet) != taken(BET)
    (original,) = parse_bets(yaml.safe_dump(BET), Path("a.yaml"))
    assert differences(canonical(original.bet), canonical(document.bet))


def test_differences_name_the_key_with_old_and_new():
    (old,) = parse_bets(yaml.safe_dump(BET), Path("a.yaml"))
    data = with_value("criteria.lenient", "any(kl <= 99)")
    data["measure"]["bos"] = "never"  # type: ignore[index]
    data["criteria"].pop("strict")  # type: ignore[attr-defined]
    data["intervention"][1]["prune_weights"]["sparsity"] = 1  # type: ignore[index]
    (new,) = parse_bets(yaml.safe_dump(data), Path("a.yaml"))
    assert differences(canonical(old.bet), canonical(new.bet)) == [
        ("criteria.lenient", "any(kl <= 10)", "any(kl <= 99)"),
        ("criteria.strict", "any(kl <= 1)", None),
        ("intervention[1].prune_weights.sparsity", 0.5, 1),
        ("measure.bos", None, "never"),
    ]
    assert differences(canonical(old.bet), canonical(old.bet)) == []


def test_the_canonical_form_is_plain_json():
    (document,) = parse_bets(yaml.safe_dump(BET), Path("a.yaml"))
    assert set(json.loads(canonical(document.bet))) == {
        "claim", "model", "intervention", "measure", "criteria",
    }  # fmt: skip


WRITTEN = """\
id: bet-1
title: T
claim: "It  holds, at 3\\u00b5."
status: proposed
model: {reference: reference}
MADE
measure: {text: {reference: heldout}, tokens: 1024, window: 128, stride: 128, max_base_perplexity: 100.5}
criteria: {lenient: any( (kl) <= 1e1 )}
"""
ONE = "intervention: {skip_layers: {layers: {each: [1, 0]}}}"
ARMS = "arms: {b: {skip_layers: {layers: 1}}, a: {skip_layers: {layers: 0}}}"


def test_the_canonical_form_to_the_letter():
    (document,) = parse_bets(WRITTEN.replace("MADE", ONE), Path("a.yaml"))
    assert canonical(document.bet) == (
        '{"claim":"It holds, at 3\u00b5.","criteria":{"lenient":"any(kl <= 10)"},'
        '"intervention":[{"skip_layers":{"layers":{"each":[0,1]}}}],'
        '"measure":{"max_base_perplexity":100.5,"text":{"reference":"heldout"},"tokens":1024,'
        '"window":128},"model":{"reference":"reference"}}'
    )
    assert digest(document.bet) == (
        "sha256:8f889ac7bdacfb037225ad431755ba4a995b68bb4d3443c18ae886e0fe74808d"
    )


def test_arms_are_part_of_it_and_no_intervention_is():
    text = WRITTEN.replace("MADE", ARMS).replace("any( (kl) <= 1e1 )", "a.kl < b.kl")
    (document,) = parse_bets(text, Path("a.yaml"))
    reported = json.loads(canonical(document.bet))
    assert reported["arms"] == {
        "a": [{"skip_layers": {"layers": [0]}}],
        "b": [{"skip_layers": {"layers": [1]}}],
    }
    assert "intervention" not in reported


def test_numbers_have_one_spelling_up_to_where_floats_have_gaps():
    plain = _plain({1: (1.0, 2.5, -3.0, 2.0**53, 2.0**53 - 1, [True, None, "x"])})
    assert json.dumps(plain) == (
        '{"1": [1, 2.5, -3, 9007199254740992.0, 9007199254740991, [true, null, "x"]]}'
    )


def test_differences_key_by_key():
    def between(old, new):
        return differences(json.dumps(old), json.dumps(new))

    assert between({"a": {"b": [1, {"c": 2}]}}, {"a": {"b": [1, {"c": 3}]}}) == [("a.b[1].c", 2, 3)]
    assert between({"a": [1, 2]}, {"a": [1]}) == [("a", [1, 2], [1])]
    assert between({"a": 1}, {"b": 2}) == [("a", 1, None), ("b", None, 2)]
    assert between({"a": {"b": 1}}, {"a": [1]}) == [("a", {"b": 1}, [1])]
    assert between({"a": [1]}, {"a": {"b": 1}}) == [("a", [1], {"b": 1})]
    assert between({"b": 1, "a": 1}, {"b": 1, "a": 1}) == []
