"""How many lines of a terminal a run of this repository's bets takes, by what their records hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_layerguard.catalogue.records import path_of, read_record
from pytest_layerguard.environment.measurement_errors import Lack, UnavailableError
from pytest_layerguard.report.terminal import Marks, summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.measurement.results import BetResult
    from pytest_layerguard.report.bet_report import BetReport

REPOSITORY = Path(__file__).parents[2]
MARKS = Marks.of("utf-8")


class FromRecords:
    """A measurer that measures what the records hold, and the plugin that brings it and keeps the reports."""

    bets: Sequence[BetReport] = ()

    @pytest.hookimpl(tryfirst=True)
    def pytest_layerguard_measurer(self) -> FromRecords:
        return self

    def pytest_layerguard_report_lines(self, bets: Sequence[BetReport]) -> Sequence[str]:
        self.bets = bets
        return ()

    def expect(self, documents: object) -> None:
        pass

    def measure(self, document: BetDocument, *, bets: Path) -> BetResult:
        path = path_of(bets, document.bet.id)
        if not path.exists():
            raise UnavailableError("not recorded", Lack("network", document.bet.model.name))
        return read_record(path).result


def test_the_bets_of_this_repository_take_at_most_40_lines(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    measurer = FromRecords()
    result = pytester.runpytest_inprocess(
        *("--rootdir", str(REPOSITORY), "-c", str(REPOSITORY / "pyproject.toml")),
        *("-p", "no:cacheprovider", str(REPOSITORY / "bets")),
        plugins=[measurer],
    )
    assert result.parseoutcomes().keys() == {"passed", "skipped"}
    lines = sum(max(1, -(-len(line) // 80)) for line in result.stdout.str().splitlines())
    narrow, wide = (len([*summary(measurer.bets, columns, MARKS)]) for columns in (80, 140))
    assert 0 < wide <= narrow < lines <= 40
