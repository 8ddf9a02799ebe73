from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from support import tales
from support.hostile import FORBIDDEN, HOSTILE
from support.hostile_bet import hostile

from pytest_layerguard.report import charts, markdown
from pytest_layerguard.report.bet_report import UnreadableFile

if TYPE_CHECKING:
    pass

ADDRESS = "https://github.com/acme/models/blob/" + "0" * 40
ROOM = 1_000_000


def render(*bets: object, limit: int = ROOM, **more: object) -> str:
    return markdown.render(list(bets), more.pop("refused", []), limit=limit, **more)  # type: ignore[arg-type]


class TestSummary:
    def test_the_heading_counts(self) -> None:
        reported = render(*tales.every().values())
        assert reported.splitlines()[0] == "## layerguard: 4 failed, 3 passed, 1 skipped"

    @pytest.mark.parametrize("kind", tales.every())
    def test_every_bet_has_a_row(self, kind: str) -> None:
        bet = tales.every()[kind]
        (row,) = (
            line
            for line in render(*tales.every().values()).splitlines()
            if f"| {bet.id}<br>" in line
        )
        assert f"**{bet.word}**" in row
        assert row.count(" | ") == 4

    def test_a_failure_needs_no_other_file(self) -> None:
        reported = render(tales.every()["training"])
        assert "> **Claim:** Twenty steps bring it back." in reported
        assert "perplexity\\_ratio 77 \\[70, 84.7\\] \\<= 3 is false" in reported
        assert "\u2588" in reported
        assert "lenient \u2264 3" in reported

    def test_what_passed_is_folded(self) -> None:
        reported = render(tales.every()["sweep"])
        assert "<details><summary>\u2705 sweep: FALSIFIED</summary>" in reported
        assert reported.count("<details>") == reported.count("</details>") == 1
        assert "_Published, not measured here:_ Bet 40." in reported
        assert "there was a girl" in reported

    def test_a_door_that_nobody_could_try_is_not_called_closed(self) -> None:
        reported = render(tales.doubtful())
        assert "whether old closed it cannot be reported" in reported
        assert "closed by old" not in reported

    def test_files_lead_to_their_lines(self) -> None:
        reported = render(tales.every()["error"], address=ADDRESS)
        assert f"[`bets/some.yaml:1`]({ADDRESS}/bets/some.yaml#L1)" in reported

    def test_a_file_that_could_not_be_read(self) -> None:
        reported = render(
            refused=[UnreadableFile("bets/a.yaml", "bets/a.yaml:3:2: id: is missing")]
        )
        assert "1 file could not be read" in reported
        assert "`bets/a.yaml:3` could not be read" in reported

    def test_no_bets(self) -> None:
        assert render() == "## layerguard: no bets\n"


class TestDrawing:
    def test_bars_are_letters(self) -> None:
        figure = charts.bar_chart(tales.judged(tales.SWEEP, tales.sweep()), "perplexity_ratio")
        assert figure is not None
        lines = list(markdown.drawn(figure))
        bars = [line.count("\u2588") for line in lines[1:5]]
        assert bars[0] > bars[1]
        assert min(bars) > 0
        assert {line.index("\u2506") for line in lines[1:5]} == {lines[1].index("\u2506")}

    def test_a_long_sweep_is_cut(self) -> None:
        found = tales.result(*(tales.variant(f"skip-{at}", str(at)) for at in range(500)))
        figure = charts.bar_chart(tales.judged(tales.SWEEP, found), "perplexity_ratio")
        assert figure is not None
        assert "and 484 more variants" in list(markdown.drawn(figure))


class TestRoom:
    @pytest.mark.parametrize("limit", [1_000, 5_000, 65_000, 1_000_000])
    def test_the_limit_holds(self, limit: int) -> None:
        bets = [hostile("\U0001f600" * 500)] * 300
        reported = render(*bets, limit=limit)
        assert len(reported.encode()) <= limit
        assert reported.startswith("## layerguard: 300 failed")
        assert "left out for want of room" in reported or limit == 1_000_000

    def test_failures_are_the_last_to_go(self) -> None:
        every = tales.every()
        whole = render(*every.values())
        reported = render(*every.values(), limit=len(whole.encode()) - 500)
        assert "### \u274c training" in reported
        assert "left out" in reported


class TestHostile:
    @pytest.mark.parametrize("kind", HOSTILE)
    def test_words_stay_words(self, kind: str) -> None:
        reported = render(
            hostile(HOSTILE[kind]), refused=[UnreadableFile.of("bets/a.yaml", HOSTILE[kind])]
        )
        outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", reported, flags=re.DOTALL | re.MULTILINE)
        outside = re.sub(r"(?<!\\)(`+)(?!`).*?(?<!`)\1(?!`)", "", outside)
        plain = re.sub(r"\\.", "", outside)
        assert set(re.findall(r"<[^>]*>", plain)) <= {"<br>"}
        assert "](" not in plain
        assert "@" not in plain
        assert "://" not in plain
        assert not set(FORBIDDEN) & set(reported)
        assert "##[" not in reported
        assert len(reported) < 60_000

    @pytest.mark.parametrize("kind", HOSTILE)
    def test_a_table_keeps_its_columns(self, kind: str) -> None:
        for line in render(hostile(HOSTILE[kind])).splitlines():
            if line.startswith(("| \u274c", "| \u2705")):
                assert len(re.findall(r"(?<!\\)\|", line)) == 6


def test_it_fits_a_comment() -> None:
    assert len(markdown.render([hostile("x" * 1_000)] * 200, [])) < 65_536
