"""Expand a list of interventions into its variants on a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_layerguard.bet.arguments import Intervention

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Variant:
    """The interventions of one variant in order, with concrete targets."""

    slug: str
    target: str
    interventions: tuple[Intervention, ...]


def variants(interventions: Sequence[Intervention], layers: int) -> tuple[Variant, ...]:
    """Return the variants of a list of interventions. Sweeps in one list advance together.

    Raises TargetError if the model lacks a layer that is named.
    """
    columns = [intervention.arguments.variants(layers) for intervention in interventions]
    count = max(len(column) for column in columns)
    made = []
    for place in range(count):
        chosen = tuple(
            Intervention(intervention.kind, column[place if len(column) > 1 else 0])
            for intervention, column in zip(interventions, columns, strict=True)
        )
        swept = [
            new.arguments
            for new, old in zip(chosen, interventions, strict=True)
            if old.arguments.is_sweep
        ]
        touched = swept[:1] or [each.arguments for each in chosen]
        target = "-".join(dict.fromkeys(each.target() for each in touched if each.target()))
        slug = "-then-".join(each.arguments.slug() for each in chosen)
        made.append(Variant(slug, target, chosen))
    return tuple(made)
