"""The header and the table of bets."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from pytest_layerguard.bet.criteria.evaluate import Decider
from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.catalogue.outcome import NEITHER, MissedBar
from pytest_layerguard.environment.measurement_errors import Lack
from pytest_layerguard.measurement.results import BaseResult, BetResult, VariantResult
from pytest_layerguard.report import failure, terminal, text
from pytest_layerguard.report.bet_report import BetReport, Criterion
from pytest_layerguard.report.terminal import Marks


def reported(
    *variants: VariantResult,
    bases: tuple[BaseResult, ...] = (BaseResult(None, None, {"perplexity": Interval.point(89.0)}),),
    cached: bool = False,
    **changes: Any,
) -> BetReport:
    found = BetResult(
        bases,
        variants or (variant("skip-0", 7120, 80, 71.2, 89.9, 2), variant("skip-3", 980, 11)),
        tokens=1024,
        windows=8,
        descriptive=False,
        provenance={},
        seconds=1.94,
        cached=cached,
    )
    values: dict[str, Any] = {
        "id": "bet-40",
        "file": "bets/a.yaml",
        "line": 1,
        "status": "falsified",
        "outcome": "passed",
        "word": "CATASTROPHIC",
        "digest": "",
        "model": "reference",
        "intervention": "skip_layers",
        "result": found,
    }
    return BetReport(**(values | changes))


def variant(
    name: str,
    perplexity: float,
    ratio: float,
    low: float | None = None,
    high: float | None = None,
    unique: float | None = None,
) -> VariantResult:
    metrics = {
        "perplexity": Interval.point(perplexity),
        "perplexity_ratio": Interval(ratio, low or ratio, high or ratio),
    }
    if unique is not None:
        metrics["unique_tokens"] = Interval.point(unique)
    return VariantResult(name, "", None, None, None, metrics)


NUMBER = Interval(3.934, 3.552, 4.361)


def criterion(
    number: Interval = NUMBER,
    *,
    metric: str = "perplexity_ratio",
    bar: str = "<= 3",
    variant: str = "skip-2",
    among: str = "best of 4",
) -> tuple[Criterion, ...]:
    decider = Decider(variant, among, metric, number, bar)
    return (Criterion("lenient", "", "false", "filled", decided=True, deciders=(decider,)),)


def table(*bets: BetReport, width: int = 160, verbose: bool = False) -> list[str]:
    lines = terminal.summary(bets, width, Marks.of("ascii"), verbose=verbose)
    return [line.mark + line.text for line in lines]


def skipped(id_: str, lack: Lack | None = None, why: str = "no GPU") -> BetReport:
    return reported(
        id=id_, result=None, word="SKIPPED", outcome="skipped", lack=lack, messages=(why,)
    )


def test_every_bar_that_was_missed_is_named() -> None:
    ratio = Decider("quantize-3", "", "perplexity_ratio", NUMBER, "<= 1.1")
    deciders = (ratio, Decider("quantize-3", "", "kl", Interval.point(0.4), "<= 0.1"))
    missed = Criterion("lenient", "", "false", "filled", decided=True, deciders=deciders)
    lines = list(failure.lines(reported(criteria=(missed,), status="proposed"), short=True))
    place = lines.index(
        "to hold:  perplexity_ratio of quantize-3 must be <= 1.1; it is " + str(NUMBER)
    )
    assert lines[place + 1] == "and:      kl of quantize-3 must be <= 0.1; it is 0.4"


def test_a_row_has_what_decided_and_its_bar() -> None:
    heading, line = table(reported(criteria=criterion()))
    assert heading.split() == ["bet", "status", "word", "decided", "by", "bar"]
    assert line.split("  ") == [
        *("ok", "bet-40", "falsified", "CATASTROPHIC"),
        *("skip-2, best of 4 3.93x [3.55, 4.36]", "<= 3"),
    ]


def test_a_narrow_table_keeps_the_number_and_its_interval() -> None:
    wide = reported(id="bet-with-a-rather-long-name-indeed", criteria=criterion())
    assert "3.93x [3.55, 4.36] <= 3" in " ".join(table(wide, width=80)[1].split())
    assert "CATASTROPHIC 3.93x <= 3" in " ".join(table(wide, width=40)[1].split())


def test_a_metric_that_is_no_ratio_is_named() -> None:
    found = criterion(Interval.point(2.0), metric="unique_tokens", bar="< 5", among="")
    assert "skip-2 unique_tokens 2  < 5" in table(reported(criteria=found))[1]


def test_a_number_close_to_its_bar_has_the_digits_that_decide() -> None:
    close = criterion(Interval(1.5021, 1.5004, 1.51), bar="<= 1.5")
    assert "1.502x [1.5, 1.51]" in table(reported(criteria=close))[1]


def test_a_narrow_interval_has_the_digits_that_tell_its_ends_apart() -> None:
    narrow = criterion(Interval(1.00052, 0.99993, 1.00131), bar="<= 1.02")
    assert "1.001x [0.9999, 1.001]" in table(reported(criteria=narrow))[1]
    equal = criterion(Interval(1.0, 1 - 1e-9, 1 + 1e-9), bar="<= 1.02")
    assert "1x [1, 1]" in table(reported(criteria=equal))[1]


def test_an_overflow_is_infinite() -> None:
    assert " infx " in table(reported(criteria=criterion(Interval.point(math.inf))))[1]


def test_a_bet_that_was_not_measured_has_its_reason() -> None:
    crossed = reported(
        result=None, word="CROSSED", outcome="failed", messages=("bet-40 closed this door",)
    )
    assert table(crossed)[1].split("  ") == [
        *("X", "bet-40", "falsified", "CROSSED", "bet-40 closed this door"),
    ]


def test_a_reason_loses_what_stands_in_brackets_before_its_end() -> None:
    message = "candidate: question 0 (doc_id) is in the base's file alone; ask both the same"
    error = reported(result=None, word="ERROR", outcome="failed", messages=(message,))
    assert table(error, width=78)[1].endswith("question 0 is in the base's file alone")


def test_a_lost_challenge_has_the_bar_of_the_falsification() -> None:
    (own,) = criterion(bar="<= 9")
    missed = (MissedBar("bet-40", replace(own.deciders[0], bar="<= 3"), catastrophic=False),)
    lost = reported(
        word="CROSSED", outcome="failed", status="proposed", criteria=(own,), missed=missed
    )
    assert table(lost)[1].endswith("best of 4 3.93x [3.55, 4.36]  <= 3 (bet-40)")
    assert table(lost, width=60)[1].endswith("<= 3")
    assert failure.brief(lost).startswith("3.934 [3.552, 4.361] against <= 3 (bet-40): ")
    assert any("must be <= 3, the bar of bet-40; it is" in line for line in failure.lines(lost))


def test_what_is_not_as_in_the_record_has_the_row() -> None:
    stale = ("weights: sha256:0 -> sha256:1", "tokenizer: a -> b", "perplexity of the base: 1 -> 2")
    changes = ("criteria.lenient: kl <= 1 -> kl <= 2", "claim: a -> b")
    bets = [
        reported(word="STALE", outcome="failed", criteria=criterion(), differs=stale),
        reported(id="b", word="TAMPERED", outcome="failed", result=None, differs=changes),
    ]
    _, first, second = table(*bets)
    assert first.endswith("STALE     not those of its record: weights, tokenizer")
    assert second.endswith("changed since its record: criteria.lenient: kl <= 1 -> kl <= 2")
    assert table(*bets, width=60)[2].endswith("criteria.lenient")


def test_what_failed_stands_apart() -> None:
    lines = table(reported(outcome="failed"), reported(id="b"), reported(id="c", outcome="failed"))
    assert [line[:2] for line in lines] == ["  ", "ok", "", "X ", "X "]


def test_what_was_kept_is_marked() -> None:
    lines = table(reported(cached=True), reported(id="b"))
    assert [line[:3] for line in lines[1:3]] == ["ok*", "ok "]
    assert lines[3].startswith("* kept")


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 40])
def test_the_table_fits(width: int) -> None:
    bets = [
        reported(id="bet-with-a-rather-long-name-indeed", criteria=criterion(variant="a" * 90)),
        reported(id="b", outcome="failed", messages=("m" * 90,)),
    ]
    lines = table(*bets, width=width)
    assert max(map(text.columns, lines)) <= width
    assert all("CATASTROPHIC" in line for line in (lines[1], lines[3]))


@pytest.mark.parametrize("width", [60, 80])
def test_a_table_of_reasons_alone_fits(width: int) -> None:
    failed = reported(
        id="a-" * 35,
        result=None,
        word="ERROR",
        outcome="failed",
        messages=("model 'x': it is gone",),
    )
    lines = [line.mark + line.text for line in terminal.summary([failed], width, Marks.of("utf-8"))]
    assert max(map(text.columns, lines)) <= width
    assert "model 'x': it is gone" in lines[1]


def test_bets_that_begin_alike_can_be_distinguished() -> None:
    names = (
        "degeneration-gemma-3-12b",
        "degeneration-gemma-3-12b-retrained",
        "degeneration-layers",
    )
    lines = table(*(reported(id=name, criteria=criterion()) for name in names), width=80)
    assert max(map(text.columns, lines)) <= 80
    assert len({line.split()[1] for line in lines[1:]}) == 3


def margins(margin: float) -> tuple[Criterion, ...]:
    decider = Decider("skip-2", "", "perplexity_ratio", NUMBER, "<= 3", margin)
    return (Criterion("lenient", "", "false", "filled", decided=True, deciders=(decider,)),)


def test_in_a_long_table_bets_that_came_out_alike_share_the_row_of_the_nearest_to_its_bar() -> None:
    bets = [
        reported(id=f"bet-{file}-{bet}", file=f"bets/{file}.yaml", criteria=margins(9 - bet))
        for file in range(5)
        for bet in range(6)
    ]
    bets[7] = replace(bets[7], status="upheld", word="STRICT")
    for at in (8, 9, 20):
        bets[at] = replace(bets[at], word="INCONCLUSIVE")
    bets[10] = replace(bets[10], status="proposed", word="STRICT")
    bets[11] = replace(bets[11], verdict="LENIENT", verdict_before="STRICT")
    bets[12] = replace(bets[12], outcome="failed")
    _, *rows = table(*bets)
    assert [row[3:24].split("  ")[0].strip() for row in rows[:8]] == [
        *("bet-0-5 +22", "bet-1-1", "bet-1-3 +1", "bet-1-4", "bet-1-5", "bet-3-2", "", "bet-2-0"),
    ]
    assert rows[8].startswith("+N: ")
    assert len(table(*bets, verbose=True)) > len(bets)


@pytest.mark.parametrize("width", [80, 140])
def test_a_large_catalogue_in_which_all_is_well_has_a_short_table(width: int) -> None:
    words = ("CATASTROPHIC", "FALSIFIED", "INCONCLUSIVE")
    bets = [
        reported(
            id=f"bet-{at}", file=f"bets/{at // 25}.yaml", criteria=criterion(), word=words[at % 3]
        )
        for at in range(300)
    ]
    noted = [replace(bet, warnings=("amended",)) for bet in bets]
    lines = table(*noted, *(skipped(f"s{at}") for at in range(100)), width=width)
    assert len(lines) <= 20
    assert lines[-1].endswith("and 293 more: amended")


def test_a_bar_that_was_measured_has_its_interval_where_there_is_room() -> None:
    found = criterion(metric="kl", bar="<= 0.5 [0.4, 0.6]", among="")
    assert table(reported(criteria=found))[1].endswith("<= 0.5 [0.4, 0.6]")
    assert table(reported(criteria=found), width=50)[1].endswith("<= ~0.5")


def test_skipped_bets_are_summed_up_by_what_was_wanting() -> None:
    bets = [
        *(skipped(f"g{size}", Lack("gpu", f"{size} GiB")) for size in (40, 8, 120)),
        skipped("n", Lack("network", "ORG/NAME")),
        skipped("o"),
    ]
    assert table(*bets) == [
        "not measured: 3 need a GPU (8, 40 and 120 GiB), 1 with no network to reach ORG/NAME, "
        "1 no GPU; -v names them"
    ]
    many = [skipped(each, Lack("network", f"ORG/{each}")) for each in "abc"]
    assert table(*many) == ["not measured: 3 for want of a network; -v names them"]
    assert table(*many[:2])[0].startswith("not measured: 2 for want of a network (ORG/a and ORG/b)")


def test_details_are_shown_when_asked_for() -> None:
    lines = table(reported(criteria=criterion()), skipped("s", why="not here"), verbose=True)
    assert any(line.startswith("  skip-0") for line in lines)
    assert "  not here" in lines
    assert not any("-v names them" in line for line in lines)


def test_the_title_counts() -> None:
    bets = [
        reported(devices=("cpu",)),
        reported(outcome="failed"),
        reported(word="INCONCLUSIVE", cached=True),
        skipped("s"),
    ]
    assert terminal.title(bets) == (
        "bets: 1 failed, 1 as expected, 1 undecided, 1 not measured (3.9s, cpu, 1 kept)"
    )
    assert terminal.title([skipped("s")]) == "bets: 1 not measured"


def test_marks_are_ascii_where_there_are_no_better() -> None:
    assert Marks.of("utf-8").passed == "\u2713"
    for encoding in ("ascii", "cp1252", "unheard-of", None):
        assert "".join(Marks.of(encoding)).isascii()


def test_a_hostile_note_stays_in_its_place() -> None:
    lines = table(reported(warnings=("\x1b[2J", "x" * 5000)), width=1000)
    assert len(lines) == 4
    assert "\x1b" not in "".join(lines)
    assert len(lines[3]) < 1000


def test_notes_stand_below_the_table_each_once() -> None:
    lines = table(reported(warnings=("amended",)), reported(id="b", warnings=("amended", "more")))
    assert lines[3:] == ["noted: bet-40, b: amended", "noted: b: more"]


def test_a_remark_is_for_those_who_ask() -> None:
    bet = reported(remarks=("a weaker claim",), warnings=(NEITHER,), word="INCONCLUSIVE")
    assert not any("noted" in line for line in table(bet))
    assert "noted: bet-40: a weaker claim" in table(bet, verbose=True)


def test_an_undecided_bet_says_how_to_learn_what_would_decide() -> None:
    undecided = reported(word="INCONCLUSIVE")
    legend = "? neither confirmed nor overturned (-v has how much more would decide)"
    assert table(undecided)[-1] == legend
    assert legend not in table(undecided, verbose=True)


@pytest.mark.parametrize(
    ("word", "outcome", "colour"),
    [
        ("CATASTROPHIC", "passed", "green"),
        ("CATASTROPHIC", "failed", "red"),
        ("STRICT", "passed", "green"),
        ("INCONCLUSIVE", "passed", "yellow"),
        ("INCONCLUSIVE", "failed", "red"),
        ("SKIPPED", "skipped", "yellow"),
        ("SKIPPED", "failed", "red"),
    ],
)
def test_the_colour_says_whether_the_build_stands(word: str, outcome: str, colour: str) -> None:
    assert terminal.markup(word, outcome) == {colour: True}


def test_the_header_says_what_a_missing_library_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "torch":
            raise terminal.metadata.PackageNotFoundError(name)
        return "5.0"

    monkeypatch.setattr(terminal.metadata, "version", version)
    (line,) = terminal.header("cpu", ["reference 0123"])
    assert "device cpu, torch not installed, transformers 5.0, reference 0123" in line
