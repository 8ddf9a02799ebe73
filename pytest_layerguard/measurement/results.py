"""The results of a bet, and their form in reports, records and caches."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

from pytest_layerguard.bet.criteria.evaluate import Row
from pytest_layerguard.bet.criteria.interval import Interval  # noqa: TC001 - pydantic resolves it

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FIRST_CRITERIA: Final = "criteria_when_first_measured"
"""The diagnostic with the criteria that a bet had when its numbers were first seen, if they were others."""


@dataclass(frozen=True)
class Continuation:
    """A continuation of a prompt.

    Attributes:
        prompt: The text that is continued.
        text: The new tokens, decoded.
        unique_tokens: Distinct token ids among the new tokens.
        token_ids: The new tokens.
    """

    prompt: str
    text: str
    unique_tokens: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class GeneratedText:
    """A text of ``measure.generate``, which runs free.

    Attributes:
        prompt: The text that is continued.
        text: The new tokens, decoded, without the end of text; the start of them where they are very long.
        tokens: How many new tokens there are.
        ended: Whether it came to the end of text by itself.
    """

    prompt: str
    text: str
    tokens: int
    ended: bool


@dataclass(frozen=True)
class TokenHarm:
    """A token and the mean difference of its loss, variant minus base, in nats, over ``count`` places."""

    token: str
    count: int
    difference: float


@dataclass(frozen=True)
class LossProfile:
    """The positions and the tokens whose loss grows.

    Attributes:
        by_position: Mean difference of token losses, variant minus base, in nats, for each position of a
            window; None where a position is never scored.
        tokens: The tokens hurt most, worst first, among those that occur often enough for a mean.
    """

    by_position: tuple[float | None, ...]
    tokens: tuple[TokenHarm, ...]


@dataclass(frozen=True)
class ChangedAnswer:
    """A question that base and variant answer differently, one of them rightly.

    Attributes:
        question: Its text; of a long one the end.
        right: The right answer.
        base: The base's answer.
        variant: The variant's answer.
        lost: Whether the base's answer is the right one.
    """

    question: str
    right: str
    base: str
    variant: str
    lost: bool


@dataclass(frozen=True)
class TaskChange:
    """How a variant's answers to the questions of a task differ from the base's.

    Attributes:
        questions: The number of questions.
        right_before: Those that the base answers rightly.
        lost: Those of them that the variant answers wrongly.
        gained: Those that only the variant answers rightly.
        p_value: Two-sided, of McNemar's exact test that losing and gaining are equally likely.
        examples: Some of the questions lost and gained, in the order of the task.
        chance: The share of right answers that guesses have.
    """

    questions: int
    right_before: int
    lost: int
    gained: int
    p_value: float
    examples: tuple[ChangedAnswer, ...] = ()
    chance: float = 0.0


@dataclass(frozen=True)
class BaseResult:
    """The untouched model on one text and checkpoint."""

    text: str | None
    checkpoint: str | None
    metrics: Mapping[str, Interval]
    samples: tuple[Continuation, ...] = ()
    spoken: tuple[Continuation, ...] = ()
    generated: tuple[GeneratedText, ...] = ()


@dataclass(frozen=True)
class VariantResult:
    """One variant on one text and checkpoint.

    Attributes:
        name: Its slug.
        target: The layers that it changes, ``3`` or ``4-5``, by which variants of several arms are joined.
        arm: The arm it belongs to, or None.
        text: The text it was measured on, or None where the bet has but one.
        checkpoint: The checkpoint, or None where the bet has but one.
        metrics: By metric name; no interval where a metric has none.
        samples: Greedy continuations, from which ``unique_tokens`` comes.
        spoken: Continuations drawn at a temperature, shown and never judged.
        generated: The first texts that ran free.
        profile: The positions and tokens whose loss grows.
        tasks: How its answers differ from the base's, by the name of the task.
        diagnostics: Notes of the intervention (expert variance, layers chosen, training losses).
        note: A condition under which to read these numbers, such as an overflow.
        kl_tail: Percentiles and the maximum over tokens of KL(base || variant), in nats: ``p50`` to ``max``.
        documents: The number of documents of each task of perplexity, by the name of the task.
    """

    name: str
    target: str
    arm: str | None
    text: str | None
    checkpoint: str | None
    metrics: Mapping[str, Interval]
    samples: tuple[Continuation, ...] = ()
    spoken: tuple[Continuation, ...] = ()
    profile: LossProfile | None = None
    tasks: Mapping[str, TaskChange] = field(default_factory=dict)
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None
    generated: tuple[GeneratedText, ...] = ()
    kl_tail: Mapping[str, float] = field(default_factory=dict)
    documents: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BetResult:
    """All that was measured for one bet.

    Attributes:
        bases: One per text and checkpoint.
        variants: One per variant, arm, text and checkpoint.
        tokens: Scored tokens per text.
        windows: Windows per text.
        descriptive: Whether there were too few windows for intervals.
        provenance: Model, tokenizer and token digests, versions, device, dtype, attention, micro-batch,
            layer evaluations.
        diagnostics: Notes that apply to the whole bet.
        seconds: How long measuring took, loading included, also if the result is cached.
        cached: Whether this came from the result cache.
    """

    bases: tuple[BaseResult, ...]
    variants: tuple[VariantResult, ...]
    tokens: int
    windows: int
    descriptive: bool
    provenance: Mapping[str, Any]
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    cached: bool = False

    def rows(self) -> tuple[Row, ...]:
        """The rows that criteria are evaluated over."""
        return tuple(
            Row(each.name, each.target, each.arm, each.text, each.checkpoint, each.metrics)
            for each in self.variants
        )

    def candidates(self) -> Iterator[Mapping[str, Any]]:
        """Yield what the provenance has of each candidate, checkpoint by checkpoint."""
        for made in self.provenance.get("checkpoints", ()):
            yield from made.get("candidates", ())

    def base_of(self, variant: VariantResult) -> BaseResult:
        """The base that a variant was compared with."""
        return next(
            base
            for base in self.bases
            if (base.text, base.checkpoint) == (variant.text, variant.checkpoint)
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data, in which infinite numbers are the strings ``"inf"`` and ``"-inf"``."""
        return cast("dict[str, Any]", _plain(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BetResult:
        """Read what :meth:`to_json` returned.

        Raises:
            KeyError: If a key is missing.
            ValueError: If the data is something else.
        """
        from pydantic import ValidationError

        try:
            return _adapter().validate_python(data)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            if first["type"] == "missing":
                raise KeyError(place) from None
            raise ValueError(f"{place}: {first['msg']}") from None


@cache
def _adapter() -> TypeAdapter[BetResult]:
    from pydantic import TypeAdapter

    return TypeAdapter(BetResult)


def _plain(value: Any) -> Any:
    # By hand: pydantic writes infinity otherwise, also inside a diagnostic of any type.
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
