"""Interventions that do the same under different names: a door closed to one is closed to all.

Only what is the same function of the model's input counts. Two interventions that are merely as
bad as each other are two bets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.arguments import PruneWeights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_layerguard.bet.arguments import Intervention

NOTHING_LEFT: Final = 0.99
"""From this sparsity on, pruning is taking out: no matrix computes with one weight in a hundred."""

_LEAVES_OUT: Final = "both leave layers out"
_ADDS_NOTHING: Final = "a layer of zeros adds nothing, which is leaving it out"
_TAKES_LAYERS_OUT: Final = {
    "skip_layers": _LEAVES_OUT,
    "remove_layers": _LEAVES_OUT,
    "zero_layers": _ADDS_NOTHING,
}


def kinds_in_effect(intervention: Intervention) -> Mapping[str, str | None]:
    """Return every kind that an intervention is in effect, with the reason; None for its own name."""
    arguments = intervention.arguments
    if (
        isinstance(arguments, PruneWeights)
        and arguments.parts == "linear"
        and arguments.sparsity >= NOTHING_LEFT
    ):
        reason = f"without {arguments.sparsity:.4g} of every matrix {_ADDS_NOTHING}"
        return {intervention.kind: None, **dict.fromkeys(_TAKES_LAYERS_OUT, reason)}
    return kinds_like(intervention.kind)


def kinds_like(kind: str) -> Mapping[str, str | None]:
    """Return every kind that a kind is in effect whatever its arguments, as `kinds_in_effect`."""
    if kind not in _TAKES_LAYERS_OUT:
        return {kind: None}
    return {
        other: None
        if other == kind
        else _ADDS_NOTHING
        if "zero_layers" in (kind, other)
        else _LEAVES_OUT
        for other in _TAKES_LAYERS_OUT
    }
