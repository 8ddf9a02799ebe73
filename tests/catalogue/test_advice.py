"""A proposal that removes or merges layers by one protocol is told of the other."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.catalogue import BET_40, Bets

from pytest_layerguard.bet.model import Bet
from pytest_layerguard.bet.reading import parse_bets
from pytest_layerguard.catalogue.advice import advice

PROPOSAL = """
id: {id}
title: Remove layers
claim: It can be done.
status: {status}
model: {model}
{done}
measure:
  {text}
  tokens: 1024
  window: 128
  positions: last
criteria:
  lenient: {lenient}
"""
TEXT = "text: {reference: heldout}"


def bet(
    done: str,
    lenient: str = "perplexity_ratio <= 3",
    status: str = "proposed",
    model: str = "reference",
    text: str = TEXT,
    name: str = "remove-some",
) -> Bet:
    told = PROPOSAL.format(
        id=name, done=done, lenient=lenient, status=status, model=model, text=text
    )
    return parse_bets(told, Path("bets/a.yaml"))[0].bet


def offered(told: str | None) -> Bet:
    """The bet that the advice ends with, as a reader would save it."""
    assert told is not None
    return parse_bets(told.partition("\n\n")[2], Path("bets/b.yaml"))[0].bet


@pytest.mark.parametrize(
    ("guide", "reports", "missing"),
    [
        ("replacement", "reports replacement alone", "not interchange."),
        ("interchange", "reports interchange alone", "not replacement."),
        ("block_influence", "and reports neither", "neither replacement nor interchange."),
    ],
)
def test_a_guided_removal_is_offered_both(guide: str, reports: str, missing: str) -> None:
    proposal = bet(f"intervention: {{remove_layers: {{count: 2, guided_by: {guide}}}}}")
    told = advice(proposal)
    assert told is not None
    assert reports in told
    assert missing in told
    made = offered(told)
    assert made.id == "remove-some-both-protocols"
    assert made.model == proposal.model
    assert made.measure == proposal.measure
    slugs = {arm: done[0].arguments.slug() for arm, done in made.arm_interventions.items()}
    assert slugs == {
        "replacement": "remove-2-by-replacement",
        "interchange": "remove-2-by-interchange",
    }
    assert advice(made) is None


def test_named_layers_are_as_many() -> None:
    made = offered(advice(bet("intervention: {remove_layers: {layers: [1, 3]}}")))
    assert {done[0].arguments.slug() for done in made.arm_interventions.values()} == {
        "remove-2-by-replacement",
        "remove-2-by-interchange",
    }


@pytest.mark.parametrize("kind", ["replace_layers", "interchange_layers"])
@pytest.mark.parametrize(
    ("pairs", "lenient", "criterion"),
    [
        ("{each: adjacent}", "all(swap_kl <= 0.1)", "mean(protocol_gap) > 0"),
        ("[[1, 2]]", "swap_kl <= 0.1", "protocol_gap > 0"),
    ],
)
def test_merged_layers_are_offered_the_same_pairs(
    kind: str, pairs: str, lenient: str, criterion: str
) -> None:
    made = offered(advice(bet(f"intervention: {{{kind}: {{pairs: {pairs}}}}}", lenient)))
    assert made.criteria.lenient.text == criterion
    written = {done[0].kind for done in made.arm_interventions.values()}
    assert written == {"replace_layers", "interchange_layers"}


def test_every_text_and_checkpoint_is_compared() -> None:
    proposal = bet(
        "intervention: {remove_layers: {count: 1, guided_by: replacement}}",
        "all(perplexity_ratio <= 3)",
        model="{reference: reference, revisions: {init: init, trained: trained}}",
        text="texts: {one: {reference: heldout}, two: {reference: training}}",
    )
    lenient = offered(advice(proposal)).criteria.lenient
    assert lenient.text.count(" and ") == 3
    assert "interchange.two.trained.perplexity_ratio" in lenient.text
    gap = bet(
        "intervention: {replace_layers: {pairs: {each: all}}}",
        "all(swap_kl <= 3)",
        model="{reference: reference, revisions: {init: init, trained: trained}}",
    )
    assert (
        offered(advice(gap)).criteria.lenient.text
        == "mean(init.protocol_gap) > 0 and mean(trained.protocol_gap) > 0"
    )


@pytest.mark.parametrize(
    ("done", "lenient", "status"),
    [
        ("intervention: {skip_layers: {layers: 1}}", "perplexity_ratio <= 3", "proposed"),
        (
            "intervention: {remove_layers: {count: 1, guided_by: replacement}}",
            "perplexity_ratio <= 3",
            "falsified",
        ),
        (
            "arms:\n  a: {remove_layers: {count: 1, guided_by: replacement}}\n"
            "  b: {remove_layers: {count: 1, guided_by: interchange}}",
            "a.perplexity_ratio <= 3 and b.perplexity_ratio <= 3",
            "proposed",
        ),
    ],
)
def test_others_are_left_alone(done: str, lenient: str, status: str) -> None:
    assert advice(bet(done, lenient, status)) is None


def test_a_long_id_is_cut() -> None:
    done = "intervention: {remove_layers: {count: 1, guided_by: replacement}}"
    made = offered(advice(bet(done, name="r" * 80)))
    assert len(made.id) == 80


@pytest.mark.parametrize("ratio", [1.2, 80])
def test_the_judge_advises_beside_any_word(bets: Bets, ratio: float) -> None:
    removal = {"remove_layers": {"count": 1, "guided_by": "replacement"}}
    outcome = bets.judge(
        bets.put(intervention=removal, criteria={"lenient": "perplexity_ratio <= 3"}), ratio
    )
    assert str(outcome.word) in ("LENIENT", "FALSIFIED")
    assert offered(outcome.warnings[-1]).arms is not None


def test_a_proposal_before_a_closed_door_is_told_of_the_door_alone(bets: Bets) -> None:
    bets.put(BET_40)
    removal = {"remove_layers": {"count": 1, "guided_by": "replacement"}}
    outcome = bets.judge(
        bets.put(intervention=removal, criteria={"lenient": "perplexity_ratio <= 3"})
    )
    assert str(outcome.word) == "CROSSED"
    assert "what you can do" in outcome.reason
    assert outcome.warnings == ()


def test_the_judge_advises_a_challenge_that_lost(bets: Bets) -> None:
    bets.put(BET_40)
    removal = {"remove_layers": {"count": 1, "guided_by": "replacement"}}
    criteria = {"lenient": "perplexity_ratio <= 3"}
    challenge = bets.put(intervention=removal, criteria=criteria, challenges=["bet-40"])
    outcome = bets.judge(challenge, 80)
    assert str(outcome.word) == "CROSSED"
    assert offered(outcome.warnings[-1]).challenges == ("bet-40",)
    assert "interchange" in outcome.warnings[-1]
