"""What the model says, before and after, as the page shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_layerguard.report import text
from pytest_layerguard.report.table import where_and_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_layerguard.lab.results import BaseResult, Spoken, VariantResult
    from pytest_layerguard.report.story import Story

OPENLY: Final = 2
"""Variants of a sweep whose words are shown without being asked for."""


class Speech(NamedTuple):
    """What one model says."""

    name: str
    text: str
    note: str


class Talk(NamedTuple):
    """What is said to one prompt, before and after; `folded` is a heading to open it by."""

    kind: str
    prompt: str
    before: Speech
    after: tuple[Speech, ...]
    folded: str


def talks(story: Story) -> Iterator[Talk]:
    """Yield what is said to each prompt: greedily first, then in the eye test."""
    result = story.result
    if result is None:
        return
    for kind, heard in (("greedy, after", "samples"), ("eye test, never judged, after", "spoken")):
        for base in result.bases:
            yield from _answers(story.told_variants, base, kind, heard)


def _answers(
    variants: Sequence[VariantResult], base: BaseResult, kind: str, heard: str
) -> Iterator[Talk]:
    own: tuple[Spoken, ...] = getattr(base, heard)
    others = [
        (variant, getattr(variant, heard))
        for variant in variants
        if getattr(variant, heard)
        and (variant.text, variant.checkpoint) == (base.text, base.checkpoint)
    ]
    for at, before in enumerate(own):
        after = tuple(
            Speech(where_and_name(variant), said[at].text, _unique(said[at]))
            for variant, said in others
            if at < len(said)
        )
        spoken = Speech("untouched model", before.text, _unique(before))
        heading = f"{text.many(len(after) - OPENLY, 'more variant')}"
        if at == 0 and heard == "samples":
            yield Talk(kind, before.prompt, spoken, after[:OPENLY], "")
            if after[OPENLY:]:
                yield Talk(kind, before.prompt, spoken, after[OPENLY:], heading)
        else:
            yield Talk(kind, before.prompt, spoken, after, f"{kind} \u201c{before.prompt}\u201d")


def _unique(spoken: Spoken) -> str:
    return f"{text.many(spoken.unique_tokens, 'unique token')}"
