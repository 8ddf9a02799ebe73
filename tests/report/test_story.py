from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
from support import tales

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.catalogue.outcome import error
from pytest_layerguard.measurement.results import GeneratedText
from pytest_layerguard.report import json as json_report
from pytest_layerguard.report import markdown
from pytest_layerguard.report.bet_report import BetReport, Threshold
from pytest_layerguard.report.make_report import make_report
from pytest_layerguard.report.side_by_side import side_by_side


@pytest.mark.parametrize("kind", tales.every())
def test_a_report_comes_back_as_it_went(kind: str) -> None:
    reported = tales.every()[kind]
    assert BetReport.from_json(reported.to_json()) == reported


def test_numbers_that_json_does_not_know_travel_too() -> None:
    endless = {"perplexity_ratio": Interval(math.inf, 3.0, math.inf)}
    reported = tales.judged(
        tales.SWEEP, tales.result(tales.variant("skip-0", "0", metrics=endless))
    )
    assert reported.result is not None
    assert reported.result.variants[0].metrics["perplexity_ratio"].value == math.inf


@pytest.mark.parametrize(
    ("criterion", "bars"),
    [
        ("any(perplexity_ratio <= 3)", [((), "perplexity_ratio", "<=", 3.0)]),
        ("all(3 > perplexity_ratio)", [((), "perplexity_ratio", "<", 3.0)]),
        ("min(perplexity_ratio) <= 3", [((), "perplexity_ratio", "<=", 3.0)]),
        (
            "all(1 < perplexity_ratio <= 3)",
            [((), "perplexity_ratio", ">", 1.0), ((), "perplexity_ratio", "<=", 3.0)],
        ),
        (
            "any(perplexity_ratio <= 3 or kl < 1)",
            [((), "perplexity_ratio", "<=", 3.0), ((), "kl", "<", 1.0)],
        ),
        ("any(perplexity * 2 <= base_perplexity)", []),
        ("any(unique_tokens != 5 and kl < 1)", [((), "kl", "<", 1.0)]),
    ],
)
def test_bars_are_read_off_a_criterion(
    criterion: str, bars: list[tuple[tuple[str, ...], str, str, float]]
) -> None:
    head, tail = tales.SWEEP.split("criteria:")
    text = f"{head}criteria: {{lenient: {criterion}}}\n{tail[tail.index('closes') :]}"
    reported = make_report(tales.document(text), error("x"), tales.ROOT)
    assert [
        (bar.prefix, bar.metric, bar.sign, bar.value)
        for bar in reported.thresholds
        if bar.level == "lenient"
    ] == bars


@pytest.mark.parametrize(("sign", "met"), [("<", False), ("<=", True), (">", False), (">=", True)])
def test_a_bar_at_its_value(sign: str, met: bool) -> None:
    assert Threshold("lenient", (), "kl", sign, 2.0).met(2.0) is met


def test_a_sweep_shows_the_texts_of_the_mildest_and_of_the_worst() -> None:
    found = tales.result(
        *(
            tales.variant(f"skip-{at}", str(at), ratio=100.0 - at, samples=tales.said("x"))
            for at in range(50)
        )
    )
    reported = tales.judged(tales.SWEEP, found)
    assert reported.shown == (49, 48, 47, 46, 45, 44, 1, 0)
    assert reported.result is not None
    assert [bool(each.samples) for each in reported.result.variants].count(True) == 8
    assert len(reported.result.variants) == 50


def test_what_travels_is_bounded_and_harmless() -> None:
    loud = tales.variant("skip-0", "0", samples=tales.said("A" * 10_000_000 + "\x1b[2J"))
    reported = tales.judged(tales.SWEEP, tales.result(loud))
    assert len(reported.to_json()) < 50_000
    reported = tales.judged(
        tales.SWEEP, tales.result(replace(loud, samples=tales.said("a\x1b[2J\nb\x00")))
    )
    assert reported.result is not None
    assert reported.result.variants[0].samples[0].text == "a\\u001b[2J\nb\\u0000"


def test_texts_that_ran_free_stand_side_by_side_in_every_report() -> None:
    free = GeneratedText("The end.", "Ben ran\nhome.", 4, ended=True)
    loop = GeneratedText("The end.", "so so so so", 9, ended=False)
    found = tales.result(tales.variant("skip-0", "0", ratio=2.0, generated=(loop,)))
    bases = tuple(replace(each, generated=(free,)) for each in found.bases)
    reported = tales.judged(tales.SWEEP, replace(found, bases=bases))
    (one,) = [each for each in side_by_side(reported) if each.prompt == "The end."]
    assert (one.before.text, one.before.note) == (free.text, "4 tokens, then the end")
    assert (one.after[0].text, one.after[0].note) == (loop.text, "9 tokens, and no end")
    assert "| Ben ran \u21b5 home. | so so so so |" in markdown.render(
        [reported], [], limit=100_000
    )
    assert json_report.entry(reported)["variants"][0]["generated"] == [
        {"prompt": "The end.", "base": free.text, "variant": loop.text}
    ]


def test_a_claim_of_several_lines_is_shown_on_one() -> None:
    lines = re.sub("claim: .*", "claim: |\n  It holds\n  everywhere.", tales.SWEEP, count=1)
    reported = tales.judged(lines, tales.result(tales.variant("skip-0", "0", ratio=2.0)))
    assert reported.claim == "It holds everywhere."


def test_what_is_done_is_described_with_its_arguments() -> None:
    reported = make_report(
        parse_bets(tales.TRAINING, tales.ROOT / "a.yaml")[0], error("x"), tales.ROOT
    )
    assert len(reported.steps) == 1
    assert reported.steps[0].startswith("average_experts")
    assert ", then train {steps: 20" in reported.steps[0]
