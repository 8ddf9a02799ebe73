"""An outcome as pytest reports it: passed, failed, skipped or with a warning, and by which word."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Project


@pytest.mark.parametrize(
    ("status", "verdict", "word", "outcome"),
    [
        ("proposed", "STRICT", "STRICT", "passed"),
        ("proposed", "LENIENT", "LENIENT", "passed"),
        ("proposed", "FALSIFIED", "FALSIFIED", "failed"),
        ("proposed", "CATASTROPHIC", "CATASTROPHIC", "failed"),
        ("proposed", "INCONCLUSIVE", "INCONCLUSIVE", "failed"),
        ("falsified", "CATASTROPHIC", "CATASTROPHIC", "passed"),
        ("falsified", "FALSIFIED", "FALSIFIED", "passed"),
        ("falsified", "INCONCLUSIVE", "INCONCLUSIVE", "passed"),
        ("falsified", "LENIENT", "OVERTURNED", "failed"),
    ],
)
def test_the_word_and_whether_the_build_stands(
    project: Project, status: str, verdict: str, word: str, outcome: str
) -> None:
    project.bet("bet-40", verdict, status=status)
    result = project.run("bets/", "-v")
    result.assert_outcomes(**{outcome: 1}, warnings=None)
    assert result.ret == (0 if outcome == "passed" else 1)
    result.stdout.fnmatch_lines([f"bets/bet-40.yaml::bet-40 {word} *"])
    assert ("= FAILURES =" in result.stdout.str()) is (outcome == "failed")
    assert project.measured == ["bet-40"]


def test_the_catalogue_as_it_stands_is_green(project: Project) -> None:
    for number, verdict in enumerate(["CATASTROPHIC", "FALSIFIED", "CATASTROPHIC"]):
        project.bet(f"bet-{number}", verdict, status="falsified")
    result = project.run("bets/", "--color=yes", "-v")
    assert result.ret == 0
    assert "\x1b[32mCATASTROPHIC\x1b[0m" in result.stdout.str()
    assert "\x1b[31m" not in result.stdout.str()


def test_a_bet_that_cannot_be_measured_here_is_skipped_with_its_reason(project: Project) -> None:
    project.bet("bet-40", unavailable="needs 24 GiB of GPU memory, this machine has none")
    result = project.run("bets/", "-v", "-rs")
    result.assert_outcomes(skipped=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(
        [
            "bets/bet-40.yaml::bet-40 SKIPPED (needs 24 GiB of GPU memory*",
            "not measured: 1 needs 24 GiB of GPU memory, this machine has none",
            "bet-40 (Skip each layer): skip_layers on reference: not measured",
            "  needs 24 GiB of GPU memory, this machine has none",
            "SKIPPED [[]1] bets: bets not measured, for the reasons above",
        ]
    )


def test_a_skip_shows_the_published_evidence(project: Project, evidence: str) -> None:
    project.bet("bet-40", unavailable="no GPU", more=evidence)
    brief = project.run("bets/")
    brief.stdout.fnmatch_lines(["not measured: 1 no GPU; -v names them"])
    brief.stdout.no_fnmatch_line("*published, not measured*")
    project.run("bets/", "-v").stdout.fnmatch_lines(
        ["  no GPU", "  published, not measured here: Bet 40, Skip-each-layer*"]
    )


def test_skips_are_listed_one_by_one_where_pytest_is_asked_to(project: Project) -> None:
    project.bet("bet-40", unavailable="no GPU")
    result = project.run("bets/", "-rs", "--no-fold-skipped")
    result.stdout.fnmatch_lines(["SKIPPED bets/bet-40.yaml::bet-40 - Skipped: no GPU"])


def test_what_is_required_cannot_be_skipped(project: Project) -> None:
    project.bet("bet-40", unavailable="needs 24 GiB of GPU memory")
    result = project.run("bets/", "--layerguard-require=all")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["needs 24 GiB of GPU memory", "*--layerguard-require all: *", "* bet-40 *UNMEASURED *"]
    )


def test_an_unrecorded_falsification_fails_where_records_are_required(project: Project) -> None:
    project.bet("bet-40", "CATASTROPHIC", status="falsified")
    assert project.run("bets/").ret == 0
    result = project.run("bets/", "--layerguard-require=records")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*bet-40 (*), falsified: UNRECORDED",
            "unrecorded; --layerguard-require records makes that a failure*",
            "UNRECORDED *::bet-40 - unrecorded; --layerguard-require*",
        ]
    )


def test_what_cannot_be_measured_honestly_is_an_error(project: Project) -> None:
    project.bet("bet-40", error="the base model says nothing: its perplexity is 40,000")
    result = project.run("bets/", "-v")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*::bet-40 ERROR *", "the base model says nothing: its perplexity is 40,000"]
    )
    result.stdout.no_fnmatch_line("*MeasurementError*")


def test_a_mistake_of_ours_has_a_traceback_and_is_an_error(project: Project) -> None:
    project.bet("bet-40", bug="a mistake of ours")
    result = project.run("bets/", "-v")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*::bet-40 ERROR *", "*ZeroDivisionError: a mistake of ours", "* bet-40 *ERROR *"]
    )


def test_a_mistake_of_ours_is_named_where_no_traceback_is_shown(project: Project) -> None:
    project.bet("bet-40", bug="a mistake of ours")
    project.run("bets/", "--layerguard-html=page.html", "--layerguard-markdown=summary.md")
    for name in ("page.html", "summary.md"):
        written = (project.path / name).read_text(encoding="utf-8")
        assert "ZeroDivisionError: a mistake of ours; the traceback stands" in written, name


class TestWarnings:
    """A falsification that cannot be decided here, and what `-W error` makes of it."""

    def test_it_passes_with_a_warning_at_the_bet(self, project: Project) -> None:
        project.bet("bet-40", "INCONCLUSIVE", status="falsified")
        result = project.run("bets/", "-v")
        assert result.ret == 0
        result.stdout.fnmatch_lines(
            ["*bets/bet-40.yaml:1: LayerguardWarning: the falsification could neither be *"]
        )

    def test_without_v_it_is_noted_once(self, project: Project) -> None:
        project.bet("bet-40", "INCONCLUSIVE", status="falsified")
        project.bet("bet-41", warning="this is going away")
        result = project.run("bets/")
        printed = result.stdout.str()
        assert printed.count("neither confirmed nor overturned") == 1
        assert "LayerguardWarning" not in printed
        result.assert_outcomes(passed=2, warnings=1)

    def test_as_an_error_it_fails_without_a_traceback(self, project: Project) -> None:
        project.bet("bet-40", "INCONCLUSIVE", status="falsified")
        result = project.run("bets/", "-W", "error", "-v")
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            ["*::bet-40 INCONCLUSIVE *", "the falsification could neither be confirmed nor *"]
        )
        result.stdout.no_fnmatch_line("*Traceback*")
        result.stdout.no_fnmatch_line("*collect.py*")

    def test_it_can_be_excepted(self, project: Project) -> None:
        project.bet("bet-40", "INCONCLUSIVE", status="falsified")
        excepted = "default::pytest_layerguard.LayerguardWarning"
        result = project.run("bets/", "-W", "error", "-W", excepted)
        result.assert_outcomes(passed=1, warnings=None)

    def test_what_a_library_warns_of_never_fails_a_bet(self, project: Project) -> None:
        project.bet("bet-40", warning="this is going away")
        result = project.run("bets/", "-W", "error")
        result.assert_outcomes(passed=1, warnings=1)
        result.stdout.fnmatch_lines(["*DeprecationWarning: this is going away"])

    def test_what_a_user_ignores_stays_ignored(self, project: Project) -> None:
        project.bet("bet-40", warning="this is going away")
        result = project.run("bets/", "-W", "ignore::DeprecationWarning")
        result.assert_outcomes(passed=1, warnings=0)


CLOSES = "closes: {interventions: [skip_layers], models: parameters <= 1}\n"


class TestFailure:
    """What a failed bet says."""

    def test_it_says_all_that_is_needed(self, project: Project, evidence: str) -> None:
        project.bet("bet-40", "CATASTROPHIC", more=evidence)
        result = project.run("bets/")
        result.stdout.fnmatch_lines(
            [
                "*= FAILURES =*",
                "_* bet-40 _*",
                "bets/bet-40.yaml:1: bet-40 (Skip each layer), proposed: CATASTROPHIC",
                "claim: *At least one layer can be skipped at no more than 3x the perplexity.",
                "decided: *catastrophic is true: all(perplexity_ratio >= 10) * skip-3: 11 *",
                "also: *lenient is false: any(perplexity_ratio <= 3) *",
                "the claim does not hold; keep the bet as status: falsified*",
                "*perplexity *perplexity ratio *unique tokens",
                "base *10 *60",
                "skip-0 *800 *80 [[]70, 90] *2",
                "skip-3 *110 *11 [[]10.5, 11.5] *2",
                "1,024 tokens in 8 windows; 95 % intervals, clustered by window",
                'what it says after "Once upon a time"',
                '*base: *"there was a little girl"',
                '*skip-0: *"the the the"',
                "published, not measured here: Bet 40, Skip-each-layer ablation (FractalMoE 30M): CATASTROPHIC: "
                "base perplexity 89; skip-0 perplexity 7120",
                "CATASTROPHIC bets/bet-40.yaml::bet-40 - 11 [[]10.5, 11.5] against >= 10: *",
            ]
        )
        for ours in ("Traceback", "BetFailedError", "collect.py", "guard.py"):
            result.stdout.no_fnmatch_line(f"*{ours}*")

    def test_hostile_words_do_no_harm(self, project: Project) -> None:
        project.bet("bet-40", "CATASTROPHIC", says="\x1b[2J\n::error::gone ##[error] \u202e" * 90)
        reported = project.run("bets/").stdout.str()
        assert "\x1b" not in reported
        assert "\u202e" not in reported
        assert "##[" not in reported
        assert not [line for line in reported.splitlines() if line.lstrip().startswith("::")]
        assert max(map(len, reported.splitlines())) < 1000

    @pytest.mark.parametrize("style", ["auto", "long", "native"])
    def test_it_says_the_same_under_every_traceback_style(
        self, project: Project, style: str
    ) -> None:
        project.bet("bet-40", "CATASTROPHIC")
        result = project.run("bets/", f"--tb={style}")
        result.stdout.fnmatch_lines(["claim: *", "base *10 *60"])
        result.stdout.no_fnmatch_line("*Traceback*")

    def test_a_short_one_ends_before_the_table(self, project: Project) -> None:
        project.bet("bet-40", "FALSIFIED")
        result = project.run("bets/", "--tb=short")
        result.stdout.fnmatch_lines(
            [
                "claim: *",
                "decided: *",
                "to hold:  perplexity_ratio of skip-3, the best of 2, must be <= 3; it is 4 *",
                "the claim does not hold; *",
            ]
        )
        result.stdout.no_fnmatch_line("base *10 *60")

    def test_an_error_is_at_the_key_that_it_is_about(self, project: Project) -> None:
        project.bet("bet-40", error="measure.tokens: the text is too short")
        result = project.run("bets/", "--tb=line")
        place = f"{project.path / 'bets/bet-40.yaml'}:10: measure.tokens: the text"
        assert [line for line in result.outlines if line.startswith(place)]
        project.run("bets/").stdout.fnmatch_lines(["bets/bet-40.yaml:10:3: bet-40 (*: ERROR"])

    def test_what_was_tampered_with_comes_with_the_amendment_to_paste(
        self, project: Project
    ) -> None:
        project.bet("bet-40", "FALSIFIED", status="falsified", more=CLOSES)
        recorded = project.run_apart("bets/", "--layerguard-record")
        recorded.stdout.fnmatch_lines(
            ["recorded: bet-40: FALSIFIED in bets/records/bet-40.json; closed from now on:*"]
        )
        file = project.path / "bets/bet-40.yaml"
        file.write_text(file.read_text().replace("ratio <= 3)", "ratio <= 3.5)"))
        result = project.run_apart("bets/")
        result.stdout.fnmatch_lines(
            [
                "to keep the change, put this into the bet, with the reason:",
                "amends:",
                "  digest: sha256:*",
                "  because:",
                "TAMPERED *- changed since its record: criteria.lenien*",
            ]
        )

    def test_an_overturned_falsification_is_not_said_to_close_anything(
        self, project: Project
    ) -> None:
        project.bet("bet-40", "LENIENT", status="falsified", more=CLOSES)
        recorded = project.run("bets/", "--layerguard-record")
        recorded.stdout.fnmatch_lines(["recorded: bet-40: LENIENT in bets/records/bet-40.json"])

    def test_the_last_line_names_the_bet_and_what_decided(self, project: Project) -> None:
        project.bet("bet-40", "CATASTROPHIC")
        last = project.run("bets/", "--tb=line").outlines
        place = f"{project.path / 'bets/bet-40.yaml'}:1: 11 [10.5, 11.5] against >= 10: perplexity_"
        assert [line for line in last if line.startswith(place)]

    def test_without_tracebacks_the_table_is_left(self, project: Project) -> None:
        project.bet("bet-40", "CATASTROPHIC")
        result = project.run("bets/", "--tb=no")
        result.stdout.no_fnmatch_line("claim: *")
        result.stdout.fnmatch_lines(["* bet-40 *CATASTROPHIC *"])
