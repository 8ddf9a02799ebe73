"""The JSON report: its numbers, and that it is written whole or not at all."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.report import bet_report
from pytest_layerguard.report import json as report
from pytest_layerguard.report.bet_report import BetReport

if TYPE_CHECKING:
    from pathlib import Path


def told(file: str = "bets/a.yaml", line: int = 1, **changes: Any) -> BetReport:
    return BetReport({"id": "a", "file": file, "line": line, **changes}, "reference", "skip_layers")


def test_bets_are_sorted_so_that_workers_do_not_decide() -> None:
    bets = [told("bets/b.yaml"), told(line=40), told(line=7)]
    written = report.document(bets)
    assert written["schema"] == 1
    assert [(bet["file"], bet["line"]) for bet in written["bets"]] == [
        ("bets/a.yaml", 7),
        ("bets/a.yaml", 40),
        ("bets/b.yaml", 1),
    ]


def test_a_report_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "report.json"
    report.write(path, [told()])
    report.write(path, [])
    assert json.loads(path.read_text(encoding="utf-8")) == {"schema": 1, "bets": []}
    assert list(path.parent.iterdir()) == [path]


def test_a_report_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report.write(path, [])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        report.write(path, [told(seconds=math.nan)])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


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
    assert bet_report.metric(interval) == expected


def test_what_is_told_survives_the_way_from_a_worker() -> None:
    one = BetReport({"id": "a", "variants": []}, "reference", "skip_layers", ("a note",))
    assert BetReport.from_json(one.to_json()) == one
