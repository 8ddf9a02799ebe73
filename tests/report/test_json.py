"""The JSON report: its order and its numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from support import tales

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.report import json as report
from pytest_layerguard.report.bet_report import BetReport


def reported(file: str = "bets/a.yaml", line: int = 1, **changes: Any) -> BetReport:
    return replace(tales.every()["skipped"], file=file, line=line, **changes)


def test_bets_are_sorted_so_that_workers_do_not_decide() -> None:
    bets = [reported("bets/b.yaml"), reported(line=40), reported(line=7)]
    written = json.loads(report.render(bets, {"more": 1}))
    assert written["schema"] == written["more"] == 1
    assert [(bet["file"], bet["line"]) for bet in written["bets"]] == [
        ("bets/a.yaml", 7),
        ("bets/a.yaml", 40),
        ("bets/b.yaml", 1),
    ]


def test_a_number_that_json_does_not_know_is_refused() -> None:
    slow = replace(tales.sweep(), seconds=math.nan)
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.render([reported(result=slow)])


def test_a_count_is_an_integer() -> None:
    written = report.metric("unique_tokens", Interval.point(64.0))
    assert json.dumps(written) == '{"value": 64}'


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval(80, 71.2, 89.9), {"value": 80, "low": 71.2, "high": 89.9}),
        (Interval.point(2), {"value": 2}),
        (Interval.point(math.inf), {"value": "inf"}),
        (Interval(80, 71.2, math.inf), {"value": 80, "low": 71.2, "high": "inf"}),
        (Interval(0, -math.inf, 0), {"value": 0, "low": "-inf", "high": 0}),
    ],
)
def test_a_metric(interval: Interval, expected: dict[str, Any]) -> None:
    assert report.metric("kl", interval) == expected


def test_versions_are_listed_by_name() -> None:
    entry = report.entry(tales.every()["sweep"])
    assert entry["made_with"] == {"torch": "2.13.0", "device": "cpu"}


def test_of_checkpoints_that_differ_all_is_reported() -> None:
    made = [{"device": "cpu", "dtype": dtype} for dtype in ("float32", "bfloat16", "float32")]
    found = replace(tales.trajectory(), provenance={"checkpoints": made})
    entry = report.entry(tales.judged(tales.TRAJECTORY, found))
    assert entry["made_with"] == {"device": "cpu", "dtype": "float32, bfloat16"}
