"""Every combination of status, record, challenge and verdict, and what each must come to."""

from __future__ import annotations

import itertools
from typing import Final

import pytest

from pytest_layerguard.bet.interval import Truth
from pytest_layerguard.bet.verdict import Verdict
from pytest_layerguard.catalogue.outcome import Case, Decision, Word, decide

VERDICTS: Final = ("STRICT", "LENIENT", "INCONCLUSIVE", "FALSIFIED", "CATASTROPHIC")
STATUSES: Final = ("proposed", "upheld", "falsified")
RECORDS: Final = ("none", *VERDICTS, "short")
"""The verdict of the record; `short`: held by its own criteria, short of the bar it challenged."""
CHALLENGES: Final = ("none", "won", "undecided", "lost", "inside", "inside-won", "unknown")
"""`won` to `lost`: a challenge and its bar. `inside`: in a closed door without a challenge, where
the bar would be missed, or (`inside-won`) met. `unknown`: whether it is inside cannot be told."""

GROUPS: Final = {
    "*": RECORDS,
    "held": ("STRICT", "LENIENT"),
    "lost": ("FALSIFIED", "CATASTROPHIC", "short"),
    "not-held": ("INCONCLUSIVE", "FALSIFIED", "CATASTROPHIC", "short"),
    "not-lost": ("none", "STRICT", "LENIENT", "INCONCLUSIVE"),
}
"""What stands for several records in the table."""
CHALLENGE_GROUPS: Final = {
    "*": CHALLENGES,
    "not-barred": ("none", "won", "inside", "inside-won", "unknown"),
}

TABLE: Final = """
status    record   challenge         | STRICT       LENIENT      INCONCLUSIVE FALSIFIED    CATASTROPHIC
proposed  not-lost none              | pass         pass         undecided    fails        fails
proposed  not-lost won               | won          won          undecided    loses        loses
proposed  not-lost undecided         | undecided    undecided    undecided    loses        loses
proposed  not-lost lost              | short        short        short        loses        loses
proposed  not-lost inside,inside-won | crossed      crossed      crossed      crossed      crossed
proposed  not-lost unknown           | skip         skip         skip         skip         skip
proposed  lost     *                 | has-lost     *            *            *            *
upheld    none     none              | new          new          new-unproven new-fails    new-fails
upheld    none     won               | new          new          new-unproven new-fails    new-fails
upheld    none     undecided         | undecided    undecided    new-unproven new-fails    new-fails
upheld    none     lost              | short        short        new-unproven new-fails    new-fails
upheld    none     inside,inside-won | crossed-new  *            *            *            *
upheld    none     unknown           | skip         skip         skip         skip         skip
upheld    STRICT   none,won,unknown  | pass         worse        worse-unsure regressed    regressed
upheld    STRICT   undecided         | undecided    worse        worse-unsure regressed    regressed
upheld    STRICT   lost,inside       | short        worse        worse-unsure regressed    regressed
upheld    STRICT   inside-won        | contradicts  worse        worse-unsure regressed    regressed
upheld    LENIENT  none,won,unknown  | pass         pass         worse-unsure regressed    regressed
upheld    LENIENT  undecided         | undecided    undecided    worse-unsure regressed    regressed
upheld    LENIENT  lost,inside       | short        short        worse-unsure regressed    regressed
upheld    LENIENT  inside-won        | contradicts  contradicts  worse-unsure regressed    regressed
upheld    not-held *                 | never-held   *            *            *            *
falsified none     not-barred        | overturned   overturned   new-unsure   new-stands   new-stands
falsified none     undecided         | new-unsure   new-unsure   new-unsure   new-stands   new-stands
falsified none     lost              | new-short    new-short    new-short    new-stands   new-stands
falsified held     *                 | has-won      *            *            *            *
falsified not-held not-barred        | overturned   overturned   unsure       stands       stands
falsified not-held undecided         | unsure       unsure       unsure       stands       stands
falsified not-held lost              | stays-short  stays-short  stays-short  stands       stands
"""

MEASURED: Final = "measured"
"""Stands for the verdict that was measured, as the word."""

