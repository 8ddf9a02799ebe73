"""Measure text that runs free: how it repeats itself, whether it ends, and where it leaves the base's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import Interval, greatest, least
from pytest_layerguard.measurement.results import GeneratedText

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from pytest_layerguard.bet.bet import GenerateSpec
    from pytest_layerguard.measurement.planning import PlannedVariant
    from pytest_layerguard.models.plan import Plan

    Decode = Callable[[Sequence[int]], str]

_LENGTH: Final = 4
"""The tokens of the n-grams that are looked for again."""


_SHOWN: Final = 8
_LONGEST: Final = 4_000
"""How many texts of a model are kept to be shown, and how many characters of each."""


@dataclass(frozen=True)
class FreeText:
    """A continuation: its new tokens, without the end of text, and whether it came to one."""

    ids: tuple[int, ...]
    ended: bool

    @classmethod
    def of(cls, ids: Sequence[int], ends: Collection[int]) -> FreeText:
        """Return the continuation up to the first end of text."""
        stop = next((place for place, token in enumerate(ids) if token in ends), None)
        return cls(tuple(ids[:stop]), stop is not None)


@dataclass(frozen=True)
class FreeTexts:
    """Continuations of the same prompts by the base and by every variant.

    Attributes:
        base: The base's, one per prompt.
        variants: For each variant, those of each of its directed plans.
        tokens: The most new tokens of a continuation.
        prompts: What they continue.
    """

    base: tuple[FreeText, ...]
    variants: tuple[tuple[tuple[FreeText, ...], ...], ...]
    tokens: int
    prompts: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        texts: Mapping[Plan, tuple[FreeText, ...]],
        base: Plan,
        variants: Sequence[PlannedVariant],
        spec: GenerateSpec | None,
    ) -> FreeTexts | None:
        """Pick those of a bet's base and variants from the continuations of plans; None without a spec."""
        if spec is None:
            return None
        every = (tuple(texts[plan] for plan in variant.plans) for variant in variants)
        return cls(texts[base], tuple(every), spec.tokens, spec.prompts)

    def shown(self, decode: Decode, variant: int | None = None) -> tuple[GeneratedText, ...]:
        """Return the first texts of a variant, or of the base; of directed plans those that repeat themselves most."""
        texts = self.base
        if variant is not None:
            texts = max(self.variants[variant], key=lambda each: repetition(each).value)
        return tuple(
            GeneratedText(prompt, decode(text.ids)[:_LONGEST], len(text.ids), text.ended)
            for prompt, text in zip(self.prompts[:_SHOWN], texts, strict=False)
        )

    def base_metrics(self) -> dict[str, Interval]:
        """Return the metrics of the base's texts."""
        return {"repetition": repetition(self.base), "stop_rate": stop_rate(self.base)}

    def metrics(self, variant: int) -> dict[str, Interval]:
        """Return the metrics of a variant's texts; of directed plans the worse one counts."""
        directions = self.variants[variant]
        return {
            "repetition": greatest(repetition(texts) for texts in directions),
            "stop_rate": least(stop_rate(texts) for texts in directions),
            "first_divergence": least(
                Interval.point(
                    min(self._divergence(*each) for each in zip(self.base, texts, strict=True))
                )
                for texts in directions
            ),
        }

    def _divergence(self, base: FreeText, other: FreeText) -> int:
        """Return how many tokens two texts begin with in common; all that were asked for if they are the same."""
        if base == other:
            return self.tokens
        shorter = min(len(base.ids), len(other.ids))
        return next(
            (place for place in range(shorter) if base.ids[place] != other.ids[place]), shorter
        )


def repetition(texts: Sequence[FreeText]) -> Interval:
    """Return the share of 4-grams, over all texts, that occurred before in the same text; 0 if there are none."""
    repeated = total = 0
    for text in texts:
        grams = [text.ids[start : start + _LENGTH] for start in range(len(text.ids) - _LENGTH + 1)]
        total += len(grams)
        repeated += len(grams) - len(set(grams))
    return Interval.point(repeated / total if total else 0.0)


def stop_rate(texts: Sequence[FreeText]) -> Interval:
    """Return the share of texts that ended by themselves."""
    return Interval.point(sum(text.ended for text in texts) / len(texts))
