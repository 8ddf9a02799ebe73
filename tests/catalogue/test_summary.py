"""SUMMARY.md: everything from the files, the same everywhere, and nothing obeyed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.catalogue import BET_40

from pytest_layerguard.catalogue.summary import SummaryError, check_summary, summary, write_summary
from pytest_layerguard.catalogue.wording import code, literal

if TYPE_CHECKING:
    from support.catalogue import Bets


def test_doors_are_reported_with_who_closed_them_and_with_what_numbers(bets: Bets) -> None:
    bets.record(bets.put(BET_40, file="40.yaml"), 80, 24)
    bets.put(BET_40, id="bet-41", closes=None, title="Nothing closed")
    bets.record(bets.put(status="upheld", intervention={"average_experts": {}}), 1.2)
    bets.put(id="idea", challenges=["bet-40"])
    text = summary(bets.path, bets.catalogue)
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "# What is known",
        "## Closed doors",
        "### Skip each layer",
        "## Lost, closing no door",
        "### Nothing closed",
        "## Open doors",
        "### Drop a layer to save bandwidth",
        "## Proposed",
        "### Drop a layer to save bandwidth",
        "## To be put right",
    ]
    for line in (
        "- [bet-40](40.yaml#L1), on `reference`",
        "- closes: `skip_layers`, `remove_layers` on models with `parameters <= 1e8`",
        "- its evidence (published, not measured here): Bet 40, Skip-each-layer ablation, "
        "FractalMoE 30M: CATASTROPHIC; base perplexity 89; skip-0 perplexity 7120; "
        "skip-3 perplexity 980",
        "- challenges: bet-40",
        "- bet-41: falsified, but unrecorded",
    ):
        assert line in text.splitlines()
    assert r"- its record: CATASTROPHIC: all(perplexity\_ratio \>= 10)" in text


def test_a_bet_that_rests_on_published_figures_of_a_large_model_is_sound(bets: Bets) -> None:
    bets.put(BET_40, needs={"gpu": "24GiB"})
    assert "To be put right" not in summary(bets.path, bets.catalogue)


def test_it_is_the_same_whatever_the_order_of_the_files(bets: Bets) -> None:
    bets.put(BET_40, file="b/40.yaml")
    bets.put(file="a/one.yaml")
    first = summary(bets.path, bets.catalogue)
    (bets.path / "a" / "one.yaml").touch()
    assert summary(bets.path, bets.catalogue) == first


def test_a_stale_or_missing_summary_is_an_error_that_shows_the_lines(bets: Bets) -> None:
    bets.put(BET_40)
    with pytest.raises(SummaryError, match="is missing; run with --layerguard-summary"):
        check_summary(bets.path, bets.catalogue)
    path = write_summary(bets.path, bets.catalogue)
    check_summary(bets.path, bets.catalogue)
    bets.put(BET_40, title="Skip every layer")
    with pytest.raises(SummaryError, match=r"is stale(?s:.)*\+### Skip every layer"):
        check_summary(bets.path, bets.catalogue)
    path.write_bytes(b"\xff")
    with pytest.raises(SummaryError, match="is missing"):
        check_summary(bets.path, bets.catalogue)


def test_no_summary_leaves_out_what_cannot_be_read(bets: Bets) -> None:
    (bets.path / "broken.yaml").write_text("id: [", encoding="utf-8")
    with pytest.raises(SummaryError, match=r"broken\.yaml:1"):
        summary(bets.path, bets.catalogue)


def test_what_must_be_put_right_is_listed(bets: Bets) -> None:
    bets.record(bets.put(BET_40), 80)
    bets.record(bets.put(BET_40, id="bet-41"), 80)
    bets.record(bets.put(BET_40, id="bet-42"), 80)
    bets.record(bets.put(BET_40, id="bet-43"), 80)
    bets.record(bets.put(id="gone", intervention={"average_experts": {}}), 1.2)
    doors = ["bet-40", "bet-41", "bet-42", "bet-43"]
    bets.record(bets.put(id="inside", model="reference-wide", challenges=doors), 2)
    (bets.path / "gone.yaml").unlink()
    bets.put(BET_40, id="bet-41", claim="Something else.")
    narrow = {"interventions": ["skip_layers"], "models": "parameters <= 1e6"}
    bets.put(BET_40, id="bet-42", closes=narrow)
    bets.put(BET_40, id="bet-43", status="upheld", closes=None, challenges=["bet-40"])
    (bets.path / "records" / "bet-40.json").write_text("{}", encoding="utf-8")
    bets.put(id="inside", model="reference-wide", status="upheld")
    wrong = summary(bets.path, bets.catalogue).split("## To be put right\n\n")[1]
    for said in (
        "- bet-40: `bet-40.json` is no sound record",
        "- bet-41: was changed after its record",
        "- bet-42: `closes` was changed after its record",
        "- bet-43: status: upheld contradicts the record",
        "- `records/gone.json` is the record of no bet",
        "- inside: upheld inside the door that bet-40 closed",
    ):
        assert said in wrong
    assert "inside: upheld inside the door that bet-42" not in wrong


HOSTILE = [
    "<script>alert(1)</script>",
    "![x](https://evil.example/p.png)",
    "[click](javascript:alert(1))",
    "| a | b |",
    "`code` ``more``",
    "@everyone #1 *bold* _em_ ~~gone~~",
    "https://evil.example and www.evil.example",
    "a\nb",
    "# heading",
    "&lt;b&gt; $x$",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_strangers_text_is_shown_letter_by_letter(text: str) -> None:
    escaped = literal(text)
    assert "\n" not in escaped
    for sign in "<>[]|`*_~@#&$!":
        for place, letter in enumerate(escaped):
            assert letter != sign or escaped[place - 1] == "\\"
    # What GitHub would make a link of, even without brackets.
    assert "http://" not in escaped
    assert "https://" not in escaped
    assert "www." not in escaped


@pytest.mark.parametrize("text", [*HOSTILE, "`", "``", "", "`a"])
def test_a_code_span_ends_where_it_should(text: str) -> None:
    span = code(text)
    fence = span[: len(span) - len(span.lstrip("`"))]
    assert span.endswith(fence)
    assert fence not in span[len(fence) : -len(fence)].strip("`")
    assert "\n" not in span


def test_a_hostile_bet_writes_a_harmless_summary(bets: Bets) -> None:
    for place, text in enumerate(each for each in HOSTILE if "\n" not in each):
        bets.put(id=f"bet-{place}", title=text, claim=text, file=f"a b({place})].yaml")
    text = summary(bets.path, bets.catalogue)
    assert text.count("<script") == text.count(r"\<script")
    assert text.count("](javascript") == text.count(r"\](javascript")
    assert "[bet-0](a%20b%280%29%5D.yaml#L1)" in text
