"""The message of an INCONCLUSIVE bet says how many tokens would decide it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from support.catalogue import BET_40, measured

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.catalogue.outcome import Word

if TYPE_CHECKING:
    from support.catalogue import Bets


def named(bets: Bets, *ratios: float, spread: float = 1.2) -> tuple[str, list[int]]:
    bets.put(BET_40, status="proposed", closes=None)
    outcome = bets.judge("bet-40", *ratios, spread=spread)
    assert outcome.word is Word.INCONCLUSIVE
    reported = "\n".join(outcome.messages)
    return reported, [
        int(each.replace(",", "")) for each in re.findall(r"about ([\d,]+) tokens", reported)
    ]


def test_one_interval_across_the_bar_is_one_number(bets: Bets) -> None:
    reported, (number,) = named(bets, 3.2, 40)
    assert f"measured on 1,024 tokens, about {number:,} tokens would decide" in reported
    assert number > 1024


def test_each_interval_across_the_bar_has_its_number(bets: Bets) -> None:
    _, (near, far) = named(bets, 3.2, 3.05)
    assert far < near


def test_of_a_bar_that_is_challenged_it_is_one_too(bets: Bets) -> None:
    bets.put(BET_40)
    bets.put(challenges=["bet-40"], criteria={"lenient": "perplexity_ratio <= 5"})
    outcome = bets.judge("drop-one", 2.9, spread=1.2)
    assert outcome.word is Word.INCONCLUSIVE
    # Its own criterion is met: what decided is the bar of another bet, and no line may say otherwise.
    assert outcome.judgement is not None
    assert outcome.judgement.decided_by == "lenient"
    assert outcome.decided_by is None
    first, reported, tokens = outcome.messages
    assert first.endswith("bar (the lenient criterion) of bet-40 is undecided")
    assert reported.startswith("the bar of bet-40: any(perplexity_ratio <= 3)  ->  ")
    assert re.search(r"measured on 1,024 tokens, about [\d,]+ tokens would decide", tokens)


def test_of_many_intervals_across_the_bar_the_closest_are_reported(bets: Bets) -> None:
    reported, numbers = named(bets, *(3.2 + at / 1000 for at in range(48)))
    assert reported.count("would decide") == 6
    assert "and 42 more that straddle a bar" in reported.splitlines()
    assert len(numbers) == 6


def test_a_percentile_of_too_few_tokens_has_the_number_that_gives_it_an_upper_end(
    bets: Bets,
) -> None:
    bets.put(criteria={"lenient": "kl_p999 <= 3"})
    (variant,) = measured(1.2).variants
    variant = replace(variant, metrics={"kl_p999": Interval(1.2, 0.5, math.inf)})
    outcome = bets.judge("drop-one", variants=(variant,))
    assert outcome.word is Word.INCONCLUSIVE
    reported = "\n".join(outcome.messages)
    assert re.search(
        r"measured on 1,024 tokens, no fewer than [\d,]+ tokens would decide", reported
    )
