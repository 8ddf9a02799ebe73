"""Ways past a closed door by where a bet lies and what it is called."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.catalogue import BET_40, PROPOSAL, Bets, measured

from pytest_layerguard.bet.reader import read_bets
from pytest_layerguard.catalogue.bet_folders import bet_files
from pytest_layerguard.catalogue.outcome import Word
from pytest_layerguard.catalogue.summary import SummaryError, summary

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links take rights on Windows")


def reported(bets: Bets, id_: str, folder: Path | None = None) -> tuple[Word, str]:
    bets.measured.clear()
    outcome = bets.judge(id_, bets=folder)
    assert (outcome.passed, bets.measured) == (False, [])
    return outcome.word, "\n".join(outcome.messages)


def below(bets: Bets, where: str, **changes: Any) -> Path:
    """A bet folder with a proposal in it, somewhere else in the project."""
    folder = bets.root / where
    folder.mkdir(parents=True)
    (folder / "new.yaml").write_text(json.dumps({**PROPOSAL, **changes}), encoding="utf-8")
    return folder


def test_borrowing_the_id_of_the_falsification(bets: Bets) -> None:
    bets.put(BET_40)
    bets.put(id="bet-40", file="bet-39.yaml")
    assert read_bets(bets.path / "bet-39.yaml")[0] == bets.document("bet-40")
    word, said = reported(bets, "bet-40")
    assert word is Word.ERROR
    assert "'bet-40' is already the id of the bet at" in said
    with pytest.raises(SummaryError, match="already the id"):
        summary(bets.path, bets.catalogue)


def test_borrowing_it_in_a_bet_folder_further_down(bets: Bets) -> None:
    bets.put(BET_40)
    folder = below(bets, "tools/bets", id="bet-40")
    assert reported(bets, "bet-40", folder)[0] is Word.CROSSED


@pytest.mark.parametrize("top", [".git", "pyproject.toml"])
def test_choosing_a_root_below_the_catalogue(bets: Bets, top: str) -> None:
    bets.put(BET_40)
    folder = below(bets, "tools/bets")
    (bets.root / top).touch()
    bets.root = bets.root / "tools"
    if top == ".git":
        assert reported(bets, "drop-one", folder)[0] is Word.CROSSED
    else:
        # Where no checkout says how far a project goes, the root directory does.
        assert bets.judge("drop-one", bets=folder).passed


def test_a_link_from_elsewhere_to_a_bet_folder(bets: Bets, tmp_path: Path) -> None:
    (bets.root / ".git").mkdir()
    bets.put(BET_40)
    folder = below(bets, "tools/bets")
    bets.root = tmp_path / "elsewhere"
    bets.root.mkdir()
    link = bets.root / "bets"
    link.symlink_to(folder)
    assert reported(bets, "drop-one", link)[0] is Word.CROSSED


def test_a_falsification_behind_a_link(bets: Bets) -> None:
    bets.put(BET_40, file="../common/40.yaml")
    (bets.path / "common").symlink_to(bets.root / "common")
    assert reported(bets, bets.put())[0] is Word.CROSSED


def test_links_in_a_circle_are_walked_once(bets: Bets) -> None:
    bets.put(BET_40, file="deep/40.yaml")
    (bets.path / "deep" / "round").symlink_to(bets.path)
    assert [path.name for path in bet_files(bets.path)] == ["40.yaml"]


def test_records_behind_a_link(bets: Bets) -> None:
    bets.put(BET_40)
    bets.record(bets.put(status="upheld"), 20)
    (bets.path / "records").rename(bets.root / "elsewhere")
    (bets.path / "records").symlink_to(bets.root / "elsewhere")
    word, said = reported(bets, "drop-one")
    assert word is Word.CROSSED
    bets.put(intervention={"average_experts": {}})
    word, said = reported(bets, "drop-one")
    assert word is Word.ERROR
    assert "records: is a link; records stay in the bet folder" in said


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_falsification_that_may_not_be_read(bets: Bets) -> None:
    bets.put(BET_40)
    (bets.path / "bet-40.yaml").chmod(0)
    word, said = reported(bets, bets.put())
    assert word is Word.ERROR
    assert "bet-40.yaml:1:1: cannot be read: Permission denied" in said


@pytest.mark.parametrize("instead", ["a pipe", "a broken link", "bytes"])
def test_a_falsification_with_something_else_in_its_place(bets: Bets, instead: str) -> None:
    path = bets.path / "bet-40.yaml"
    match instead:
        case "a pipe":
            os.mkfifo(path)
        case "a broken link":
            path.symlink_to("nowhere.yaml")
        case _:
            path.write_bytes(b"\xff\xfe")
    word, said = reported(bets, bets.put())
    assert word is Word.ERROR
    assert "the catalogue cannot be read whole" in said


ARMS = {"a": {"skip_layers": {"layers": 1}}, "b": {"skip_layers": {"layers": 2}}}
OTHER: dict[str, Any] = {"average_experts": {}}


@pytest.mark.parametrize(
    ("arms", "said"),
    [
        ({"a": OTHER, "c": ARMS["b"]}, "its bar is about a; the arm 'c' stands in the door too"),
        (
            {"a": OTHER, "b": ARMS["b"]},
            "its bar is about a, which stands in the door there and not",
        ),
        ({"c": ARMS["a"]}, "name an arm, a text or a checkpoint 'a'"),
    ],
)
def test_calling_something_harmless_by_the_name_that_a_bar_is_about(
    bets: Bets, arms: dict[str, Any], said: str
) -> None:
    lenient = {"lenient": "a.perplexity_ratio <= 3"}
    bets.put(BET_40, intervention=None, arms=ARMS, criteria=lenient)
    own = {"lenient": f"{next(iter(arms))}.perplexity_ratio <= 300"}
    bets.put(intervention=None, arms=arms, criteria=own, challenges=["bet-40"])
    word, why = reported(bets, "drop-one")
    assert word is Word.ERROR
    assert said in why


def test_a_bar_about_two_arms_names_both(bets: Bets) -> None:
    lenient = {"lenient": "a.perplexity_ratio <= b.perplexity_ratio"}
    bets.put(BET_40, intervention=None, arms=ARMS, criteria=lenient)
    bets.put(intervention=None, arms={**ARMS, "c": ARMS["a"]}, criteria=lenient,
             challenges=["bet-40"])  # fmt: skip
    word, why = reported(bets, "drop-one")
    assert word is Word.ERROR
    assert "its bar is about a, b; the arm 'c' stands in the door too" in why


def test_a_bar_about_an_arm_is_met_by_that_arm(bets: Bets) -> None:
    lenient = {"lenient": "a.perplexity_ratio <= 3"}
    bets.put(BET_40, intervention=None, arms=ARMS, criteria=lenient)
    bets.put(intervention=None, arms={"a": ARMS["a"], "o": OTHER}, criteria=lenient,
             challenges=["bet-40"])  # fmt: skip
    rows = measured(2, 200).variants
    named = tuple(replace(row, arm=arm, target="") for row, arm in zip(rows, "ao", strict=True))
    assert bets.judge("drop-one", variants=named).passed
