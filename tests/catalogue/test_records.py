"""Records: whole or not there, bound to their bet, and not to be edited."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from support.catalogue import BET_40, measured

from pytest_layerguard.bet.criteria.interval import Interval, Truth
from pytest_layerguard.bet.verdict import Verdict
from pytest_layerguard.catalogue.records import (
    FOLDER,
    SCHEMA,
    Amendment,
    Record,
    RecordError,
    load_records,
    path_of,
    read_record,
    write_record,
)
from pytest_layerguard.measurement.results import FIRST_CRITERIA

if TYPE_CHECKING:
    from support.catalogue import Bets

EXPERIMENT = Path(__file__).parents[1] / "experiments" / "kill_records.py"


@pytest.fixture
def record(bets: Bets) -> Record:
    bets.put(BET_40)
    facts = {"": {"parameters": 836880, "name": "reference"}}
    return Record.of(
        bets.document("bet-40").bet,
        Verdict.CATASTROPHIC,
        measured(80, 24),
        bars={"bet-40": Truth.TRUE},
        facts=facts,
        before=None,
    )


def test_a_record_comes_back_as_it_was_written(bets: Bets, record: Record) -> None:
    path = write_record(bets.path, record)
    assert path == bets.path / FOLDER / "bet-40.json"
    assert read_record(path) == record
    data = json.loads(path.read_text(encoding="utf-8"))
    assert list(data) == [
        "schema", "id", "digest", "status", "verdict", "challenged", "amended", "closes", "bet",
        "facts", "result",
    ]  # fmt: skip
    assert data["schema"] == SCHEMA
    assert set(data["bet"]) == {"claim", "criteria", "intervention", "measure", "model"}
    assert set(data["result"]) >= {"provenance", "diagnostics", "tokens", "windows", "variants"}


def test_a_record_is_as_its_schema_says(bets: Bets, record: Record) -> None:
    schema = json.loads((files("pytest_layerguard.catalogue") / "record.schema.json").read_text())
    amended = (Amendment(record.digest, "too strict", "FALSIFIED"),)
    overflow = {"perplexity_ratio": Interval(math.inf, 80, math.inf)}
    variants = (replace(record.result.variants[0], metrics=overflow),)
    full = replace(record, amended=amended, result=replace(record.result, variants=variants))
    jsonschema.Draft202012Validator.check_schema(schema)
    for written in (record, full, replace(record, closes=None, challenged={})):
        path = write_record(bets.path, written)
        jsonschema.validate(json.loads(path.read_text(encoding="utf-8")), schema)
        path.unlink()


def test_an_overflow_survives(bets: Bets, record: Record) -> None:
    result = measured(80, 24)
    metrics = {"perplexity_ratio": Interval(math.inf, 80, math.inf)}
    first = replace(result.variants[0], metrics=metrics, note="overflow after a finite base")
    record = replace(record, result=replace(result, variants=(first, *result.variants[1:])))
    path = write_record(bets.path, record)
    assert read_record(path) == record
    assert "Infinity" not in path.read_text(encoding="utf-8")


def test_a_record_reads_well_in_a_diff(bets: Bets, record: Record) -> None:
    text = write_record(bets.path, record).read_text(encoding="utf-8")
    assert '"metrics": {"perplexity_ratio": {"value": 80' in text
    assert text.isascii()
    assert text.endswith("}\n")


def test_the_same_result_leaves_the_file_alone(bets: Bets, record: Record) -> None:
    path = write_record(bets.path, record)
    before = path.stat().st_mtime_ns
    again = replace(record, result=replace(record.result, seconds=9.0, cached=True))
    write_record(bets.path, again)
    assert path.stat().st_mtime_ns == before
    write_record(bets.path, replace(record, result=replace(record.result, tokens=9)))
    assert path.stat().st_mtime_ns != before


def test_how_long_it_took_and_from_where_is_not_part_of_a_result(
    bets: Bets, record: Record
) -> None:
    cached = replace(record, result=replace(record.result, cached=True))
    assert not read_record(write_record(bets.path, cached)).result.cached


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data.pop("digest"), "'digest' is missing"),
        (lambda data: data.update(schema=2), "has schema 2; this version of"),
        (lambda data: data.update(id="bet-41"), "is the record of 'bet-41'"),
        (lambda data: data.update(id=40), "text is wanted"),
        (lambda data: data.update(verdict="GREAT"), "verdict: Input should be 'STRICT'"),
        (lambda data: data.update(verdict="LENIENT"), "numbers come to CATASTROPHIC"),
        (lambda data: data["bet"].update(claim="Else."), "not that of the bet in it"),
        (lambda data: data["bet"]["criteria"].update(lenient="kl <= 1"), "not that of the bet"),
        (lambda data: data["result"]["provenance"].update(checkpoints="all"), "no attribute 'get'"),
        (lambda data: data["result"]["variants"].pop(), None),
        (lambda data: data["result"]["variants"].clear(), "was not measured"),
        (lambda data: data["result"].pop("tokens"), "'tokens' is missing"),
        (lambda data: data.update(result=[]), "a mapping is wanted"),
        (lambda data: data.update(amended=[{"digest": 1}]), "text is wanted"),
    ],
)
def test_an_edited_record_is_refused(
    bets: Bets, record: Record, change: Any, said: str | None
) -> None:
    path = write_record(bets.path, record)
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    if said is None:
        # The verdict stands without that variant; only the history shows it.
        read_record(path)
        return
    with pytest.raises(RecordError, match=r"records.bet-40\.json: ") as error:
        read_record(path)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[]", "a mapping is wanted"),
        (b"\xff\xfe", "codec can't decode"),
        (b'{"a": NaN}', "has the number NaN"),
        (b'{"a": 1, "a": 2}', "has the key 'a' twice"),
        (b"[" * 100_000, "nested too deeply"),
        (b"{\x1b[31m", "Expecting property name"),
    ],
)
def test_what_is_no_record_is_reported_in_one_line_and_hides_no_other(
    bets: Bets, record: Record, content: bytes, said: str
) -> None:
    write_record(bets.path, record)
    path_of(bets.path, "bad").write_bytes(content)
    records = load_records(bets.path)
    assert set(records.found) == {"bet-40"}
    assert said in records.broken["bad"]
    assert records.broken["bad"].isprintable()


def test_links_are_not_followed(bets: Bets, record: Record) -> None:
    elsewhere = bets.root / "elsewhere"
    elsewhere.mkdir()
    (bets.path / FOLDER).symlink_to(elsewhere)
    with pytest.raises(RecordError, match="is a link"):
        write_record(bets.path, record)
    assert list(elsewhere.iterdir()) == []
    (bets.path / FOLDER).unlink()
    path = write_record(bets.path, record)
    path.rename(elsewhere / "bet-40.json")
    path.symlink_to(elsewhere / "bet-40.json")
    with pytest.raises(RecordError, match="is not a plain file"):
        read_record(path)
    write_record(bets.path, replace(record, status="upheld"))
    assert not path.is_symlink()
    assert read_record(elsewhere / "bet-40.json").status == "falsified"


@pytest.mark.parametrize(
    "model",
    [
        {"hub": "ORG/NAME", "revision": "unpinned"},
        {"hub": "ORG/NAME", "revisions": {"early": "0" * 40, "late": "unpinned"}},
    ],
)
def test_what_is_not_pinned_has_no_record(
    bets: Bets, record: Record, model: dict[str, Any]
) -> None:
    unpinned = replace(record, bet={**record.bet, "model": model})
    with pytest.raises(RecordError, match="write the full commit hash"):
        write_record(bets.path, unpinned)


def test_an_id_that_leads_elsewhere_has_no_record(bets: Bets, record: Record) -> None:
    with pytest.raises(RecordError, match="is not the id of a bet"):
        write_record(bets.path, replace(record, id="../bet-40"))


def test_amendments_make_a_chain(bets: Bets) -> None:
    digests: list[str] = []
    amends = None
    for bar in (3, 4, 5):
        criteria = {**BET_40["criteria"], "lenient": f"any(perplexity_ratio <= {bar})"}
        bets.put(BET_40, criteria=criteria, amends=amends)
        outcome = bets.judge("bet-40", 80)
        assert ("amended after the result" in outcome.warnings) == bool(digests)
        found = read_record(bets.record("bet-40", 80))
        assert [each.digest for each in found.amended] == digests
        digests.append(found.digest)
        amends = {"digest": found.digest, "because": f"{bar} was too strict"}
    assert [each.because for each in found.amended] == ["3 was too strict", "4 was too strict"]
    assert {each.verdict for each in found.amended} == {"CATASTROPHIC"}
    # Taken out of the bet, the amendment stays in the record.
    bets.put(BET_40, criteria=criteria)
    outcome = bets.judge("bet-40", 80)
    assert outcome.passed
    assert "amended after the result" in outcome.warnings


def test_an_amendment_of_another_text_is_no_amendment(bets: Bets) -> None:
    bets.record(bets.put(BET_40), 80)
    amends = {"digest": f"sha256:{'0' * 64}", "because": "I like it"}
    bets.put(BET_40, claim="Something else.", amends=amends)
    outcome = bets.judge("bet-40", 80)
    assert str(outcome.word) == "TAMPERED"
    assert "its amends: names another digest" in "\n".join(outcome.messages)


def test_bars_that_are_still_placeholders_are_not_recorded(bets: Bets) -> None:
    bets.put(BET_40, placeholders=["lenient"])
    outcome = bets.judge("bet-40", 80)
    assert outcome.passed
    assert outcome.warnings == ("still placeholders, so that nothing is recorded: lenient",)
    (why,) = bets.judge("bet-40", 80, require={"records"}).messages
    assert "only then can it be recorded" in why
    assert "--layerguard-record " not in why
    outcome = bets.judge("bet-40", 80, recording=True)
    assert (str(outcome.word), outcome.passed) == ("ERROR", False)
    assert "cannot be recorded: lenient still placeholders" in "\n".join(outcome.messages)
    bets.put(BET_40, status="proposed", placeholders=["lenient"], closes=None)
    (message,) = bets.judge("bet-40", 80).messages
    assert "take the key placeholders out" in message
    assert "--layerguard-record" not in message
    assert not path_of(bets.path, "bet-40").exists()
    # The word is not part of what a record binds.
    bets.put(BET_40)
    bets.record("bet-40", 80)
    bets.put(BET_40, placeholders=["lenient"])
    assert bets.judge("bet-40", 80).passed


SEEN = {FIRST_CRITERIA: {**BET_40["criteria"], "lenient": "any(perplexity_ratio <= 2)"}}
AFTERWARDS = (
    "criteria were changed after these numbers had been seen here: "
    "lenient: any(perplexity_ratio <= 2) -> any(perplexity_ratio <= 3)"
)


def test_criteria_that_were_written_after_the_numbers_were_seen_are_reported_for_ever(
    bets: Bets,
) -> None:
    bets.put(BET_40)
    assert AFTERWARDS in bets.judge("bet-40", 80, diagnostics=SEEN).warnings
    bets.judge("bet-40", 80, diagnostics=SEEN, recording=True)
    assert AFTERWARDS in bets.judge("bet-40", 80).warnings
    bets.judge("bet-40", 80, recording=True)
    assert AFTERWARDS in bets.judge("bet-40", 80).warnings


def test_a_bar_that_was_recorded_is_older_than_what_was_seen_since(bets: Bets) -> None:
    path = bets.record(bets.put(BET_40), 80)
    before = path.read_text(encoding="utf-8")
    outcome = bets.judge("bet-40", 80, diagnostics=SEEN, recording=True)
    assert AFTERWARDS not in outcome.warnings
    assert path.read_text(encoding="utf-8") == before


@pytest.mark.machine
def test_records_outlast_writers_that_are_killed() -> None:
    """A small turn of the experiment, which docs/integrity.md has in full."""
    command = [sys.executable, str(EXPERIMENT), "--kills", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no record torn, lost or mixed" in done.stdout
