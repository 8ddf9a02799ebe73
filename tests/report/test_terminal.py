"""The header and the table of bets."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.measurement.results import BaseResult, BetResult, VariantResult
from pytest_layerguard.report import terminal, text
from pytest_layerguard.report.bet_report import BetReport


def told(
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


def table(*bets: BetReport, width: int = 160) -> list[str]:
    return [line.text + line.word for line in terminal.summary(bets, width)]


def test_a_sweep_shows_its_range_and_the_outermost_ends() -> None:
    line = table(told())[1].split()
    assert line == [
        *("bet-40", "reference", "skip_layers", "89", "980..7120", "11..80"),
        *("[71.2,", "89.9]", "2", "1.9s", "CATASTROPHIC"),
    ]


def test_an_overflow_is_infinite() -> None:
    assert " inf " in table(told(variant("x", math.inf, math.inf)))[1]


def test_a_bet_that_was_not_measured() -> None:
    line = table(told(result=None, word="CROSSED", outcome="failed"))[1]
    assert line.split() == ["bet-40", "reference", "skip_layers", *"-----", "0.0s", "CROSSED"]


def test_each_checkpoint_has_its_own_base() -> None:
    bases = tuple(
        BaseResult(None, name, {"perplexity": Interval.point(value)})
        for name, value in (("before", 10.0), ("after", 15.0))
    )
    assert "10..15" in table(told(bases=bases))[1]


def test_a_cached_result_says_so() -> None:
    assert "cached" in table(told(cached=True))[1].split()


@pytest.mark.parametrize("width", [200, 120, 100, 80, 60, 40])
def test_the_table_fits(width: int) -> None:
    bets = [
        told(id="bet-with-a-rather-long-name-indeed", model="SomeOrganisation/some-model-30b-a3b"),
        told(id="b", intervention="average_experts, ternary_weights, train, prune_weights"),
    ]
    lines = table(*bets, width=width)
    assert max(map(text.columns, lines)) <= width
    assert all(line.endswith("CATASTROPHIC") for line in lines[1:])
    assert lines[0].startswith("bet")


def test_bets_that_begin_alike_can_be_told_apart() -> None:
    names = (
        "degeneration-gemma-3-12b",
        "degeneration-gemma-3-12b-retrained",
        "degeneration-layers",
    )
    lines = table(*(told(id=name, model="google/gemma-3-12b-it") for name in names), width=80)
    assert max(map(text.columns, lines)) <= 80
    assert len({line.split()[0] for line in lines[1:]}) == 3


def test_a_narrow_table_shows_the_end_of_a_models_path() -> None:
    far = f"{'../' * 40}models/stories260k"
    for model in ("../models/stories260k", far):
        (line,) = table(told(id="bet-on-a-folder", model=model), width=80)[1:]
        assert "stories260k " in line
        assert text.columns(line) <= 80


def test_verdicts_start_in_one_column() -> None:
    lines = table(told(), told(id="a-longer-one", word="STRICT", cached=True))
    assert (
        len({line.rindex(word) for line, word in zip(lines[1:], ("CATA", "STRICT"), strict=True)})
        == 1
    )


def test_a_hostile_note_stays_on_its_line() -> None:
    lines = table(told(warnings=("\x1b[2J", "x" * 5000)))
    assert len(lines) == 4
    assert "\x1b" not in "".join(lines)
    assert len(lines[3]) < 1000


def test_notes_stand_below_the_table() -> None:
    lines = table(told(warnings=("needs 24 GiB of GPU memory",)), told(id="b"))
    assert lines[3:] == ["bet-40: needs 24 GiB of GPU memory"]


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
    (line,) = terminal.header("cpu", "reference 0123")
    assert "device cpu, torch not installed, transformers 5.0, reference 0123" in line
