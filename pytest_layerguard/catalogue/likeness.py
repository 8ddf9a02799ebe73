"""Interventions that do the same under different names: a door closed to one is closed to all.

Only what is the same function of the model's input counts. Two interventions that are merely as
bad as each other are two bets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.arguments import PruneWeights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pytest_layerguard.bet.model import Intervention

NOTHING_LEFT: Final = 0.99
"""From this sparsity on, pruning is taking out: no matrix computes with one weight in a hundred."""

_TAKES_LAYERS_OUT: Final = ("remove_layers", "skip_layers", "zero_layers")


def kinds_in_effect(intervention: Intervention) -> Mapping[str, str | None]:
    """Return every kind that an intervention is in effect, with the reason; None for its own name."""
    kinds: dict[str, str | None] = {intervention.kind: None}
    if reason := _takes_layers_out(intervention):
        kinds.update({kind: reason for kind in _TAKES_LAYERS_OUT if kind not in kinds})
    return kinds


def _takes_layers_out(intervention: Intervention) -> str | None:
    """Return why a layer is left with nothing to add to the residual stream, if it is."""
    arguments = intervention.arguments
    match intervention.kind:
        case "skip_layers" | "remove_layers":
            return "both leave layers out"
        case "zero_layers":
            return "a layer of zeros adds nothing, which is leaving it out"
        case "prune_weights" if (
            isinstance(arguments, PruneWeights)
            and arguments.parts == "linear"
            and arguments.sparsity >= NOTHING_LEFT
        ):
            return (
                f"pruning {arguments.sparsity:.4g} of every matrix leaves a layer nothing to add, "
                "which is leaving it out"
            )
        case _:
            return None
