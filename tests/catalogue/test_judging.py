"""From bets on the disk to outcomes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from support.catalogue import BET_40, PROPOSAL, RATIOS, measured

from pytest_layerguard.catalogue.outcome import Word
from pytest_layerguard.catalogue.records import path_of
from pytest_layerguard.measurement.metrics import task_metrics
from pytest_layerguard.measurement.metrics.task_metrics import Answer, Question

if TYPE_CHECKING:
    from support.catalogue import Bets

    from pytest_layerguard.catalogue.outcome import Outcome


def reported(outcome: Outcome) -> str:
    return "\n".join(outcome.messages)


def test_a_crossing_proposal_is_met_by_all_that_it_needs_to_know(bets: Bets) -> None:
    bets.put(BET_40)
    outcome = bets.judge(bets.put())
    assert (outcome.word, outcome.passed, bets.measured) == (Word.CROSSED, False, [])
    assert [each.id for each in outcome.crossed] == ["bet-40"]
    for words in (
        "bet-40 (Skip each layer), bets/bet-40.yaml:1",
        "claim that failed: At least one layer can be skipped at no more than 3x the perplexity.",
        "it closes: skip_layers, remove_layers on models with parameters <= 1e8",
        "its evidence (published, not measured here): Bet 40, Skip-each-layer ablation, "
        "FractalMoE 30M: CATASTROPHIC; base perplexity 89; skip-0 perplexity 7120",
        "you stand in it with: skip_layers",
        "on: reference (parameters 836,880)",
        "another intervention; a model outside 'parameters <= 1e8'; or 'challenges: [bet-40]', "
        "which is measured and must also meet 'any(perplexity_ratio <= 3)'",
    ):
        assert words in reported(outcome)


def test_the_record_of_a_falsification_is_shown_rather_than_its_evidence(bets: Bets) -> None:
    bets.record(bets.put(BET_40), 80, 24)
    outcome = bets.judge(bets.put())
    assert "its record: CATASTROPHIC: all(perplexity_ratio >= 10)" in reported(outcome)
    assert "skip-1: 24 [22.86, 25.2] >= 10 is true" in reported(outcome)
    assert "(on 1,024 tokens)" in reported(outcome)
    assert "evidence" not in reported(outcome)


def test_several_crossings_are_all_reported(bets: Bets) -> None:
    bets.put(BET_40)
    bets.put(BET_40, id="bet-41", title="Skip the last")
    outcome = bets.judge(bets.put())
    assert "bet-40 and bet-41 closed this door" in reported(outcome)
    assert [each.id for each in outcome.crossed] == ["bet-40", "bet-41"]
    assert reported(outcome).count("or 'challenges: [bet-40, bet-41]', which is measured") == 2


def test_whoever_challenges_one_of_several_must_name_them_all(bets: Bets) -> None:
    bets.put(BET_40)
    bets.put(BET_40, id="bet-41", title="Skip the last")
    outcome = bets.judge(bets.put(challenges=["bet-41"]))
    assert (outcome.word, bets.measured) == (Word.CROSSED, [])
    assert "bet-40 closed this door" in reported(outcome)
    assert "or 'challenges: [bet-40, bet-41]', which is measured" in reported(outcome)


@pytest.mark.parametrize(
    ("ratio", "word", "passed"),
    [(1.2, "STRICT", True), (2.5, "LENIENT", True), (5, "CROSSED", False), (80, "CROSSED", False)],
)
def test_a_challenge_must_meet_the_bar_of_what_it_challenges(
    bets: Bets, ratio: float, word: str, passed: bool
) -> None:
    bets.put(BET_40)
    outcome = bets.judge(bets.put(challenges=["bet-40"]), ratio)
    assert (str(outcome.word), outcome.passed) == (word, passed)
    assert bets.measured == ["drop-one"]
    if passed:
        assert any("the catalogue should be revisited" in each for each in outcome.warnings)
    else:
        assert "bet-40" in [each.id for each in outcome.crossed]
        assert f"skip-0: {ratio:g} [" in reported(outcome)


@pytest.mark.parametrize(("ratios", "passed"), [((1.2, 2), True), ((1.2, 20), False)])
def test_a_bar_is_not_met_by_choosing(bets: Bets, ratios: tuple[float, ...], passed: bool) -> None:
    one = {"skip_layers": {"layers": 3}}
    bets.put(BET_40, intervention=one, criteria={"lenient": "perplexity_ratio <= 3"})
    each = {"skip_layers": {"layers": {"each": [1, 2]}}}
    criteria = {"lenient": "any(perplexity_ratio <= 3)"}
    bets.put(intervention=each, criteria=criteria, challenges=["bet-40"])
    outcome = bets.judge("drop-one", *ratios)
    assert outcome.passed == passed
    assert passed or "perplexity_ratio 20 [" in reported(outcome)


def test_only_arms_that_stand_in_the_door_are_held_to_its_bar(bets: Bets) -> None:
    bets.put(BET_40)
    arms = {"kept": {"average_experts": {}}, "gone": {"skip_layers": {"layers": 2}}}
    criteria = {"lenient": "gone.perplexity_ratio <= kept.perplexity_ratio"}
    bets.put(intervention=None, arms=arms, criteria=criteria, challenges=["bet-40"])
    rows = measured(20, 2).variants
    named = tuple(replace(row, arm=arm, target="") for row, arm in zip(rows, arms, strict=True))
    assert bets.judge("drop-one", variants=named).passed
    named = (named[0], replace(named[1], metrics=named[0].metrics))
    outcome = bets.judge("drop-one", variants=named)
    assert outcome.word is Word.CROSSED


def test_a_challenge_at_the_bar_is_inconclusive(bets: Bets) -> None:
    bets.put(BET_40)
    outcome = bets.judge(bets.put(challenges=["bet-40"]), 2.9, spread=1.2)
    assert (outcome.word, outcome.passed) == (Word.INCONCLUSIVE, False)
    assert "the bar of bet-40: any(perplexity_ratio <= 3)" in reported(outcome)


@pytest.mark.parametrize(
    ("challenges", "said"),
    [
        (["bet-39"], "challenges: 'bet-39' is no bet of the catalogue; allowed: bet-40"),
        (["other"], "challenges: 'other' is proposed and closes no door; allowed: bet-40"),
        (["bet-38"], "challenges: 'bet-38' closed a door that this bet does not stand in"),
    ],
)
def test_a_mistaken_challenge_is_an_error_and_not_measured(
    bets: Bets, challenges: list[str], said: str
) -> None:
    bets.put(BET_40)
    bets.put(id="other", intervention={"train": {"steps": 1, "text": {"reference": "training"}}})
    closes = {"interventions": ["average_experts"], "models": "experts >= 2"}
    bets.put(BET_40, id="bet-38", intervention={"average_experts": {}}, closes=closes,
             criteria={"lenient": "perplexity_ratio <= 3"})  # fmt: skip
    outcome = bets.judge(bets.put(challenges=challenges))
    assert (outcome.word, outcome.passed, bets.measured) == (Word.ERROR, False, [])
    assert said in reported(outcome)


def test_a_challenge_must_measure_what_the_bar_is_about(bets: Bets) -> None:
    sample = {"prompts": ["Once upon a time"], "tokens": 100}
    bets.put(
        BET_40,
        measure={**BET_40["measure"], "sample": sample},
        criteria={"lenient": "any(unique_tokens >= 20)"},
    )
    outcome = bets.judge(bets.put(challenges=["bet-40"]))
    assert outcome.word is Word.ERROR
    assert "its bar needs unique_tokens; add measure.sample" in reported(outcome)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "STRICT"),
        ({"status": "upheld"}, "STRICT"),
        ({"criteria": {"lenient": "perplexity_ratio <= 1"}}, "FALSIFIED"),
    ],
)
def test_a_bet_outside_every_door_is_measured(
    bets: Bets, changes: dict[str, Any], expected: str
) -> None:
    bets.put(BET_40)
    bets.put(**{"intervention": {"average_experts": {}}, **changes})
    outcome = bets.judge("drop-one", 1.2)
    assert outcome.verdict is not None
    assert str(outcome.verdict) == expected
    assert bets.measured == ["drop-one"]


def test_a_door_holds_where_the_falsification_itself_cannot_run(bets: Bets) -> None:
    hub = {"hub": "ORG/large", "revision": "0" * 40}
    bets.put(BET_40, model=hub, needs={"gpu": "640GiB"})
    assert bets.judge(bets.put()).word is Word.CROSSED


def test_a_model_whose_configuration_is_out_of_reach_is_neither_measured_nor_passed(
    bets: Bets,
) -> None:
    bets.put(BET_40)
    id_ = bets.put(model={"hub": "nobody/nothing-here", "revision": "0" * 40})
    outcome = bets.judge(id_)
    assert (outcome.word, outcome.passed, bets.measured) == (Word.SKIPPED, False, [])
    assert "whether bet-40 closed this door is not known" in reported(outcome)
    assert "not in the cache" in reported(outcome)
    required = bets.judge(id_, require={"all"})
    assert (required.word, required.passed) == (Word.UNMEASURED, False)


def test_a_model_that_a_name_alone_puts_outside_needs_no_configuration(bets: Bets) -> None:
    closes = {"interventions": ["skip_layers"], "models": 'name == "ORG/other" and layers < 9'}
    bets.put(BET_40, closes=closes)
    id_ = bets.put(model={"hub": "nobody/nothing-here", "revision": "0" * 40})
    assert bets.judge(id_).word is Word.STRICT


@pytest.mark.parametrize("status", ["proposed", "upheld"])
def test_no_door_is_called_open_while_a_bet_file_cannot_be_read(bets: Bets, status: str) -> None:
    (bets.path / "broken.yaml").write_text("id: [", encoding="utf-8")
    outcome = bets.judge(bets.put(status=status))
    assert (outcome.word, outcome.passed, bets.measured) == (Word.ERROR, False, [])
    assert "the catalogue cannot be read whole" in reported(outcome)
    assert "broken.yaml:1" in reported(outcome)


def test_a_falsification_is_judged_whatever_else_is_broken(bets: Bets) -> None:
    (bets.path / "broken.yaml").write_text("id: [", encoding="utf-8")
    assert bets.judge(bets.put(BET_40), 80).passed


@pytest.mark.parametrize("verdict", ["STRICT", "LENIENT", "FALSIFIED", "CATASTROPHIC"])
@pytest.mark.parametrize("later", ["STRICT", "LENIENT", "FALSIFIED", "CATASTROPHIC"])
def test_an_upheld_bet_may_not_get_worse(bets: Bets, verdict: str, later: str) -> None:
    id_ = bets.put(BET_40, status="upheld", closes=None)
    bets.record(id_, RATIOS[verdict])
    outcome = bets.judge(id_, RATIOS[later])
    holds = ("STRICT", "LENIENT")
    fine = verdict in holds and later in holds and (verdict, later) != ("STRICT", "LENIENT")
    assert outcome.passed == fine
    assert outcome.word == (Word(later) if fine else Word.REGRESSED)
    # A record that contradicts the status is met before anything is measured.
    assert outcome.verdict_before == (verdict if verdict in holds else None)


def test_an_upheld_bet_inside_a_door_says_so(bets: Bets) -> None:
    id_ = bets.put(status="upheld")
    bets.record(id_, 2.5)
    bets.put(BET_40)
    for ratio, said in ((2.5, "the catalogue contradicts itself"), (20, "without the bar of")):
        outcome = bets.judge(id_, ratio)
        assert outcome.passed
        assert any(said in each for each in outcome.warnings)


def test_a_challenge_that_won_under_easier_conditions_says_so(bets: Bets) -> None:
    bets.put(BET_40)
    measure = {"text": {"reference": "training"}, "tokens": 64, "max_base_perplexity": "none"}
    id_ = bets.put(challenges=["bet-40"], measure=measure, model="reference@init")
    outcome = bets.judge(id_, 1.2, tokens=64, windows=1, descriptive=True)
    assert outcome.passed
    (said,) = (each for each in outcome.warnings if each.startswith("compared with bet-40"))
    for words in (
        "on 64 tokens instead of 1,024",
        "fewer than 8 windows",
        "on another text",
        "with no bound on the base's perplexity",
        "on reference@init instead of reference",
    ):
        assert words in said


def test_easier_conditions_of_a_recorded_bet_are_a_remark(bets: Bets) -> None:
    bets.put(BET_40)
    id_ = bets.put(status="upheld", challenges=["bet-40"], model="reference@init")
    said = "compared with bet-40 it was measured on reference@init instead of reference"
    new = bets.judge(id_, 1.2)
    assert said in new.warnings
    assert not new.remarks
    bets.record(id_, 1.2)
    known = bets.judge(id_, 1.2)
    assert not known.warnings
    assert known.remarks == (said,)


def test_inconclusive_says_how_many_tokens_would_decide(bets: Bets) -> None:
    outcome = bets.judge(bets.put(criteria={"lenient": "perplexity_ratio <= 3"}), 2.9, spread=1.2)
    assert outcome.word is Word.INCONCLUSIVE
    assert "perplexity_ratio <= 3" in reported(outcome)
    assert "measured on 1,024 tokens, about " in reported(outcome)


def test_records_can_be_required(bets: Bets) -> None:
    id_ = bets.put(BET_40)
    (warning,) = bets.judge(id_, 80).warnings
    assert warning == "unrecorded: no record of it yet; --layerguard-record writes one"
    outcome = bets.judge(id_, 80, require={"records"})
    assert (outcome.word, outcome.passed) == (Word.UNRECORDED, False)
    assert "--layerguard-require records makes that a failure" in reported(outcome)
    recording = bets.judge(id_, 80, require={"records"}, recording=True)
    assert recording.passed
    assert recording.warnings == ()
    assert bets.judge(id_, 80, require={"records"}).passed


def test_a_record_that_cannot_be_written_fails_the_bet(bets: Bets) -> None:
    id_ = bets.put(BET_40)
    (bets.path / "records").write_text("in the way", encoding="utf-8")
    outcome = bets.judge(id_, 80, recording=True)
    assert (outcome.word, outcome.passed) == (Word.ERROR, False)
    assert "cannot be written" in reported(outcome)
    assert str(outcome.verdict) == "CATASTROPHIC"


def test_a_record_is_not_replaced_by_a_worse_result(bets: Bets) -> None:
    id_ = bets.put(status="upheld", intervention={"average_experts": {}})
    before = bets.record(id_, 1.2).read_text(encoding="utf-8")
    outcome = bets.judge(id_, 20, recording=True)
    assert outcome.word is Word.REGRESSED
    assert any("it stays" in each for each in outcome.warnings)
    assert path_of(bets.path, id_).read_text(encoding="utf-8") == before


def test_a_decided_record_is_not_replaced_by_an_undecided_result(bets: Bets) -> None:
    id_ = bets.put(BET_40)
    before = bets.record(id_, 80).read_text(encoding="utf-8")
    outcome = bets.judge(id_, 2.9, spread=1.2, recording=True)
    assert outcome.passed
    assert any("was decided (CATASTROPHIC); it stays" in each for each in outcome.warnings)
    assert path_of(bets.path, id_).read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("right", "lenient", "warned"),
    [
        (70, "q.accuracy_change >= -0.02", False),
        (70, "q.accuracy_change >= -0.05", True),
        (70, "q.accuracy_change >= -0.2", True),
        (190, "q.accuracy_change >= -0.2", False),
        (190, "q.accuracy >= 0.2", True),
        (190, "q.flips <= 0.1", False),
        (190, "perplexity_ratio <= 3", False),
        (70, "perplexity_ratio <= 0.1", False),
    ],
)
def test_a_claim_that_guesses_would_not_fail_says_so(
    bets: Bets, right: int, lenient: str, warned: bool
) -> None:
    answers = [Answer(place < right, "a", ()) for place in range(200)]
    found = task_metrics.metrics(answers, [answers], 1)
    change = task_metrics.change([Question("q", "a", 0.25)] * 200, answers, [answers])
    (variant,) = measured(1.2).variants
    metrics = {**variant.metrics, **{f"q.{name}": value for name, value in found.items()}}
    id_ = bets.put(
        intervention={"skip_layers": {"layers": 0}},
        measure={**PROPOSAL["measure"], "tasks": {"q": {"reference": "questions"}}},
        criteria={"lenient": lenient},
    )
    outcome = bets.judge(id_, variants=(replace(variant, metrics=metrics, tasks={"q": change}),))
    told_ = [each for each in outcome.warnings if "does not rule out a model that guesses" in each]
    assert bool(told_) == warned, outcome
    if warned:
        assert told_[0].startswith(
            "lenient does not rule out a model that guesses the answers of q: guesses are right"
        )
