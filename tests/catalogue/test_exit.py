"""The combinations of the table once more, through pytest: records on the disk, words and exit status."""

from __future__ import annotations

import itertools
import json
from typing import Final

import hypothesis  # noqa: F401
import pytest
from support.catalogue import BET_40, Bets, measured_as
from support.outcomes import CELLS, STATUSES, VERDICTS, expected

# LoadedModel here once: pytest inside pytest forgets what it imported.
import pytest_layerguard.report.failure
import pytest_layerguard.report.json
import pytest_layerguard.report.terminal  # noqa: F401
from pytest_layerguard.bet.reader import read_bets
from pytest_layerguard.catalogue.judge import Judge
from pytest_layerguard.catalogue.model_facts import ModelLookup

MEASURER = """
from support.catalogue import measured_as


class LocalMeasurer:
    def expect(self, documents):
        pass

    def measure(self, document, *, bets):
        return measured_as(document.bet.id.rpartition("-")[2].upper())


def pytest_layerguard_measurer():
    return LocalMeasurer()
"""
BARS: Final = dict(zip(VERDICTS, ("won", "won", "undecided", "lost", "lost"), strict=True))
"""Bet 40's bar is the bets' own lenient criterion, so the verdict says whether it is met."""
CHALLENGES: Final = ("none", "challenge", "inside")
RECORDS: Final = ("none", *VERDICTS)


def key_of(status: str, record: str, challenge: str, verdict: str) -> tuple[str, str, str, str]:
    """Return the cell of the table that a bet of this kind is in."""
    if challenge == "inside":
        challenge = {"won": "inside-won", "undecided": "undecided", "lost": "inside"}[BARS[verdict]]
        if status == "falsified" or record == "none":
            challenge = "inside"
    return status, record, BARS[verdict] if challenge == "challenge" else challenge, verdict


def put(bets: Bets, id_: str, status: str, challenge: str) -> None:
    outside = {"average_experts": {"layers": {"each": "all"}}}
    bets.put(
        BET_40,
        id=id_,
        status=status,
        closes=None,
        intervention=outside if challenge == "none" else BET_40["intervention"],
        challenges=["bet-40"] if challenge == "challenge" else None,
    )


def kinds() -> dict[str, tuple[str, str, str, str]]:
    """Return the cell of each kind of bet, by an id that says what will be measured."""
    found = {}
    for status, record, challenge, verdict in itertools.product(
        STATUSES, RECORDS, CHALLENGES, VERDICTS
    ):
        # Inside a door without a word a newcomer is never measured, so it cannot have a record.
        if challenge == "inside" and record != "none" and status == "proposed":
            continue
        id_ = f"{status}-{record}-{challenge}-{verdict}".lower()
        found[id_] = key_of(status, record, challenge, verdict)
    return found


EVERY: Final = kinds()
ONE_OF_EACH: Final = {CELLS[key]: (id_, key) for id_, key in EVERY.items()}
"""By what they come to, a bet each."""


def catalogue(bets: Bets, chosen: dict[str, tuple[str, str, str, str]]) -> None:
    """Write bet 40 and the bets chosen, with the records that they have."""
    bets.put(BET_40)
    (bets.path / "bet-40.yaml").rename(bets.path / "0.yaml")
    for id_ in chosen:
        put(bets, id_, "falsified", id_.split("-")[2])
    recorder = Judge(ModelLookup(bets.conditions, offline=True), bets.root, (), recording=True)
    for id_, (status, record, *_) in chosen.items():
        if record != "none":
            result = measured_as(record)
            (document,) = read_bets(bets.path / f"{id_}.yaml")
            recorder.judge(document, bets.path, lambda result=result: result)  # type: ignore[misc]
        put(bets, id_, status, id_.split("-")[2])


@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(dict(ONE_OF_EACH.values()), id="one of each"),
        pytest.param(EVERY, id="every", marks=pytest.mark.slow),
    ],
)
def test_combinations_through_pytest(
    bets: Bets, chosen: dict[str, tuple[str, str, str, str]], pytester: pytest.Pytester
) -> None:
    catalogue(bets, chosen)
    (bets.root / "conftest.py").write_text(MEASURER, encoding="utf-8")
    (bets.root / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    report = bets.root / "report.json"
    common = ("--rootdir", str(bets.root), "-c", str(bets.root / "pytest.ini"), "-q", "--tb=no")
    result = pytester.inline_run(str(bets.path), *common, "--layerguard-json", str(report))
    assert result.ret == 1
    reported = {bet["id"]: bet for bet in json.loads(report.read_text(encoding="utf-8"))["bets"]}
    wrong = []
    for id_, key in chosen.items():
        word, passed, _ = expected(key)
        if CELLS[key] == "has-lost" and "-challenge-" in id_:
            # A recorded challenge that lost is reported as one that loses is.
            word = "CROSSED"
        found = (reported[id_]["word"], reported[id_]["outcome"])
        if found != (word, "passed" if passed else "failed"):
            wrong.append((id_, CELLS[key], found))
    assert wrong == []
    passing = [str(bets.path / f"{id_}.yaml") for id_ in chosen if expected(chosen[id_])[1]]
    result = pytester.inline_run(*passing, *common)
    assert result.ret == 0
