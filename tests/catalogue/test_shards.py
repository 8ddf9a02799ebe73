"""Dealing a catalogue out to machines, and putting together what they measured."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_layerguard.bet.reading import parse_bets
from pytest_layerguard.catalogue.costs import cost
from pytest_layerguard.catalogue.shards import (
    UNMEASURED,
    MergedLaboratory,
    Shard,
    ShardError,
    Share,
    divide,
    merged,
    read_shards,
)
from pytest_layerguard.lab.errors import LabError, UnavailableError

shares = st.lists(
    st.builds(
        Share,
        file=st.just("bets/a.yaml"),
        id=st.uuids().map(str),
        digest=st.just("sha256:0"),
        model=st.sampled_from("abcd"),
        cost=st.floats(0, 1e12),
    ),
    unique_by=lambda share: share.id,
    max_size=30,
)


@given(shares, st.integers(1, 7), st.randoms())
def test_the_same_on_every_machine(bets: list[Share], count: int, chance: random.Random) -> None:
    dealt = divide(bets, count)
    chance.shuffle(bets)
    assert divide(bets, count) == dealt
    assert sorted(replace(share, shard=0) for share in dealt) == sorted(bets)
    assert all(1 <= share.shard <= count for share in dealt)


@given(shares, st.integers(1, 7))
def test_no_part_has_much_more_than_its_share(bets: list[Share], count: int) -> None:
    dealt = divide(bets, count)
    loads = [sum(each.cost for each in dealt if each.shard == part) for part in range(1, count + 1)]
    fair = sum(loads) / count
    largest = max((share.cost for share in bets), default=0.0)
    assert max(loads) <= 2 * fair + largest + 1e-3


def test_bets_on_one_model_stay_together_unless_that_is_too_much() -> None:
    def share(id_: str, model: str, price: float) -> Share:
        return Share("bets/a.yaml", id_, "sha256:0", model, price)

    small = [share(f"{model}{number}", model, 1.0) for model in "abc" for number in range(3)]
    dealt = divide(small, 3)
    for model in "abc":
        assert len({each.shard for each in dealt if each.model == model}) == 1
    assert {each.shard for each in divide([share(str(n), "a", 1.0) for n in range(6)], 3)} == {
        1,
        2,
        3,
    }


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
    return cost(document, folder)


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
        "num_hidden_layers": 4,
        "hidden_size": 64,
        "intermediate_size": 128,
        "vocab_size": 512,
    }
    (tmp_path / "model-7b" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert price("{path: ../model-7b}", folder=bets) < price("{path: ../other-7b}", folder=bets)
    assert price(
        intervention="{train: {steps: 100, lr: 1e-3, text: {reference: heldout}}}"
    ) > price(intervention="{train: {steps: 10, lr: 1e-3, text: {reference: heldout}}}")


MADE_BY = {"pytest-layerguard": "0.1.0", "code": "abc", "torch": "2.13.0"}
HERE = {"pytest-layerguard": "0.1.0", "code": "abc"}
PLAN = (
    Share("bets/a.yaml", "a", "sha256:a", "reference", 2.0, 1),
    Share("bets/b.yaml", "b", "sha256:b", "reference-wide", 1.0, 2),
)
KNOWN = {share.id: replace(share, shard=0) for share in PLAN}


def shard(index: int, **changes: Any) -> Shard:
    answers = {share.id: UNMEASURED for share in PLAN if share.shard == index}
    path = Path(f"{index}.json")
    return replace(Shard(index, 2, PLAN, MADE_BY, answers, path), **changes)


def test_all_parts_make_a_whole() -> None:
    assert merged([shard(2), shard(1)], HERE, KNOWN) == {"a": UNMEASURED, "b": UNMEASURED}


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([shard(1)], "part 2 of 2 is missing; there is [1]"),
        ([shard(1), shard(2), shard(2)], "part 2 of 2 is there twice: 2.json, 2.json"),
        ([shard(1), shard(2), shard(3)], "there is a part 3 of 2"),
        (
            [shard(1), shard(2, count=3)],
            "1.json and 2.json: are parts of different wholes, of 2 and",
        ),
        (
            [shard(1), shard(2, made_by=MADE_BY | {"torch": "2.12.0"})],
            "measured by different versions: torch 2.13.0 and 2.12.0",
        ),
        (
            [shard(1, made_by={"code": "b"}), shard(2, made_by={"code": "b"})],
            "1.json: was measured by pytest-layerguard None; here is 0.1.0",
        ),
        ([shard(1), shard(2, plan=PLAN[:1])], "were made of different bets (b)"),
        (
            [shard(1), shard(2, plan=(PLAN[0], replace(PLAN[1], digest="sha256:c")))],
            "were made of different bets (b)",
        ),
        ([shard(1), shard(2, answers={})], "part 2 of 2 ended before it had measured b"),
    ],
)
def test_what_is_no_whole_is_refused(parts: list[Shard], told: str) -> None:
    with pytest.raises(ShardError) as refused:
        merged(parts, HERE, KNOWN)
    assert told in str(refused.value)


def test_other_bets_than_those_here_are_refused() -> None:
    parts = [shard(1), shard(2)]
    with pytest.raises(ShardError, match="bets that are not here: b;"):
        merged(parts, HERE, {"a": KNOWN["a"]})
    with pytest.raises(ShardError, match="other bets were measured under these ids: b;"):
        merged(parts, HERE, KNOWN | {"b": replace(KNOWN["b"], digest="sha256:new")})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is damaged"),
        ("{}", "is no report of a part"),
        ("[]", "is no report of a part"),
        ("null", "is damaged"),
        ('{"shard": null}', "is damaged"),
        ('{"shard": {"format": 2}}', "has format 2, not 1"),
        ('{"shard": {"format": 1}}', "KeyError"),
        ('{"shard": {"format": 1, "index": 1, "of": 1, "plan": [{}], "made_by": {}}}', "TypeError"),
    ],
)
def test_what_is_no_part_is_refused(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "1.json").write_text(content, encoding="utf-8")
    with pytest.raises(ShardError) as refused:
        read_shards(tmp_path)
    assert told in str(refused.value)


def test_parts_are_found_in_folders_of_their_own(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="has no JSON reports"):
        read_shards(tmp_path)
    for index in (1, 2):
        folder = tmp_path / f"artifact-{index}"
        folder.mkdir()
        data = {"schema": 1, "bets": [], "shard": shard(index).to_json()}
        (folder / "out.json").write_text(json.dumps(data), encoding="utf-8")
    found = [replace(each, path=Path(f"{each.index}.json")) for each in read_shards(tmp_path)]
    assert found == [shard(1), shard(2)]


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        ({"unavailable": "no GPU"}, UnavailableError, "^no GPU$"),
        ({"error": "unsound"}, LabError, "^unsound$"),
        (UNMEASURED, LabError, "no part has measured this bet"),
        ({"result": {"bases": 1}}, LabError, "handed on is damaged"),
    ],
)
def test_what_a_part_said_is_said_again(
    answer: dict[str, Any], error: type[Exception], told: str
) -> None:
    text = BET.format(
        model="reference", intervention="{skip_layers: {layers: {each: all}}}", tokens=64
    )
    (document,) = parse_bets(text, Path("bets/a.yaml"))
    with pytest.raises(error, match=told):
        MergedLaboratory({"a": answer}).measure(document, bets=Path("bets"))
