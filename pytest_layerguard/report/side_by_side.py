"""Continuations of one prompt before and after, side by side as the page shows them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_layerguard.bet.errors import many
from pytest_layerguard.measurement.results import Continuation
from pytest_layerguard.report.words import where_and_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_layerguard.measurement.results import GeneratedText, VariantResult
    from pytest_layerguard.report.bet_report import BetReport

_OPEN: Final = 2
"""Variants of a sweep whose continuations are shown without a click."""


class NamedContinuation(NamedTuple):
    """The continuation of a prompt by one model."""

    name: str
    text: str
    note: str


class SideBySide(NamedTuple):
    """The continuations of one prompt; `folded` is a heading to open them by, or empty."""

    kind: str
    prompt: str
    before: NamedContinuation
    after: tuple[NamedContinuation, ...]
    folded: str


def side_by_side(bet: BetReport) -> Iterator[SideBySide]:
    """Yield the continuations of each prompt: greedy ones, those that run free, the eye test's; the first unfolded."""
    for place, (kind, before, after) in enumerate(_prompts(bet)):
        untouched = _named("untouched model", before)
        if place:
            heading = f"{kind} \u201c{before.prompt}\u201d"
            yield SideBySide(kind, before.prompt, untouched, after, heading)
            continue
        yield SideBySide(kind, before.prompt, untouched, after[:_OPEN], "")
        if after[_OPEN:]:
            heading = many(len(after) - _OPEN, "more variant")
            yield SideBySide(kind, before.prompt, untouched, after[_OPEN:], heading)


def _prompts(
    bet: BetReport,
) -> Iterator[tuple[str, Continuation | GeneratedText, tuple[NamedContinuation, ...]]]:
    several = len({base.checkpoint for base in bet.bases}) > 1
    for kind, field in (
        ("greedy, after", "samples"),
        ("greedy until the end of text, after", "generated"),
        ("eye test, never judged, after", "spoken"),
    ):
        # A continuation does not depend on the text that is scored, so it is the same for every text.
        own = dict.fromkeys((base.checkpoint, getattr(base, field)) for base in bet.bases)
        for checkpoint, continuations in own:
            texts = {base.text for base in bet.bases if getattr(base, field) == continuations}
            variants = [
                variant
                for variant in bet.shown_variants
                if variant.checkpoint == checkpoint and variant.text in texts
            ]
            for at, before in enumerate(continuations):
                after = tuple(_after(variants, field, at))
                yield f"{checkpoint}, {kind}" if several else kind, before, after


def _after(variants: Sequence[VariantResult], field: str, at: int) -> Iterator[NamedContinuation]:
    """Yield the variants' continuations of a prompt, each once for all texts."""
    shown: dict[tuple[str | None, str], list[Continuation | GeneratedText]] = {}
    several = len({variant.text for variant in variants}) > 1
    for variant in variants:
        continuations: tuple[Continuation | GeneratedText, ...] = getattr(variant, field)
        others = shown.setdefault((variant.arm, variant.name), [])
        if at >= len(continuations) or continuations[at] in others:
            continue
        name = where_and_name(replace(variant, text=None) if several and not others else variant)
        others.append(continuations[at])
        yield _named(name, continuations[at])


def _named(name: str, made: Continuation | GeneratedText) -> NamedContinuation:
    return NamedContinuation(name, made.text, _note(made))


def _note(made: Continuation | GeneratedText) -> str:
    """Return what is worth knowing of a continuation beside its text."""
    if isinstance(made, Continuation):
        return many(made.unique_tokens, "unique token")
    return f"{many(made.tokens, 'token')}, {'then the end' if made.ended else 'and no end'}"
