"""Every combination of status, record, challenge and verdict, and what each must come to."""

from __future__ import annotations

import pytest
from support.outcomes import (
    CELLS,
    ENDS,
    EVERY,
    REFUSED,
    STATUSES,
    VERDICTS,
    Key,
    expected,
)

from pytest_layerguard.bet.criteria.interval import Truth
from pytest_layerguard.bet.verdict import Verdict
from pytest_layerguard.catalogue.outcome import Case, Decision, Word, decide


def case_of(key: Key, *, measured: bool = True) -> Case:
    status, record, challenge, verdict = key
    truths = {
        "won": Truth.TRUE,
        "undecided": Truth.UNDECIDED,
        "lost": Truth.FALSE,
        "inside": Truth.FALSE,
        "inside-won": Truth.TRUE,
    }
    inside = challenge.startswith("inside")
    held_to = challenge in ("won", "undecided", "lost") or (inside and status == "upheld")
    return Case(
        status=status,  # type: ignore[arg-type]
        verdict=Verdict(verdict) if measured else None,
        recorded=None if record == "none" else Verdict("LENIENT" if record == "short" else record),
        recorded_bar=Truth.FALSE if record == "short" else Truth.TRUE,
        inside=("bet-40",) if inside else (),
        undecided=("bet-40",) if challenge == "unknown" else (),
        challenged=("bet-40",) if held_to and not inside else (),
        bars={"bet-40": truths[challenge]} if held_to and measured else {},
    )


def reported(decision: Decision) -> str:
    return "\n".join(decision.messages if decision.messages else decision.warnings)


def test_the_table_has_every_combination() -> None:
    assert set(CELLS) == set(EVERY)
    assert len(EVERY) == 3 * 7 * 7 * 5
    assert set(CELLS.values()) == set(ENDS)


@pytest.mark.parametrize("status", STATUSES)
def test_every_combination_comes_to_its_word(status: str) -> None:
    for key in (key for key in EVERY if key[0] == status):
        decision = decide(case_of(key))
        word, passed, said = expected(key)
        assert (decision.word, decision.passed) == (Word(word), passed), key
        assert said in reported(decision), key
        assert decision.passed == (not decision.messages), key


def test_what_can_be_decided_without_measuring_is() -> None:
    for key in EVERY:
        decision = decide(case_of(key, measured=False))
        if CELLS[key] in REFUSED:
            assert decision.word == Word(expected(key)[0]), key
        else:
            assert decision.word is None, key
            assert not decision.passed


@pytest.mark.parametrize("key", EVERY[::7], ids="-".join)
def test_a_changed_bet_is_tampered_with_whatever_else_it_is(key: Key) -> None:
    case = case_of(key)
    decision = decide(Case(**{**vars(case), "tampered": True, "mistaken": ("other",)}))
    assert (decision.word, decision.passed) == (Word.TAMPERED, False)
    assert "were changed after the result" in reported(decision)


@pytest.mark.parametrize("key", EVERY[::7], ids="-".join)
def test_a_mistaken_challenge_is_an_error_whatever_else_it_is(key: Key) -> None:
    decision = decide(Case(**{**vars(case_of(key)), "mistaken": ("no such bet",)}))
    assert (decision.word, decision.passed) == (Word.ERROR, False)
    assert reported(decision) == "no such bet"


def test_required_records_fail_every_bet_of_the_catalogue_without_one() -> None:
    for key in EVERY:
        case = Case(**{**vars(case_of(key)), "require_records": True})
        before, decision = decide(case_of(key)), decide(case)
        status, record, _, _ = key
        unrecorded = status != "proposed" and record == "none" and CELLS[key] not in REFUSED
        own = unrecorded and before.passed
        assert decision.word == (Word.UNRECORDED if own else before.word)
        assert decision.passed == (before.passed and not unrecorded), key
        assert ("--layerguard-require records" in reported(decision)) == unrecorded, key


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("field", ["amended", "amended_before"])
def test_an_amendment_is_reported_for_ever(status: str, field: str) -> None:
    for verdict in VERDICTS:
        case = Case(status=status, verdict=Verdict(verdict), **{field: True})  # type: ignore[arg-type]
        assert "amended after the result" in decide(case).warnings


def test_an_amended_bet_has_no_record_of_its_present_text() -> None:
    decision = decide(Case("upheld", Verdict.STRICT, amended=True))
    assert decision.passed
    assert "unrecorded: its record is of the text before the amendment" in decision.warnings


@pytest.mark.parametrize("recorded", ["STRICT", "LENIENT"])
def test_a_proposal_that_was_recorded_as_holding_may_be_upheld(recorded: str) -> None:
    decision = decide(Case("proposed", Verdict.STRICT, recorded=Verdict(recorded)))
    assert decision.passed
    assert "recorded and still proposed; it can be status: upheld" in decision.warnings


def test_several_falsifications_are_all_named() -> None:
    decision = decide(Case("proposed", inside=("bet-38", "bet-39", "bet-40")))
    assert "bet-38, bet-39 and bet-40 closed this door" in reported(decision)
    assert "a challenge must name each of them" in reported(decision)
