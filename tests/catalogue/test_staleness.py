"""What a bet was measured on: reported where it has changed, and wherever it lies."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.catalogue import PROPOSAL, measured

from pytest_layerguard import reference
from pytest_layerguard.bet.digest import canonical, differences, unplaced
from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.catalogue.outcome import Outcome, Word
from pytest_layerguard.catalogue.records import read_record
from pytest_layerguard.catalogue.staleness import measured_on, stale_files
from pytest_layerguard.catalogue.summary import summary

if TYPE_CHECKING:
    from support.catalogue import Bets

RECORDS = sorted((Path(__file__).parents[2] / "bets").glob("**/records/*.json"))
TRAIN = {"train": {"steps": 1, "text": {"file": "train.txt"}}}


@pytest.fixture(autouse=True)
def _models(bets: Bets) -> None:
    for name in ("model", "other"):
        shutil.copytree(reference.folder("reference"), bets.root / name)


def made(**changes: str) -> dict[str, Any]:
    """Return the provenance of a result, with some digests changed."""
    digests = {
        name: changes.get(name, f"sha256:{name}") for name in ("weights", "config", "tokenizer")
    }
    text = {"name": None, "text": changes.get("text", "sha256:text")}
    more: dict[str, Any] = {}
    if "training" in changes:
        more["training"] = [changes["training"]]
    if "candidate" in changes:
        candidate = {"arm": None, "variant": "load-other", "model": {"kind": "path"}}
        more["candidates"] = [{**candidate, "digests": {"weights": changes["candidate"]}}]
    if "questions" in changes:
        more["tasks"] = [{"name": "q", "digest": changes["questions"], "questions": 3}]
    return {"checkpoints": [{"checkpoint": None, "digests": digests, "texts": [text], **more}]}


def put(bets: Bets, **changes: Any) -> str:
    reported: dict[str, Any] = {"status": "upheld", "model": {"path": "../model"}, **changes}
    return bets.put(
        **{"measure": {"text": {"file": "../text.txt"}, "tokens": 1024, "window": 128}, **reported}
    )


def judged(bets: Bets, ratio: float = 1.2, *, recording: bool = False, **changes: str) -> Outcome:
    return bets.judge("drop-one", ratio, recording=recording, provenance=made(**changes))


def text_of(outcome: Outcome) -> str:
    return "\n".join(outcome.messages)


def test_other_questions_under_a_record_are_reported(bets: Bets) -> None:
    put(bets)
    judged(bets, recording=True, questions="sha256:one")
    found = judged(bets, questions="sha256:two")
    assert found.word is Word.STALE
    assert "questions q: sha256:one -> sha256:two" in text_of(found)


@pytest.mark.parametrize("file", ["weights", "config", "tokenizer", "text"])
def test_what_was_swapped_under_a_record_is_reported(bets: Bets, file: str) -> None:
    put(bets)
    judged(bets, recording=True)
    assert judged(bets).passed
    outcome = judged(bets, **{file: "sha256:other"})
    assert (outcome.word, outcome.passed) == (Word.STALE, False)
    assert f"{file}: sha256:{file} -> sha256:other" in text_of(outcome)
    assert "perplexity of the base: 9 -> 9" in text_of(outcome)


@pytest.mark.parametrize("status", ["proposed", "upheld", "falsified"])
def test_whatever_the_status_and_the_verdict(bets: Bets, status: str) -> None:
    put(bets, status=status)
    ratio = 80 if status == "falsified" else 1.2
    judged(bets, ratio, recording=True)
    for now in (1.2, 80):
        assert judged(bets, now, weights="sha256:other").word is Word.STALE


def test_a_run_that_always_records_says_so_once(bets: Bets) -> None:
    put(bets)
    judged(bets, recording=True)
    outcome = judged(bets, recording=True, weights="sha256:other")
    assert (outcome.word, outcome.passed) == (Word.STALE, False)
    assert "recorded anew, and the next run compares with that" in text_of(outcome)
    assert judged(bets, weights="sha256:other").passed
    assert judged(bets).word is Word.STALE


def test_a_worse_result_on_other_files_replaces_no_record(bets: Bets) -> None:
    put(bets)
    judged(bets, recording=True)
    outcome = judged(bets, 80, recording=True, weights="sha256:other")
    assert "the claim no longer holds" in text_of(outcome)
    assert any("it stays" in each for each in outcome.warnings)
    assert judged(bets).passed


def test_an_amendment_settles_it_for_these_files_alone(bets: Bets) -> None:
    put(bets)
    judged(bets, recording=True)
    digest = read_record(bets.path / "records" / "drop-one.json").digest
    put(bets, amends={"digest": digest, "because": "the weights were repaired"})
    outcome = judged(bets, 25, weights="sha256:other")
    assert (outcome.word, outcome.passed) == (Word.LENIENT, True)
    assert "amended after the result" in outcome.warnings
    assert judged(bets, 25, recording=True, weights="sha256:other").passed
    record = read_record(bets.path / "records" / "drop-one.json")
    assert [each.because for each in record.amended] == ["the weights were repaired"]
    # The reason was for those weights: it excuses no others, and is not counted twice.
    assert judged(bets, 25, weights="sha256:third").word is Word.STALE
    assert judged(bets, 25, recording=True, weights="sha256:other").passed
    assert len(read_record(bets.path / "records" / "drop-one.json").amended) == 1


def test_a_record_that_does_not_say_what_it_is_of_is_compared_with_nothing(bets: Bets) -> None:
    put(bets)
    bets.judge("drop-one", recording=True)
    assert judged(bets, weights="sha256:other").passed


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_every_record_of_this_catalogue_says_what_it_is_of(path: Path) -> None:
    assert measured_on(read_record(path).result)


MOVED: dict[str, dict[str, Any]] = {
    "model": {},
    "text": {"measure": {"text": {"file": "t.txt"}, "tokens": 1024, "window": 128}},
    "pinned": {
        "measure": {
            "text": {"file": "../text.txt", "sha256": "0" * 64},
            "tokens": 1024,
            "window": 128,
        }
    },
}


@pytest.mark.parametrize("change", MOVED)
def test_moving_a_file_is_neither_tampered_nor_stale(bets: Bets, change: str) -> None:
    put(bets)
    judged(bets, recording=True)
    put(bets, file="sub/moved.yaml", model={"path": "../../model"}, **MOVED[change])
    (bets.path / "drop-one.yaml").unlink()
    assert judged(bets).passed
    assert judged(bets, weights="sha256:other", text="sha256:other").word is Word.STALE
    assert "## To be put right" not in summary(bets.path, bets.catalogue)
    # What is recorded next is as the bet now stands, and amends nothing.
    assert judged(bets, recording=True).passed
    record = read_record(bets.path / "records" / "drop-one.json")
    assert record.bet["model"] == {"path": "../../model"}
    assert not record.amended


def test_of_several_checkpoints_each_is_compared() -> None:
    first, second = (made()["checkpoints"][0] | {"checkpoint": name} for name in "ab")
    before = {"checkpoints": [first, second]}
    now = {"checkpoints": [first, second | {"digests": {"weights": "sha256:other"}}]}
    reported = stale_files(measured(provenance=before), measured(provenance=now))
    assert reported[0] == "weights of b: sha256:weights -> sha256:other"
    assert not [each for each in reported if "of a" in each]


@pytest.mark.parametrize(
    "change",
    [
        {"model": "reference"},
        {"measure": {"text": {"reference": "heldout"}, "tokens": 1024, "window": 128}},
        {"measure": {"text": {"file": "../text.txt"}, "tokens": 2048, "window": 128}},
    ],
    ids=json.dumps,
)
def test_anything_else_is_still_a_change_of_the_bet(bets: Bets, change: dict[str, Any]) -> None:
    put(bets)
    judged(bets, recording=True)
    put(bets, **change)
    assert judged(bets).word is Word.TAMPERED


def test_without_digests_another_path_is_a_change_of_the_bet(bets: Bets) -> None:
    put(bets)
    bets.judge("drop-one", recording=True)
    put(bets, model={"path": "../other"})
    assert bets.judge("drop-one").word is Word.TAMPERED


def test_a_text_that_a_model_is_trained_on_may_move_where_its_digest_is_known(bets: Bets) -> None:
    done = [PROPOSAL["intervention"], TRAIN]
    moved = [PROPOSAL["intervention"], {"train": {"steps": 1, "text": {"file": "sub/train.txt"}}}]
    put(bets, intervention=done)
    judged(bets, recording=True)
    put(bets, intervention=moved)
    assert judged(bets).word is Word.TAMPERED
    put(bets, intervention=done)
    (bets.path / "records" / "drop-one.json").unlink()
    judged(bets, recording=True, training="sha256:a")
    put(bets, intervention=moved)
    assert judged(bets, training="sha256:a").passed
    outcome = judged(bets, training="sha256:b")
    assert outcome.word is Word.STALE
    assert "training text 0: sha256:a -> sha256:b" in text_of(outcome)


def candidate(**more: str) -> dict[str, Any]:
    return {"load_checkpoint": {"path": "../other", **more}}


def test_a_candidate_may_move_where_its_digest_is_known(bets: Bets) -> None:
    put(bets, intervention=candidate())
    judged(bets, recording=True, candidate="sha256:a")
    (bets.root / "other").rename(bets.root / "renamed")
    put(bets, intervention=candidate(path="../renamed"))
    assert judged(bets, candidate="sha256:a").passed
    outcome = judged(bets, candidate="sha256:b")
    assert (outcome.word, outcome.passed) == (Word.STALE, False)
    assert "weights of the candidate: sha256:a -> sha256:b" in text_of(outcome)
    put(bets, intervention=candidate(path="../renamed", **{"as": "stored"}))
    assert judged(bets, candidate="sha256:a").word is Word.TAMPERED


def test_a_candidate_of_an_unknown_digest_may_not_move(bets: Bets) -> None:
    put(bets, intervention=candidate())
    judged(bets, recording=True)
    shutil.copytree(bets.root / "other", bets.root / "third")
    put(bets, intervention=candidate(path="../third"))
    assert judged(bets).word is Word.TAMPERED


def test_a_gguf_file_may_move_and_be_replaced_in_the_open() -> None:
    text = """\
id: moved
title: Moved
claim: It holds.
status: proposed
model: {gguf: MODEL, sha256: DIGEST}
arms:
  file: {load_checkpoint: {gguf: MODEL, sha256: DIGEST}}
  adapter: {load_checkpoint: {adapter: MODEL}}
measure: {text: {reference: heldout}, tokens: 1024, window: 128}
criteria: {lenient: file.kl <= 1}
"""
    bet, other = (
        parse_bets(text.replace("MODEL", name).replace("DIGEST", digest * 64), Path("bets/a.yaml"))[
            0
        ].bet
        for name, digest in (("a.gguf", "a"), ("b.gguf", "b"))
    )
    one, two = (json.loads(canonical(each)) for each in (bet, other))
    assert unplaced(one) == unplaced(two)
    changed = differences(*(json.dumps(unplaced(each, candidates=False)) for each in (one, two)))
    assert [key for key, _, _ in changed] == [
        "arms.adapter[0].load_checkpoint.adapter",
        "arms.file[0].load_checkpoint.gguf",
        "arms.file[0].load_checkpoint.sha256",
    ]
