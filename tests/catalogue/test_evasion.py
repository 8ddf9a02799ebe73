"""Ways past a closed door that were tried; docs/integrity.md says of each what stops it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from support.catalogue import BET_40, PROPOSAL
from transformers import GPT2Config, GPT2LMHeadModel

from pytest_layerguard import reference
from pytest_layerguard.catalogue.outcome import Word
from pytest_layerguard.catalogue.summary import summary
from pytest_layerguard.environment.conditions import Conditions

if TYPE_CHECKING:
    from support.catalogue import Bets

SKIP = {"skip_layers": {"layers": 2}}
TRAIN = {"train": {"steps": 1, "text": {"reference": "training"}}}
PRUNE = {"prune_weights": {"sparsity": 1.0, "parts": "linear"}}


def refused(project: Bets, **changes: Any) -> None:
    project.measured.clear()
    outcome = project.judge("drop-one", **changes)
    assert (outcome.word, outcome.passed) == (Word.CROSSED, False)
    assert project.measured == []


@pytest.mark.parametrize(
    "done",
    [
        {"intervention": SKIP},
        {"intervention": {"skip_layers": {"layers": {"each": "all"}}}},
        {"intervention": {"remove_layers": {"layers": [1]}}},
        {"intervention": {"remove_layers": {"count": 1, "guided_by": "block_influence"}}},
        {"intervention": {"zero_layers": {"layers": 2}}},
        {"intervention": {"zero_layers": {"layers": 2, "keep": "none"}}},
        {"intervention": PRUNE},
        {"intervention": {"prune_weights": {"sparsity": 0.995, "layers": 2, "by": "random"}}},
        {"intervention": [SKIP, TRAIN]},
        {"intervention": [TRAIN, SKIP]},
        {"intervention": [{"average_experts": {}}, {"zero_layers": {"layers": 0}}, TRAIN]},
        {"arms": {"a": {"average_experts": {}}, "b": SKIP}},
        {"arms": {"a": {"average_experts": {}}, "b": [TRAIN, {"remove_layers": {"layers": 3}}]}},
    ],
    ids=lambda done: json.dumps(done)[:60],
)
def test_the_same_under_another_name_or_among_others(bets: Bets, done: dict[str, Any]) -> None:
    bets.put(BET_40)
    criteria = {"lenient": "max(perplexity_ratio) <= 30"}
    bets.put(**{"intervention": None, "criteria": criteria, **done})
    refused(bets)


@pytest.mark.parametrize(
    "done",
    [
        {"average_experts": {}},
        {"prune_weights": {"sparsity": 0.5}},
        {"prune_weights": {"sparsity": 1.0, "parts": "experts"}},
        {"interchange_layers": {"pairs": [1, 2]}},
        TRAIN,
    ],
    ids=lambda done: next(iter(done)),
)
def test_what_is_something_else_is_let_in(bets: Bets, done: dict[str, Any]) -> None:
    bets.put(BET_40)
    bets.put(intervention=done)
    assert bets.judge("drop-one").passed


def test_calling_a_newcomer_upheld(bets: Bets) -> None:
    bets.put(BET_40)
    bets.put(status="upheld")
    refused(bets)


def test_calling_a_newcomer_upheld_and_recording_it_oneself(bets: Bets) -> None:
    bets.put(BET_40)
    recording = bets.judge(bets.put(status="upheld"), 20, recording=True)
    # A run that always records would otherwise let it pass with nothing in the diff.
    assert (recording.word, recording.passed) == (Word.CROSSED, False)
    assert "commit bets/records/drop-one.json for review" in recording.reason
    outcome = bets.judge("drop-one", 20)
    assert outcome.passed
    said = "upheld inside a door that bet-40 closed, without the bar of bet-40"
    assert any(said in each for each in outcome.warnings)
    wrong = summary(bets.path, bets.catalogue).split("## To be put right")[1]
    assert "- drop-one: upheld inside the door that bet-40 closed" in wrong


@pytest.mark.parametrize("key", ["needs", "dtype", "max_base_perplexity"])
def test_keys_that_are_about_something_else(bets: Bets, key: str) -> None:
    bets.put(BET_40)
    measure = {**PROPOSAL["measure"], "max_base_perplexity": "none"}
    keys: dict[str, dict[str, Any]] = {
        "needs": {"needs": {"gpu": "640GiB", "memory": "9000GiB"}},
        "dtype": {"model": {"reference": "reference", "dtype": "bfloat16"}},
        "max_base_perplexity": {"measure": measure},
    }
    bets.put(**keys[key])
    refused(bets)


def test_calling_a_newcomer_falsified(bets: Bets) -> None:
    bets.put(BET_40)
    bets.put(status="falsified")
    assert bets.judge("drop-one", 1.2).word is Word.OVERTURNED
    assert bets.judge("drop-one", 80).passed
    bets.put(id="another")
    assert bets.judge("another").word is Word.CROSSED


def test_several_folders_of_which_one_is_closed(bets: Bets) -> None:
    models = "hidden_size <= 16"
    bets.put(BET_40, closes={"interventions": ["skip_layers"], "models": models})
    for name in ("reference", "reference-wide"):
        shutil.copytree(reference.folder(name), bets.root / "models" / name)
    paths = {"wide": "../models/reference-wide", "narrow": "../models/reference"}
    bets.put(model={"paths": paths}, criteria={"lenient": "wide.perplexity_ratio <= 30"})
    refused(bets)
    bets.put(model={"path": paths["wide"]})
    assert bets.judge("drop-one").passed


def test_leaving_a_shape_of_ones_own_making_in_the_cache(bets: Bets) -> None:
    bets.put(BET_40)
    # A family whose parameters are counted by building it.
    config = GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    model = GPT2LMHeadModel(config)
    model.save_pretrained(bets.root / "model")
    bets.put(model={"path": "../model"})
    bets.conditions = Conditions(cache=bets.root / "kept")
    refused(bets)
    (kept,) = (bets.root / "kept" / "shapes").iterdir()
    counted = str(model.num_parameters())
    assert counted in kept.read_text(encoding="utf-8")
    kept.write_text(kept.read_text(encoding="utf-8").replace(counted, f"{counted}00000"))
    # Whoever may write there is believed, as whoever may change the code is; unless one measures afresh.
    assert bets.judge("drop-one").passed
    bets.conditions = Conditions(cache=bets.root / "kept", fresh=True)
    refused(bets)


def test_amending_a_newcomer(bets: Bets) -> None:
    bets.put(BET_40)
    bets.put(status="upheld", amends={"digest": f"sha256:{'0' * 64}", "because": "I like it"})
    refused(bets)


@pytest.mark.parametrize("file", ["deep/er/new.yaml", "new.yml", "new.YAML", ".hidden/new.yaml"])
def test_lying_elsewhere_in_the_folder(bets: Bets, file: str) -> None:
    bets.put(BET_40)
    bets.put(file=file)
    refused(bets)


@pytest.mark.parametrize("file", ["40.yml", "40.YAML", "deep/er/40.Yaml"])
def test_a_falsification_that_lies_elsewhere_in_the_folder(bets: Bets, file: str) -> None:
    bets.put(BET_40, file=file)
    bets.put()
    refused(bets)


def test_lying_in_a_bet_folder_of_its_own_further_down(bets: Bets) -> None:
    bets.put(BET_40)
    other = bets.root / "tools" / "bets"
    other.mkdir(parents=True)
    (other / "new.yaml").write_text(json.dumps(PROPOSAL), encoding="utf-8")
    refused(bets, bets=other)


def test_a_copy_of_the_closed_model_under_another_name(bets: Bets) -> None:
    models = 'name == "reference"'
    bets.put(BET_40, closes={"interventions": ["skip_layers"], "models": models})
    shutil.copytree(reference.folder("reference"), bets.root / "models" / "brand-new")
    bets.put(model={"path": "../models/brand-new"})
    refused(bets)
    shutil.copytree(reference.folder("reference-wide"), bets.root / "models" / "wide")
    bets.put(model={"path": "../models/wide"})
    assert bets.judge("drop-one").passed


def test_a_copy_of_a_closed_model_that_nothing_is_known_of(bets: Bets) -> None:
    models = 'name == "ORG/unseen"'
    bets.put(BET_40, closes={"interventions": ["skip_layers"], "models": models})
    shutil.copytree(reference.folder("reference-wide"), bets.root / "models" / "wide")
    bets.put(model={"path": "../models/wide"})
    refused(bets)


def test_one_checkpoint_among_several(bets: Bets) -> None:
    models = 'name == "reference@init"'
    bets.put(BET_40, closes={"interventions": ["skip_layers"], "models": models})
    checkpoints = {"reference": "reference", "revisions": {"early": "init", "late": "trained"}}
    bets.put(model=checkpoints, criteria={"lenient": "late.perplexity_ratio <= 30"})
    refused(bets)


def test_a_configuration_that_leaves_out_what_closes_the_door(bets: Bets) -> None:
    models = "experts >= 2"
    bets.put(BET_40, closes={"interventions": ["skip_layers"], "models": models})
    folder = bets.root / "model"
    folder.mkdir()
    config = {"model_type": "qwen3_moe", "num_hidden_layers": 2, "vocab_size": 64}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    bets.put(model={"path": "../model"})
    refused(bets)


def test_a_configuration_that_cannot_be_built(bets: Bets) -> None:
    bets.put(BET_40)
    folder = bets.root / "model"
    folder.mkdir()
    config = {"model_type": "qwen3_moe", "num_hidden_layers": 10**9}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    bets.put(model={"path": "../model"})
    refused(bets)


def test_wrapping_the_decoder_in_another_family(bets: Bets) -> None:
    models = 'family == "gemma3_text"'
    bets.put(BET_40, closes={"interventions": ["skip_layers"], "models": models})
    folder = bets.root / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma3"}), encoding="utf-8")
    bets.put(model={"path": "../model"})
    refused(bets)


def test_reopening_the_door_by_the_status_of_the_falsification(bets: Bets) -> None:
    bets.record(bets.put(BET_40), 80)
    bets.put(BET_40, status="proposed", closes=None)
    bets.put()
    refused(bets)
    outcome = bets.judge("bet-40", 80)
    assert (outcome.word, outcome.passed) == (Word.CATASTROPHIC, False)


def test_loosening_the_bar_and_challenging_it_in_one_change(bets: Bets) -> None:
    record = bets.record(bets.put(BET_40), 80)
    recorded = json.loads(record.read_text(encoding="utf-8"))["digest"]
    loosened = {**BET_40["criteria"], "lenient": "any(perplexity_ratio <= 50)"}
    bets.put(challenges=["bet-40"])
    for amends in (None, {"digest": recorded, "because": "it was too strict"}):
        bets.put(BET_40, criteria=loosened, amends=amends)
        outcome = bets.judge("drop-one", 20)
        assert (outcome.word, outcome.passed) == (Word.CROSSED, False)


def test_narrowing_what_the_falsification_closes_is_reported(bets: Bets) -> None:
    bets.record(bets.put(BET_40), 80)
    narrow = {"interventions": ["remove_layers"], "models": "parameters <= 10"}
    bets.put(BET_40, closes=narrow)
    assert "closes: was changed since its record" in bets.judge("bet-40", 80).warnings


def test_losing_a_challenge_and_calling_it_upheld(bets: Bets) -> None:
    bets.put(BET_40)
    bets.record(bets.put(challenges=["bet-40"]), 20)
    bets.measured.clear()
    bets.put(challenges=["bet-40"], status="upheld")
    outcome = bets.judge("drop-one", 20)
    assert (outcome.word, outcome.passed, bets.measured) == (Word.REGRESSED, False, [])


def test_taking_the_challenge_of_a_recorded_bet_away(bets: Bets) -> None:
    bets.put(BET_40)
    bets.record(bets.put(challenges=["bet-40"]), 2.5)
    bets.put(status="upheld")
    assert any("contradicts itself" in each for each in bets.judge("drop-one", 2.5).warnings)
    assert any("without the bar" in each for each in bets.judge("drop-one", 20).warnings)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"verdict": "CATASTROPHIC"', '"verdict": "LENIENT"'), ("perplexity_ratio <= 3", "1 <= kl")],
)
def test_editing_a_record_by_hand(bets: Bets, old: str, new: str) -> None:
    record = bets.record(bets.put(BET_40), 80)
    text = record.read_text(encoding="utf-8")
    assert old in text
    record.write_text(text.replace(old, new), encoding="utf-8")
    outcome = bets.judge("bet-40", 80)
    assert (outcome.word, outcome.passed) == (Word.ERROR, False)
    assert "it was edited" in "\n".join(outcome.messages)
    refused_by = bets.judge(bets.put())
    assert refused_by.word is Word.CROSSED


def test_changing_a_bet_after_its_result_and_recording_it_anew(bets: Bets) -> None:
    record = bets.record(bets.put(BET_40), 80)
    before = record.read_text(encoding="utf-8")
    bets.measured.clear()
    loosened = {**BET_40["criteria"], "lenient": "any(perplexity_ratio <= 50)"}
    bets.put(BET_40, criteria=loosened)
    outcome = bets.judge("bet-40", 80, recording=True)
    assert (outcome.word, bets.measured) == (Word.TAMPERED, [])
    changed = "criteria.lenient: any(perplexity_ratio <= 3) -> any(perplexity_ratio <= 50)"
    assert changed in "\n".join(outcome.messages)
    assert record.read_text(encoding="utf-8") == before
