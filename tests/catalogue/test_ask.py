"""Questions without a bet file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.catalogue import BET_40

from pytest_layerguard import reference
from pytest_layerguard.bet.arguments import BUILTIN_KINDS
from pytest_layerguard.catalogue.ask import AskError, answer, by_words, nearest, read_idea
from pytest_layerguard.catalogue.bet_folders import Catalogue
from pytest_layerguard.catalogue.model_facts import ModelLookup

if TYPE_CHECKING:
    from support.catalogue import Bets


def asked(bets: Bets, question: str) -> str:
    scout = ModelLookup(bets.conditions, offline=True)
    idea = read_idea(question, BUILTIN_KINDS, scout, bets.root)
    return "\n".join(answer(idea, bets.catalogue, scout, bets.root))


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("skip_layers on reference", "CLOSED by bet-40\n"),
        ("Skip-Layers on reference", "CLOSED by bet-40\n"),
        ("zero_layers on reference", "zero_layers, which is skip_layers in effect"),
        ("train + remove_layers on reference", "CLOSED by bet-40\n"),
        ("average_experts then skip_layers on reference@init", "CLOSED by bet-40\n"),
        ("average_experts on reference", "OPEN: no falsification of the catalogue"),
        ("skip_layers on ./model", "CLOSED by bet-40\n"),
        ("skip_layers on model", "CLOSED by bet-40\n"),
        ("skip_layers on a 30M mixture", "CLOSED by bet-40 (by the size in its name)"),
        ("skip_layers on an 8B model", "OPEN: no falsification"),
        ("skip_layers on ORG/Tiny-0.03B", "CLOSED by bet-40 (by the size in its name)"),
        ("skip_layers on ORG/Large-8B", "if the size in its name is right"),
        ("skip_layers on ORG/Large", "PERHAPS CLOSED by bet-40: that depends on its parameters"),
        (f"skip_layers on ORG/Large@{'0' * 40}", "PERHAPS CLOSED by bet-40"),
        ("skip_layers on parameters=3e7 experts=16", "CLOSED by bet-40\n"),
        ("skip_layers on parameters=30M", "CLOSED by bet-40\n"),
        ("skip_layers on parameters=3e9, layers=4", "OPEN: no falsification"),
        ("skip_layers on experts=16", "PERHAPS CLOSED by bet-40"),
    ],
)
def test_what_is_known_of_an_idea(bets: Bets, question: str, said: str) -> None:
    bets.put(BET_40)
    shutil.copytree(reference.folder("reference"), bets.root / "model")
    assert said in asked(bets, question)


def test_its_own_name_is_no_likeness(bets: Bets) -> None:
    bets.put(BET_40)
    assert "in effect" not in asked(bets, "remove_layers on reference")


def test_a_challenge_of_several_names_them_all(bets: Bets) -> None:
    bets.put(BET_40)
    bets.put(BET_40, id="bet-41", criteria={"lenient": "any(perplexity_ratio <= 2)"})
    assert (
        "a bet with 'challenges: [bet-40, bet-41]', which must also meet "
        "'any(perplexity_ratio <= 3)' and 'any(perplexity_ratio <= 2)'."
    ) in asked(bets, "skip_layers on reference")


def test_an_answer_has_the_claim_the_numbers_and_the_place(bets: Bets) -> None:
    bets.record(bets.put(BET_40), 80, 24)
    bets.put(id="near", model="reference-wide", challenges=["bet-40"])
    text = asked(bets, "skip_layers on reference")
    for said in (
        "skip_layers on reference (parameters 836,880, layers 4, experts 16, hidden_size 16, "
        "family qwen3_moe)",
        "Skip each layer, bets/bet-40.yaml:1",
        "claim that failed: At least one layer can be skipped",
        "its record: CATASTROPHIC: all(perplexity_ratio >= 10)",
        "Tried near it:\n  near (Drop a layer to save bandwidth), proposed, on reference-wide",
        "'challenges: [bet-40]'",
    ):
        assert said in text


@pytest.mark.parametrize(
    ("question", "first"),
    [
        ("skip_layers on ORG/Qwen3-30B-A3B", "same"),
        ("skip_layers on a Qwen 14B", "family"),
        ("skip_layers on parameters=8e9 family=llama", "size"),
        ("zero_layers on ORG/Qwen3-30B-A3B", "other-intervention"),
    ],
)
def test_what_was_tried_nearest_comes_first(bets: Bets, question: str, first: str) -> None:
    def hub(name: str) -> dict[str, str]:
        return {"hub": name, "revision": "0" * 40}

    bets.put(id="small")
    bets.put(
        id="other-intervention",
        model=hub("Org/Qwen3-30B-A3B"),
        intervention={"zero_layers": {"layers": 0}},
    )
    bets.put(id="size", model=hub("meta-llama/Llama-3-8B"))
    bets.put(id="family", model=hub("Qwen/Qwen3-8B"))
    bets.put(id="same", model=hub("Qwen/Qwen3-30B-A3B"))
    tried = asked(bets, question).partition("Tried near it:\n  ")[2]
    assert tried.startswith(f"{first} (")


def test_an_answer_names_what_could_not_be_read(bets: Bets) -> None:
    bets.put(BET_40)
    (bets.path / "broken.yaml").write_text("id: [", encoding="utf-8")
    text = asked(bets, "average_experts on reference")
    assert "not read, and may close more: " in text
    assert "broken.yaml:1" in text


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("", "is not a question; allowed: INTERVENTION on MODEL"),
        ("skip_layers", "is not a question"),
        ("skp_layers on reference", "'skp_layers' is no intervention, did you mean 'skip_layers'?"),
        ("skip_layers + fly on reference", "'fly' is no intervention; allowed: skip_layers"),
        ("skip_layers on referense", "'referense' is no model, did you mean 'reference'?"),
        ("skip_layers on ./nowhere", "'./nowhere' does not exist"),
        ("skip_layers on /etc/passwd", "is a file, not a folder"),
        ("skip_layers on parameters=3e7 wings=2", "'wings=2' is no fact"),
        ("skip_layers on parameters=many", "parameters=many is no number"),
        ("skip_layers on \x1b[31mred", "is no model"),
    ],
)
def test_a_question_that_means_nothing_is_answered_with_what_is_allowed(
    bets: Bets, question: str, said: str
) -> None:
    with pytest.raises(AskError) as error:
        asked(bets, question)
    assert said in str(error.value)
    assert str(error.value).isprintable()


BETS = Path(__file__).parents[2] / "bets"


@pytest.fixture(scope="module")
def ours() -> Catalogue:
    return Catalogue.load([BETS])


@pytest.mark.parametrize(
    ("question", "id_"),
    [
        ("reap on moonlight", "reap-moonlight-16b"),
        ("drop_experts on moonlight", "reap-moonlight-16b"),
        ("expert pruning of Moonlight", "reap-moonlight-16b"),
        ("REAP on Qwen3-30B", "reap-qwen3-30b-a3b"),
        ("nvfp4 on qwen3 30b", "four-bits-qwen3-30b-a3b"),
        ("gptq on a MoE", "four-bits-qwen3-6-35b-a3b"),
        ("2:4 on llama-2-7b", "half-magnitude-llama-2-7b"),
        ("magnitude pruning of llama-2-13b", "half-magnitude-llama-2-13b"),
        ("Wanda on Llama 2 70B", "half-magnitude-llama-2-70b"),
        ("q2_K of llama-3-8b", "two-bits-llama-3-8b"),
        ("quantized llama2 7b in 2 bits", "two-bits-llama-2-7b"),
        ("q4_k_m of llama3 8b", "four-bits-llama-3-8b"),
        ("half of the attention of llama-2-70b", "half-the-layers-llama-2-70b"),
        ("4 bits at long context", "four-bits-long-context-llama-3-1-70b"),
        ("nf4 on qwen2.5 72b", "four-bits-long-context-qwen2-5-72b"),
    ],
)
def test_published_work_is_found_by_words(ours: Catalogue, question: str, id_: str) -> None:
    lines = list(by_words(question, ours, BETS.parent))
    assert any(line.startswith(f"{id_} (") for line in lines)
    assert any(line.startswith("  its evidence (published, not measured here): ") for line in lines)


def test_every_bet_of_the_field_names_its_source_and_needs_a_machine(ours: Catalogue) -> None:
    field = [
        each.document.bet for each in ours.entries if each.document.path.parent.name == "field"
    ]
    assert field
    for bet in field:
        assert bet.evidence, bet.id
        assert bet.links, bet.id
        assert bet.needs is not None, bet.id


@pytest.mark.parametrize(
    ("question", "first", "lacking"),
    [
        ("merge neighbouring layers", "merge-experts", "neighbouring"),
        ("gptq on olmoe", "experts-olmoe-1b-7b", "gptq"),
        ("reap on mixtral", "drop-by-reap", "mixtral"),
        ("kv cache 4 bits on llama", "kv-cache-4", "llama"),
        ("kv cache 3 bits of mixtral", "kv-cache-4", "3 and mixtral"),
    ],
)
def test_bets_with_most_of_the_words_are_the_nearest(
    ours: Catalogue, question: str, first: str, lacking: str
) -> None:
    assert not list(by_words(question, ours, BETS.parent))
    head, best, *_, form = nearest(question, ours, BETS.parent)
    assert head == "no bet has all these words; nearest:"
    assert best.startswith(f"  {first} (")
    assert best.endswith(f", without {lacking}")
    assert "INTERVENTION on MODEL" in form


@pytest.mark.parametrize("question", ["", "on the", "skip_layers on referense", "fly on reference"])
def test_words_that_no_bet_has_find_none(bets: Bets, question: str) -> None:
    bets.put(BET_40)
    assert not list(by_words(question, bets.catalogue, bets.root))
