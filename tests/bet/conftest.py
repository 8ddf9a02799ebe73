from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_layerguard.bet.errors import BetFileError, Problem
from pytest_layerguard.bet.reader import BetDocument, parse_bets

GOOD = """\
id: bet-40
title: Skip each layer
claim: At least one layer can be skipped at no more than 3x the perplexity.
status: falsified
model: reference
intervention:
  skip_layers: {layers: {each: all}}
measure:
  text: {reference: heldout}
  tokens: 1024
  window: 128
  sample: {prompts: ["Once upon a time"], tokens: 100}
criteria:
  strict: any(perplexity_ratio <= 1.5)
  lenient: any(perplexity_ratio <= 3)
  catastrophic: all(perplexity_ratio >= 10)
closes:
  interventions: [skip_layers, remove_layers]
  models: parameters <= 1e8
evidence:
  - {source: "Bet 40", model: FractalMoE 30M, verdict: CATASTROPHIC,
     base: {perplexity: 89}, variants: {skip-0: {perplexity: 7120}}}
"""

Edit = Callable[..., str]
Read = Callable[[str], BetDocument]
BetReport = Callable[[str | bytes], tuple[Problem, ...]]


@pytest.fixture
def good() -> str:
    return GOOD


@pytest.fixture
def edited() -> Edit:
    """The good bet with pieces of its text replaced, each of which must be there."""

    def edit(*replacements: tuple[str, str]) -> str:
        text = GOOD
        for old, new in replacements:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        return text

    return edit


@pytest.fixture
def read() -> Read:
    def read_one(text: str) -> BetDocument:
        (document,) = parse_bets(text, Path("bets/40.yaml"))
        return document

    return read_one


@pytest.fixture
def reported() -> BetReport:
    """The problems of a text that must have some."""

    def problems(text: str | bytes) -> tuple[Problem, ...]:
        with pytest.raises(BetFileError) as caught:
            parse_bets(text, Path("bets/40.yaml"))
        return caught.value.problems

    return problems
