"""What carries it out; imported when the first bet that needs it is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pytest_layerguard.extending import Edit, Interval

if TYPE_CHECKING:
    from layerguard_example.kinds import ScaleLayers
    from pytest_layerguard.extending import Bench, LayerParts, Plan, ScoredTokens, Tensors


def scale_layers(plan: Plan, arguments: ScaleLayers, bench: Bench) -> tuple[Plan, ...]:
    """Multiply the weights of the linear maps of each layer named."""

    def apply(tensors: Tensors, parts: LayerParts) -> Tensors:
        return {name: tensors[name] * arguments.factor for name in parts.linear}

    # Equal keys on equal weights promise equal tensors: that is what variants share work by.
    edit = Edit(("scale_layers", arguments.factor), apply)
    (layers,) = arguments.layers.resolve(bench.layers)
    return (plan.edited(dict.fromkeys(layers, edit)),)


def worst_window(scored: ScoredTokens) -> Interval:
    """Return the greatest mean difference of token losses over the windows; a point."""
    difference = scored.losses - scored.base
    sums = np.bincount(scored.windows, weights=difference)
    return Interval.point(float((sums / np.bincount(scored.windows)).max()))
