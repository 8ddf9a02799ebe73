"""Dealing a catalogue out to machines, and putting together what they measured."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_layerguard.bet.bet import Measure
from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.catalogue.cost import Cost, cost_of, shard_cost
from pytest_layerguard.catalogue.model_facts import ModelFacts, ModelLookup
from pytest_layerguard.catalogue.shard_plan import (
    BetCost,
    Shard,
    ShardError,
    divide,
    join,
    read_shards,
)
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.interventions.registry import Registry

shares = st.lists(
    st.builds(
        BetCost,
        id=st.uuids().map(str),
        model=st.sampled_from("abcd"),
        cost=st.floats(0, 1e12),
    ),
    unique_by=lambda share: share.id,
    max_size=30,
)


@given(shares, st.integers(1, 7), st.randoms())
def test_the_same_on_every_machine(bets: list[BetCost], count: int, chance: random.Random) -> None:
    dealt = divide(bets, count)
    chance.shuffle(bets)
    assert divide(bets, count) == dealt
    assert sorted(share for part in dealt for share in part) == sorted(bets)
    assert len(dealt) == count


@given(shares, st.integers(1, 7))
def test_no_part_has_much_more_than_its_share(bets: list[BetCost], count: int) -> None:
    loads = [sum(each.cost for each in part) for part in divide(bets, count)]
    fair = sum(loads) / count
    largest = max((share.cost for share in bets), default=0.0)
    assert max(loads) <= 2 * fair + largest + 1e-3


def test_bets_on_one_model_stay_together_unless_that_is_too_much() -> None:
    small = [BetCost(f"{model}{number}", model, 1.0) for model in "abc" for number in range(3)]
    assert [len({share.model for share in part}) for part in divide(small, 3)] == [1, 1, 1]
    large = [BetCost(str(number), "a", 1.0) for number in range(6)]
    assert [len(part) for part in divide(large, 3)] == [2, 2, 2]


BET = """\
id: a
title: A bet
claim: It can go.
status: proposed
model: {model}
intervention: {intervention}
measure: {{text: {{reference: heldout}}, tokens: {tokens}}}
criteria: {{lenient: all(perplexity_ratio <= 3)}}
"""


def price(
    model: str = "reference",
    intervention: str = "{skip_layers: {layers: {each: all}}}",
    tokens: int = 4096,
    folder: Path = Path("/nowhere/bets"),
) -> float:
    text = BET.format(model=model, intervention=intervention, tokens=tokens)
    (document,) = parse_bets(text, folder / "a.yaml")
    return shard_cost(document, folder, Registry.of(), ModelLookup(Conditions()))


HUB = "{{hub: ORG/{name}, revision: 0123456789abcdef0123456789abcdef01234567}}"


def test_what_is_more_work_costs_more(tmp_path: Path) -> None:
    assert price() < price(tokens=8192)
    assert price(intervention="{skip_layers: {layers: {each: [3]}}}") < price()
    assert price(HUB.format(name="pythia-160m")) < price(HUB.format(name="Qwen3-8B"))
    assert price(HUB.format(name="Qwen3-8B")) < price(HUB.format(name="Llama-3.1-70B"))
    assert price() < price(HUB.format(name="some-model"))
    bets = tmp_path / "bets"
    assert price("{path: ../model-7b}", folder=bets) == price("{path: ../other-7b}", folder=bets)
    (tmp_path / "model-7b").mkdir()
    config = {
        "model_type": "llama",
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "hidden_size": 64,
        "intermediate_size": 128,
        "vocab_size": 512,
    }
    (tmp_path / "model-7b" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert price("{path: ../model-7b}", folder=bets) < price("{path: ../other-7b}", folder=bets)
    assert price(
        intervention="{train: {steps: 100, lr: 1e-3, text: {reference: heldout}}}"
    ) > price(intervention="{train: {steps: 10, lr: 1e-3, text: {reference: heldout}}}")


def shard(index: int, count: int = 2, *bets: str) -> Shard:
    reports = {nodeid: [json.dumps({"nodeid": nodeid})] for nodeid in bets or (f"bet-{index}",)}
    return Shard(Path(f"{index}.json"), index, count, reports)


def test_all_parts_make_a_whole() -> None:
    assert list(join([shard(2), shard(1)])) == ["bet-2", "bet-1"]


@pytest.mark.parametrize(
    ("parts", "reported"),
    [
        ([shard(1)], "part 2 of 2 is missing; there is [1]"),
        ([shard(1), shard(2), shard(2)], "part 2 of 2 is there twice: 2.json, 2.json"),
        ([shard(1), shard(2, 3)], "2.json: are parts of different divisions, 1/2 and 2/3"),
        ([shard(1), shard(2, 2, "bet-1")], "2.json: another part has judged bet-1 too"),
    ],
)
def test_what_is_no_whole_is_refused(parts: list[Shard], reported: str) -> None:
    with pytest.raises(ShardError) as refused:
        join(parts)
    assert reported in str(refused.value)


@pytest.mark.parametrize(
    ("content", "reported"),
    [
        ("", "is damaged"),
        ("{}", "is no report of a part"),
        ("null", "is damaged"),
        ('{"shard": null}', "is damaged"),
        ('{"shard": {"index": 1, "of": 1}}', "KeyError"),
        ('{"shard": {"index": 1, "of": 1, "reports": ["{}"]}}', "KeyError"),
    ],
)
def test_what_is_no_part_is_refused(tmp_path: Path, content: str, reported: str) -> None:
    (tmp_path / "1.json").write_text(content, encoding="utf-8")
    with pytest.raises(ShardError) as refused:
        read_shards(tmp_path)
    assert reported in str(refused.value)


def test_parts_are_found_in_folders_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="has no JSON reports"):
        read_shards(tmp_path)
    for index in (1, 2):
        (tmp_path / f"artifact-{index}").mkdir()
        data = {"index": index, "of": 2, "reports": ['{"nodeid": "a"}', '{"nodeid": "a"}']}
        path = tmp_path / f"artifact-{index}" / "out.json"
        path.write_text(json.dumps({"schema": 1, "bets": [], "shard": data}), encoding="utf-8")
    found = read_shards(tmp_path)
    assert [each.index for each in found] == [1, 2]
    assert found[0].reports == {"a": ['{"nodeid": "a"}'] * 2}


def test_a_head_for_each_variant_counts() -> None:
    cost = Cost(4, shared=10, heads=5)
    measure = Measure.model_validate(
        {"text": {"reference": "heldout"}, "tokens": 512, "window": 128}
    )
    head, body = 8 * 1_000, 500
    facts = ModelFacts(body + head, 4, 0, 8, vocabulary=1_000)
    assert cost.work(measure, facts) == 512 * (10 / 4 * body + 5 * head)
    assert cost.work(measure, replace(facts, vocabulary=None)) == 512 * 10 / 4 * (body + head)


def costs(done: str, layers: int = 4) -> Cost:
    text = BET.format(model="reference", intervention=done, tokens=512)
    (document,) = parse_bets(text, Path("/nowhere/bets/a.yaml"))
    return cost_of(document.bet, Registry.of(), layers, 16)


def test_what_is_trained_goes_as_far_as_its_layer() -> None:
    training = "objective: layer_output, steps: 10, batch: 2, lr: 1e-3, text: {reference: heldout}"
    for layer in (0, 3):
        cost = costs(f"{{train: {{layers: {layer}, {training}}}}}")
        # The layers before it, it as it is, it as it is trained, and twice as much back.
        assert (cost.training, cost.trained) == (20, 20 * (layer + 1 + 3))
    whole = costs("{train: {steps: 10, batch: 2, lr: 1e-3, text: {reference: heldout}}}")
    assert (whole.training, whole.trained) == (20, 20 * 3 * 4)


def test_a_choice_that_two_arms_make_is_made_once() -> None:
    def of(*guides: str) -> tuple[int, int]:
        arms = [
            f"a{count}: {{remove_layers: {{count: {count}, guided_by: {guide}}}}}"
            for count, guide in enumerate(guides, 1)
        ]
        text = BET.format(model="reference", intervention="", tokens=512)
        text = text.replace("intervention: ", f"arms: {{{', '.join(arms)}}}")
        (document,) = parse_bets(text, Path("/nowhere/bets/a.yaml"))
        cost = cost_of(document.bet, Registry.of(), 4, 16)
        return cost.choosing, cost.compared

    same, other = of("interchange", "interchange"), of("interchange", "replacement")
    assert (same[1], other[1]) == (6, 6 + 12)
    assert same[0] < other[0]