ENDS: Final[dict[str, tuple[str, bool, str]]] = {
    # cell: the word, whether the test passes, what its messages or else its warnings say
    "pass": (MEASURED, True, ""),
    "fails": (MEASURED, False, "the claim does not hold; keep the bet as status: falsified"),
    "undecided": ("INCONCLUSIVE", False, "an interval straddles a bar; measure more tokens"),
    "won": (MEASURED, True, "the challenge of bet-40 won: the catalogue should be revisited"),
    "loses": ("CROSSED", False, "the claim does not hold: {verdict}; bet-40 stands"),
    "short": ("CROSSED", False, "short of the bar (the lenient criterion) of bet-40, which stands"),
    "crossed": ("CROSSED", False, "bet-40 closed this door, so nothing was measured"),
    "crossed-new": ("CROSSED", False, "says upheld but has no record"),
    "skip": ("SKIPPED", False, "whether bet-40 closed this door cannot be told"),
    "has-lost": ("{lost}", False, "status: proposed contradicts the record"),
    "never-held": ("REGRESSED", False, "status: upheld contradicts the record"),
    "has-won": ("OVERTURNED", False, "status: falsified contradicts the record"),
    "new": (MEASURED, True, "unrecorded"),
    "new-unproven": ("REGRESSED", False, "the claim cannot be told to hold: {verdict}"),
    "new-fails": ("REGRESSED", False, "the claim does not hold: {verdict}"),
    "worse": ("REGRESSED", False, "recorded as STRICT, now only LENIENT"),
    "regressed": ("REGRESSED", False, "the claim no longer holds: {verdict}, recorded as"),
    "worse-unsure": ("REGRESSED", False, "can no longer be told to hold: INCONCLUSIVE"),
    "contradicts": (MEASURED, True, "the catalogue contradicts itself"),
    "overturned": ("OVERTURNED", False, "the claim holds here: {verdict}"),
    "stands": (MEASURED, True, ""),
    "new-stands": (MEASURED, True, "unrecorded"),
    "unsure": ("INCONCLUSIVE", True, "could neither be confirmed nor overturned here"),
    "new-unsure": ("INCONCLUSIVE", True, "could neither be confirmed nor overturned here"),
    "stays-short": (MEASURED, True, "short of the bar (the lenient criterion) of bet-40"),
    "new-short": (MEASURED, True, "short of the bar (the lenient criterion) of bet-40"),
}
REFUSED: Final = frozenset({"crossed", "crossed-new", "skip", "has-lost", "never-held", "has-won"})
"""Cells that are told without measuring."""

Key = tuple[str, str, str, str]


def expanded() -> dict[Key, str]:
    cells: dict[Key, str] = {}
    for line in TABLE.strip().splitlines()[1:]:
        left, right = line.split("|")
        status, records, challenges = left.split()
        columns = right.split()
        columns = [column if column != "*" else columns[0] for column in columns]
        for record, challenge in itertools.product(
            GROUPS.get(records, (records,)),
            CHALLENGE_GROUPS.get(challenges) or challenges.split(","),
        ):
            for verdict, cell in zip(VERDICTS, columns, strict=True):
                key = (status, record, challenge, verdict)
                assert key not in cells, f"twice in the table: {key}"
                cells[key] = cell
    return cells


CELLS: Final = expanded()
EVERY: Final = list(itertools.product(STATUSES, RECORDS, CHALLENGES, VERDICTS))


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


def expected(key: Key) -> tuple[str, bool, str]:
    _, record, _, verdict = key
    word, passed, told = ENDS[CELLS[key]]
    lost = "CROSSED" if record == "short" else record
    word = verdict if word == MEASURED else word.format(lost=lost)
    return word, passed, told.format(verdict=verdict)


def told(decision: Decision) -> str:
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
        assert said in told(decision), key
        assert decision.passed == (not decision.messages), key


def test_what_can_be_told_without_measuring_is() -> None:
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
    assert "were changed after the result" in told(decision)


@pytest.mark.parametrize("key", EVERY[::7], ids="-".join)
def test_a_mistaken_challenge_is_an_error_whatever_else_it_is(key: Key) -> None:
    decision = decide(Case(**{**vars(case_of(key)), "mistaken": ("no such bet",)}))
    assert (decision.word, decision.passed) == (Word.ERROR, False)
    assert told(decision) == "no such bet"


def test_required_records_fail_every_bet_of_the_catalogue_without_one() -> None:
    for key in EVERY:
        case = Case(**{**vars(case_of(key)), "require_records": True})
        before, decision = decide(case_of(key)), decide(case)
        status, record, _, _ = key
        unrecorded = status != "proposed" and record == "none" and CELLS[key] not in REFUSED
        assert decision.word == before.word
        assert decision.passed == (before.passed and not unrecorded), key
        assert ("--layerguard-require records" in told(decision)) == unrecorded, key


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("field", ["amended", "amended_before"])
def test_an_amendment_is_told_for_ever(status: str, field: str) -> None:
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
    assert "bet-38, bet-39 and bet-40 closed this door" in told(decision)
