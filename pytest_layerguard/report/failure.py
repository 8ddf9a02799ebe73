"""What a failed bet says: the claim, what decided, the numbers, the words, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.errors import many
from pytest_layerguard.report import text
from pytest_layerguard.report.evidence import published
from pytest_layerguard.report.variants import name_of, notes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from pytest_layerguard.bet.criteria.interval import Interval
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.catalogue.outcome import Outcome
    from pytest_layerguard.measurement.results import BaseResult, BetResult, VariantResult

WORDS: Final = 600
"""Characters of a claim, a criterion or a message that are shown at the most."""
SAMPLE: Final = 160
"""Characters of what a model says that are shown at the most."""
VARIANTS: Final = 40
"""Variants that are shown at the most; the JSON report has all."""
SPEAKERS: Final = 3
"""Variants whose words are shown at the most."""
COLUMNS: Final = ("perplexity", "perplexity_ratio", "kl", "unique_tokens")
"""Metrics that come first in the table; the others follow in their own order."""


def lines(document: BetDocument, outcome: Outcome, path: Path) -> Iterator[str]:
    """Tell why a bet failed the build, so that a reader needs no other file to know what to do."""
    bet = document.bet
    yield f"{text.plain(str(path), WORDS)}:{document.line}: {headline(document, outcome)}"
    yield ""
    yield f"claim:    {text.plain(bet.claim_line, WORDS)}"
    yield from decided(document, outcome)
    for message in outcome.messages:
        yield ""
        # Whatever strangers wrote in a message is harmless already; its lines are meant.
        yield from message.splitlines()
    if outcome.result is not None:
        yield ""
        yield from variants(outcome.result)
        yield from said(outcome.result)
    if bet.evidence:
        yield ""
        yield from published(bet.evidence)


def headline(document: BetDocument, outcome: Outcome) -> str:
    """One line: the bet, its status and its word, after what alone fails it."""
    bet = document.bet
    unrecorded = "unrecorded, " if outcome.is_unrecorded else ""
    return f"{bet.id} ({text.plain(bet.title, 100)}), {bet.status}: {unrecorded}{outcome.word}"


def brief(outcome: Outcome) -> str:
    """What decided, in one line, for where there is room for no more."""
    judgement = outcome.judgement
    decides = judgement is not None and outcome.word.value == judgement.verdict.value
    if judgement is not None and decides and not outcome.is_unrecorded:
        return text.plain(f"{judgement.decided_by}: {judgement.deciding.filled}", WORDS)
    return next(iter(outcome.reason.splitlines()), "")


def decided(document: BetDocument, outcome: Outcome) -> Iterator[str]:
    """The criterion that decided, as written and with its numbers filled in."""
    judgement = outcome.judgement
    if judgement is None:
        return
    for name in ("catastrophic", "strict", "lenient"):
        expression = getattr(document.bet.criteria, name)
        evaluation = getattr(judgement, name)
        if expression is None or evaluation is None:
            continue
        mark = "decided:" if name == outcome.decided_by else "also:   "
        yield f"{mark}  {name} is {evaluation.truth.value}: {text.plain(evaluation.filled, WORDS)}"


def variants(result: BetResult) -> Iterator[str]:
    """The table of base and variants, each metric with its interval where it has one."""
    found: list[BaseResult | VariantResult] = [*result.bases, *result.variants]
    names = dict.fromkeys(name for each in found for name in each.metrics)
    columns: list[str] = [name for name in COLUMNS if name in names]
    columns += [
        name for name in names if name not in columns and name.removeprefix("base_") not in columns
    ]
    rows = [["", *(name.replace("_", " ") for name in columns)]]
    rows += [[name_of(base), *cells(base.metrics, columns)] for base in result.bases]
    shown = result.variants[:VARIANTS]
    rows += [[name_of(variant), *cells(variant.metrics, columns)] for variant in shown]
    yield from text.aligned(rows)
    if len(result.variants) > VARIANTS:
        yield f"and {len(result.variants) - VARIANTS} more variants, see --layerguard-json"
    yield from notes(result.variants)
    kind = (
        "descriptive: fewer than 8 windows, so no intervals"
        if result.descriptive
        else ("95 % intervals, clustered by window")
    )
    yield f"{result.tokens:,} tokens in {many(result.windows, 'window')}; {kind}"


def cells(metrics: Mapping[str, Interval], columns: list[str]) -> Iterator[str]:
    """A table's cells for the metrics, `-` where there is none."""
    for name in columns:
        each = metrics.get(name)
        yield "-" if each is None else str(each)


def said(result: BetResult) -> Iterator[str]:
    """What the model says before and after, of the first prompt; strangers' words, so harmless."""
    everyone: list[BaseResult | VariantResult] = [*result.bases[:1], *result.variants]
    speakers = [each for each in everyone if each.samples]
    if not speakers:
        return
    first = speakers[0].samples[0]
    yield ""
    yield f'what it says after "{text.spoken(first.prompt, SAMPLE)}"'
    told = [(name_of(each), each.samples[0]) for each in speakers[: SPEAKERS + 1]]
    rows = [[f"  {name}:", f'"{text.spoken(each.text, SAMPLE)}"'] for name, each in told]
    yield from text.aligned(rows)
