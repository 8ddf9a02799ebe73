"""What the model says, before and after, as the page shows it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_layerguard.bet.errors import many
from pytest_layerguard.report.table import where_and_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_layerguard.measurement.results import Continuation, VariantResult
    from pytest_layerguard.report.story import Story

OPENLY: Final = 2
"""Variants of a sweep whose words are shown without being asked for."""


class Speech(NamedTuple):
    """What one model says."""

    name: str
    text: str
    note: str


class Samples(NamedTuple):
    """What is said to one prompt, before and after; `folded` is a heading to open it by."""

    kind: str
    prompt: str
    before: Speech
    after: tuple[Speech, ...]
    folded: str


def talks(story: Story) -> Iterator[Samples]:
    """Yield what is said to each prompt: greedily first, then in the eye test; the first unfolded."""
    open_yet = False
    for kind, before, after in _conversations(story):
        if open_yet:
            yield Samples(
                kind, before.prompt, _own(before), after, f"{kind} \u201c{before.prompt}\u201d"
            )
            continue
        open_yet = True
        yield Samples(kind, before.prompt, _own(before), after[:OPENLY], "")
        if after[OPENLY:]:
            heading = many(len(after) - OPENLY, "more variant")
            yield Samples(kind, before.prompt, _own(before), after[OPENLY:], heading)


def _conversations(story: Story) -> Iterator[tuple[str, Continuation, tuple[Speech, ...]]]:
    bases = story.result.bases if story.result is not None else ()
    several = len({base.checkpoint for base in bases}) > 1
    for kind, heard in (("greedy, after", "samples"), ("eye test, never judged, after", "spoken")):
        # A prompt is no part of a text, so a model says the same whichever text it is scored on.
        own = dict.fromkeys((base.checkpoint, getattr(base, heard)) for base in bases)
        for checkpoint, said in own:
            texts = {base.text for base in bases if getattr(base, heard) == said}
            speakers = [
                variant
                for variant in story.told_variants
                if variant.checkpoint == checkpoint and variant.text in texts
            ]
            for at, before in enumerate(said):
                after = tuple(_speeches(speakers, heard, at))
                yield f"{checkpoint}, {kind}" if several else kind, before, after


def _speeches(speakers: Sequence[VariantResult], heard: str, at: int) -> Iterator[Speech]:
    heard_yet: dict[tuple[str | None, str], list[Continuation]] = {}
    several = len({variant.text for variant in speakers}) > 1
    for variant in speakers:
        said: tuple[Continuation, ...] = getattr(variant, heard)
        others = heard_yet.setdefault((variant.arm, variant.name), [])
        if at >= len(said) or said[at] in others:
            continue
        name = where_and_name(replace(variant, text=None) if several and not others else variant)
        others.append(said[at])
        yield Speech(name, said[at].text, _unique(said[at]))


def _own(before: Continuation) -> Speech:
    return Speech("untouched model", before.text, _unique(before))


def _unique(spoken: Continuation) -> str:
    return f"{many(spoken.unique_tokens, 'unique token')}"
