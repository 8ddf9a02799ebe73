"""The text of a failed bet: the claim, what decided, the numbers, the continuations, and what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pytest_layerguard.catalogue.wording import cut
from pytest_layerguard.report import text, variant_table
from pytest_layerguard.report.words import name_of, published

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_layerguard.bet.criteria.evaluate import Decider
    from pytest_layerguard.measurement.results import BaseResult, BetResult, VariantResult
    from pytest_layerguard.report.bet_report import BetReport

_PROSE: Final = 600
"""Characters of a claim, a criterion or a message."""
_CONTINUATION: Final = 160
_ASIDE: Final = re.compile(r" \([^()]*\)")
_NOT_BY_NUMBERS: Final = frozenset({"UNMEASURED", "UNRECORDED", "ERROR"})
_VARIANTS: Final = 3
"""Variants whose continuations are shown."""


def lines(bet: BetReport, *, short: bool = False) -> Iterator[str]:
    """Yield why a bet failed the build, so that a reader needs no other file to know what to do.

    The short form ends before the table of variants, continuations and published figures.
    """
    place = ":".join(map(str, bet.error_at or (bet.line,)))
    yield f"{bet.file}:{place}: {bet.id} ({cut(bet.title, 100)}), {bet.status}: {bet.word}"
    yield ""
    yield f"claim:    {cut(bet.claim, _PROSE)}"
    yield from _criteria(bet)
    yield from _to_hold(bet)
    for message in bet.messages:
        yield ""
        # Untrusted text in a message is escaped already; its line breaks are intended.
        yield from message.splitlines()
    if short:
        return
    if bet.result is not None:
        yield ""
        yield from variant_table.lines(bet.result)
        for candidate in bet.candidates:
            yield from candidate.lines()
        yield from _continuations(bet.result)
    if bet.evidence:
        yield ""
        yield from published(bet.evidence)


def brief(bet: BetReport) -> str:
    """Return what decided, in one line: the bar and the number that met or missed it, not all of a sweep."""
    decided, decider = bet.deciding, bet.decider
    if decider is None or not by_numbers(bet):
        return reasons(bet)[0]
    number = f"{decider.interval} against {decider.bar}"
    whose = _whose(decider).rstrip(",")
    by_own = decided is not None and decided.decider == decider
    level = f"; {decided.level} is {decided.truth}" if decided is not None and by_own else ""
    return cut(f"{number}: {whose}{level}", _PROSE)


def by_numbers(bet: BetReport) -> bool:
    """Return whether a number decided, and not what is wanting or not as in the record."""
    return not bet.differs and bet.word not in _NOT_BY_NUMBERS


def reasons(bet: BetReport) -> list[str]:
    """Return why a bet failed that no number decided, in several forms of one line, the longest first."""
    if bet.word == "TAMPERED" and bet.differs:
        change = bet.differs[0]
        return [f"changed since its record: {change}", change, change.split(": ")[0]]
    if bet.word == "STALE" and bet.differs:
        names = (each.split(": ")[0] for each in bet.differs)
        files = ", ".join(name for name in names if not name.startswith("perplexity"))
        return [f"not those of its record: {files}", f"other {files}"]
    if bet.word == "CROSSED" and bet.doors and bet.result is None:
        closed = f"closed by {', '.join(door.id for door in bet.doors)}"
        return [f"{closed}; nothing was measured", closed]
    line = next((line for each in bet.messages for line in each.splitlines()), "")
    clause = line.split("; ")[0]
    return [line, clause, _ASIDE.sub("", clause)]


def _criteria(bet: BetReport) -> Iterator[str]:
    """Yield the criteria as written and with their numbers filled in."""
    judged = [each for each in bet.criteria if each.truth is not None]
    for each in sorted(judged, key=lambda each: each.level != "catastrophic"):
        mark = "decided:" if each.decided else "also:   "
        filled = cut(f"{each.written}  ->  {each.filled}", _PROSE)
        yield f"{mark}  {each.level} is {each.truth}: {filled}"


def _to_hold(bet: BetReport) -> Iterator[str]:
    """Yield what would have to be otherwise for the claim to hold."""
    if bet.status == "falsified":
        return
    levels = ("lenient", "strict") if bet.word == "REGRESSED" else ("lenient",)
    by_level = {each.level: each for each in bet.criteria if each.truth == "false"}
    short = next((by_level[level] for level in levels if level in by_level), None)
    bars = [(each, each.bar) for each in (short.deciders if short is not None else ())]
    bars += [
        (each.decider, f"{each.decider.bar}, the bar of {each.of}")
        for each in bet.missed
        if not each.catastrophic
    ]
    for place, (decider, bar) in enumerate(bars):
        must = f"must be {bar}; it is {decider.interval}"
        yield cut(f"{'and:' if place else 'to hold:':<9} {_whose(decider)} {must}", _PROSE)


def _whose(decider: Decider) -> str:
    whose = f" of {decider.variant}" if decider.variant else ""
    among = f", the {decider.among}," if decider.among else ""
    return f"{decider.metric}{whose}{among}"


def _continuations(result: BetResult) -> Iterator[str]:
    """Yield how base and variants continue the first prompt."""
    everyone: list[BaseResult | VariantResult] = [*result.bases[:1], *result.variants]
    for field, until in (("samples", ""), ("generated", ", until the end of text")):
        said = [(each, getattr(each, field)[0]) for each in everyone if getattr(each, field)]
        if said:
            yield ""
            yield f'what it says after "{text.one_line(said[0][1].prompt, _CONTINUATION)}"{until}'
            yield from text.aligned(
                [
                    [f"  {name_of(each)}:", f'"{text.one_line(made.text, _CONTINUATION)}"']
                    for each, made in said[: _VARIANTS + 1]
                ]
            )
