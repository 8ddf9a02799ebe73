"""A claim that is weaker than the one that failed, and says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.catalogue import BET_40, PROPOSAL

from pytest_layerguard.bet.criteria.implication import implies, of_one
from pytest_layerguard.bet.criteria.parse import parse
from pytest_layerguard.catalogue.outcome import Outcome, Word
from pytest_layerguard.catalogue.records import read_record
from pytest_layerguard.catalogue.summary import summary

if TYPE_CHECKING:
    from support.catalogue import Bets

SOME = {**BET_40, "criteria": {**BET_40["criteria"], "lenient": "any(perplexity_ratio <= 1.5)"}}
del SOME["criteria"]["strict"]
WEAKER = {"criteria": {"lenient": "perplexity_ratio <= 2.5"}}


def text_of(outcome: Outcome) -> str:
    return "\n".join(outcome.messages)


@pytest.fixture
def some(bets: Bets) -> Bets:
    """A catalogue in which some layer at 1.5x failed; the record says of layer 2 that it does 1.96x."""
    bets.put(SOME)
    bets.record("bet-40", 80, 24, 1.96, 11)
    bets.measured.clear()
    return bets


def test_a_refusal_says_that_the_claim_is_weaker_and_that_the_record_bears_it_out(
    some: Bets,
) -> None:
    outcome = some.judge(some.put(**WEAKER))
    assert (outcome.word, some.measured) == (Word.CROSSED, [])
    for words in (
        "your claim is weaker than the one that failed: 'perplexity_ratio <= 2.5' does not imply "
        "'any(perplexity_ratio <= 1.5)'",
        "its record would meet your bar: perplexity_ratio <= 2.5  ->  "
        "perplexity_ratio 1.96 [1.867, 2.058] <= 2.5 is true",
        "(on 1,024 tokens)",
        "or 'challenges: [bet-40]', which is measured and must also meet 'any(perplexity_ratio <= 1.5)'",
        "or 'acknowledges: [bet-40]', since your claim is weaker: it is measured, judged by its own "
        "criteria, and must not be CATASTROPHIC by that of bet-40",
    ):
        assert words in text_of(outcome)


@pytest.mark.parametrize(
    "changes",
    [
        {"intervention": {"skip_layers": {"layers": 1}}},
        {"intervention": {"remove_layers": {"layers": [2]}}},
        {"model": "reference-wide"},
        {"criteria": {"lenient": "perplexity_ratio <= 1.9"}},
    ],
    ids=str,
)
def test_a_record_of_something_else_bears_nothing_out(some: Bets, changes: dict[str, Any]) -> None:
    outcome = some.judge(some.put(**{**WEAKER, **changes}))
    assert outcome.word is Word.CROSSED
    assert "would meet your bar" not in text_of(outcome)


def test_a_sweep_is_borne_out_by_its_own_variants(some: Bets) -> None:
    sweep = {"intervention": {"skip_layers": {"layers": {"each": [0, 2]}}}}
    outcome = some.judge(some.put(**sweep, criteria={"lenient": "any(perplexity_ratio <= 2.5)"}))
    assert "its record would meet your bar: any(perplexity_ratio <= 2.5)" in text_of(outcome)
    outcome = some.judge(some.put(**sweep, criteria={"lenient": "all(perplexity_ratio <= 2.5)"}))
    assert "would meet your bar" not in text_of(outcome)


@pytest.mark.parametrize(
    ("ratio", "word", "passed"),
    [
        (1.96, Word.LENIENT, True),
        (1.2, Word.LENIENT, True),
        (4, Word.FALSIFIED, False),
        (80, Word.FALSIFIED, False),
    ],
)
def test_it_is_measured_and_judged_by_its_own_criteria(
    some: Bets, ratio: float, word: Word, passed: bool
) -> None:
    outcome = some.judge(some.put(**WEAKER, acknowledges=["bet-40"]), ratio)
    assert (outcome.word, outcome.passed) == (word, passed)
    assert some.measured == ["drop-one"]
    said = "a weaker claim than that of bet-40, which failed"
    assert (said in outcome.warnings) is passed


@pytest.mark.parametrize(("ratio", "word"), [(20, Word.CROSSED), (10.2, Word.INCONCLUSIVE)])
def test_whatever_its_criteria_it_must_not_be_catastrophic_by_the_falsifications(
    some: Bets, ratio: float, word: Word
) -> None:
    loose = {"criteria": {"lenient": "perplexity_ratio <= 50"}, "acknowledges": ["bet-40"]}
    outcome = some.judge(some.put(**loose), ratio)
    assert (outcome.word, outcome.passed) == (word, False)
    assert "the catastrophic criterion of bet-40: all(perplexity_ratio >= 10)" in text_of(outcome)
    assert some.judge("drop-one", 9).passed
    # Kept as falsified, it passes without a word about a claim that was overturned.
    some.put(**loose, status="falsified")
    assert some.judge("drop-one", ratio).passed


def test_the_catastrophe_of_the_record_counts_too(some: Bets) -> None:
    some.put(SOME, criteria={"lenient": "any(perplexity_ratio <= 1.5)"})
    loose = {"criteria": {"lenient": "perplexity_ratio <= 50"}, "acknowledges": ["bet-40"]}
    assert some.judge(some.put(**loose), 20).word is Word.CROSSED


def test_upheld_it_is_no_bet_to_be_put_right(some: Bets) -> None:
    some.put(**WEAKER, acknowledges=["bet-40"], status="upheld")
    assert some.judge("drop-one", 1.96, recording=True).passed
    outcome = some.judge("drop-one", 1.96)
    assert outcome.passed
    assert not [each for each in outcome.warnings if "inside a door" in each]
    reported = summary(some.path, some.catalogue)
    assert "- acknowledges: bet-40" in reported
    assert "To be put right" not in reported
    # Taking the word away leaves it where any recorded bet inside a door is.
    some.put(**WEAKER, status="upheld")
    outcome = some.judge("drop-one", 1.96)
    assert "upheld inside a door that bet-40 closed" in " ".join(outcome.warnings)


def test_losing_to_the_catastrophe_and_calling_it_upheld(some: Bets) -> None:
    loose = {"criteria": {"lenient": "perplexity_ratio <= 50"}, "acknowledges": ["bet-40"]}
    some.record(some.put(**loose), 20)
    record = read_record(some.path / "records" / "drop-one.json")
    assert {name: str(truth.value) for name, truth in record.challenged.items()} == {
        "bet-40": "false"
    }
    some.measured.clear()
    outcome = some.judge(some.put(**loose, status="upheld"), 20)
    assert (outcome.word, some.measured) == (Word.REGRESSED, [])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"criteria": {"lenient": "perplexity_ratio <= 1.4"}},
            "your claim is as strong as the one that failed: 'perplexity_ratio <= 1.4' implies "
            "'any(perplexity_ratio <= 1.5)'; challenge it instead",
        ),
        ({"acknowledges": ["nothing"]}, "'nothing' is no bet of the catalogue; allowed: bet-40"),
        (
            {"intervention": {"average_experts": {}}},
            "closed a door that this bet does not stand in",
        ),
    ],
    ids=["strong", "unknown", "elsewhere"],
)
def test_what_is_wrong_with_the_word_is_an_error(
    some: Bets, changes: dict[str, Any], said: str
) -> None:
    outcome = some.judge(some.put(**{**WEAKER, "acknowledges": ["bet-40"], **changes}))
    assert (outcome.word, some.measured) == (Word.ERROR, [])
    assert said in text_of(outcome)


def test_it_must_measure_what_the_catastrophe_is_about(bets: Bets) -> None:
    criteria = {**SOME["criteria"], "catastrophic": "all(unique_tokens <= 5)"}
    measure = {**SOME["measure"], "sample": {"prompts": ["Once"], "tokens": 100}}
    bets.put(SOME, criteria=criteria, measure=measure)
    outcome = bets.judge(bets.put(**WEAKER, acknowledges=["bet-40"]))
    assert outcome.word is Word.ERROR
    assert "its bar needs unique_tokens; add measure.sample" in text_of(outcome)


def test_of_several_doors_each_needs_its_word(some: Bets) -> None:
    some.put(BET_40, id="bet-41", title="Skip any layer")
    assert some.judge(some.put(**WEAKER, acknowledges=["bet-40"])).word is Word.CROSSED
    both = {"challenges": ["bet-41"], "acknowledges": ["bet-40"]}
    assert some.judge(some.put(**WEAKER, **both), 1.96).passed
    # 2.3x meets its own bar and bet-41's, 2.9x only that of bet-41.
    assert some.judge("drop-one", 2.3).passed
    assert not some.judge("drop-one", 2.9).passed


@pytest.mark.parametrize(
    ("own", "failed", "swept", "weaker"),
    [
        ("perplexity_ratio <= 1.5", "any(perplexity_ratio <= 1.5)", False, False),
        ("perplexity_ratio <= 1.6", "any(perplexity_ratio <= 1.5)", False, True),
        ("perplexity_ratio <= 1.4", "max(perplexity_ratio) <= 1.5", False, False),
        ("perplexity_ratio <= 1.4 and kl <= 1", "mean(perplexity_ratio) <= 1.5", False, False),
        ("kl <= 0.1", "any(perplexity_ratio <= 1.5)", False, True),
        ("any(perplexity_ratio <= 1.4)", "any(perplexity_ratio <= 1.5)", True, False),
        ("any(perplexity_ratio <= 1.4)", "all(perplexity_ratio <= 1.5)", True, True),
        ("any(perplexity_ratio <= 1.4)", "perplexity_ratio <= 1.5", True, True),
        ("all(perplexity_ratio <= 1.4)", "perplexity_ratio <= 1.5", True, False),
    ],
)
def test_how_strong_a_claim_is(
    bets: Bets, own: str, failed: str, swept: bool, weaker: bool
) -> None:
    each = {"intervention": {"skip_layers": {"layers": {"each": "all"}}}}
    theirs = each if "(" in failed else {"intervention": {"skip_layers": {"layers": 2}}}
    bets.put(BET_40, criteria={"lenient": failed}, **theirs)
    mine = each if swept else {"intervention": PROPOSAL["intervention"]}
    outcome = bets.judge(bets.put(**mine, criteria={"lenient": own}))
    assert outcome.word is Word.CROSSED
    assert ("your claim is weaker" in text_of(outcome)) is weaker
    assert ("'acknowledges: [bet-40]'" in text_of(outcome)) is weaker


def test_one_measurement_is_any_and_all_and_the_mean_of_it() -> None:
    for text in ("any(kl <= 1)", "all(kl <= 1)", "max(kl) <= 1", "not -mean(kl) < -1"):
        node = of_one(parse(text, quantifiers=True, texts=False))
        assert "Quantifier" not in repr(node)
    one = of_one(parse("max(kl) <= 1", quantifiers=True, texts=False))
    assert implies(parse("kl <= 1", quantifiers=True, texts=False), one)
