"""What was measured, as plain data that goes to reports, records and caches and comes back the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, cast

from pytest_layerguard.bet.criteria.evaluate import Row
from pytest_layerguard.bet.criteria.interval import Interval


@dataclass(frozen=True)
class Continuation:
    """A continuation of a prompt.

    Attributes:
        prompt: What was given.
        text: What the model said, decoded.
        unique_tokens: Distinct token ids among the new tokens.
        token_ids: The new tokens.
    """

    prompt: str
    text: str
    unique_tokens: int
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class TokenHarm:
    """A token and what the intervention does to its loss: mean difference in nats, over so many places."""

    token: str
    count: int
    difference: float


@dataclass(frozen=True)
class LossProfile:
    """Which positions and which tokens suffer.

    Attributes:
        by_position: Mean difference of token losses, variant minus base, in nats, for each position of a
            window; None where a position is never scored.
        tokens: The tokens hurt most, worst first, among those that occur often enough to say so.
    """

    by_position: tuple[float | None, ...]
    tokens: tuple[TokenHarm, ...]


@dataclass(frozen=True)
class BaseResult:
    """The untouched model on one text and checkpoint."""

    text: str | None
    checkpoint: str | None
    metrics: Mapping[str, Interval]
    samples: tuple[Continuation, ...] = ()
    spoken: tuple[Continuation, ...] = ()


@dataclass(frozen=True)
class VariantResult:
    """One variant on one text and checkpoint.

    Attributes:
        name: Its slug.
        target: What it touches, ``3`` or ``4-5``, by which variants of several arms are joined.
        arm: The arm it belongs to, or None.
        text: The text it was measured on, or None where the bet has but one.
        checkpoint: The checkpoint, or None where the bet has but one.
        metrics: By metric name; no interval where a metric has none.
        samples: Greedy continuations, from which ``unique_tokens`` comes.
        spoken: Continuations drawn at a temperature, shown and never judged.
        profile: Which positions and tokens suffer.
        diagnostics: What the intervention noted (expert variance, layers chosen, training losses).
        note: What a reader must know of these numbers, such as an overflow.
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
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None


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
        diagnostics: What holds for the whole bet.
        seconds: How long it took to measure, loading included; whenever that was, if it is cached.
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

    def base_of(self, variant: VariantResult) -> BaseResult:
        """The base that a variant was compared with."""
        return next(
            base
            for base in self.bases
            if (base.text, base.checkpoint) == (variant.text, variant.checkpoint)
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data; infinite numbers become the strings ``"inf"`` and ``"-inf"``, which JSON cannot say."""
        return cast("dict[str, Any]", _plain(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BetResult:
        """What :meth:`to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: If the data is something else.
        """
        return cls(
            bases=tuple(
                BaseResult(
                    base["text"],
                    base["checkpoint"],
                    _intervals(base["metrics"]),
                    _spoken(base["samples"]),
                    _spoken(base["spoken"]),
                )
                for base in data["bases"]
            ),
            variants=tuple(_variant(variant) for variant in data["variants"]),
            tokens=data["tokens"],
            windows=data["windows"],
            descriptive=data["descriptive"],
            provenance=data["provenance"],
            diagnostics=data["diagnostics"],
            seconds=data["seconds"],
            cached=data["cached"],
        )


def _variant(data: Mapping[str, Any]) -> VariantResult:
    profile = data["profile"]
    return VariantResult(
        name=data["name"],
        target=data["target"],
        arm=data["arm"],
        text=data["text"],
        checkpoint=data["checkpoint"],
        metrics=_intervals(data["metrics"]),
        samples=_spoken(data["samples"]),
        spoken=_spoken(data["spoken"]),
        profile=profile
        and LossProfile(
            tuple(profile["by_position"]), tuple(TokenHarm(**harm) for harm in profile["tokens"])
        ),
        diagnostics=data["diagnostics"],
        note=data["note"],
    )


def _spoken(data: list[Mapping[str, Any]]) -> tuple[Continuation, ...]:
    return tuple(
        Continuation(each["prompt"], each["text"], each["unique_tokens"], tuple(each["token_ids"]))
        for each in data
    )


def _intervals(data: Mapping[str, Mapping[str, Any]]) -> dict[str, Interval]:
    return {
        name: Interval(float(each["value"]), float(each["low"]), float(each["high"]))
        for name, each in data.items()
    }


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {each.name: _plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    return value
