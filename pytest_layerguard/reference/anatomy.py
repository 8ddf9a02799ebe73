"""Where the parts of a reference model sit, once it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """Finds the decoder's layers.

    Args:
        model: A reference model.

    Returns:
        The layers, in order, as the model itself holds them.
    """
    layers: nn.ModuleList = model.get_decoder().layers  # type: ignore[no-untyped-call]
    return layers


def routers_of(model: PreTrainedModel) -> list[nn.Module]:
    """Finds the routers, whose output is (logits, weights, indices) over (tokens, experts).

    Args:
        model: A reference model.

    Returns:
        One router for each layer.
    """
    layers: Any = layers_of(model)
    return [layer.mlp.gate for layer in layers]


def experts_of(model: PreTrainedModel) -> list[tuple[Tensor, Tensor]]:
    """Finds the experts' weights.

    Args:
        model: A reference model.

    Returns:
        For each layer the gates and ups together, of shape (experts, 2 x expert width, width), and
        the downs, of shape (experts, width, expert width); without gradients, to be written to.
    """
    layers: Any = layers_of(model)
    return [
        (layer.mlp.experts.gate_up_proj.data, layer.mlp.experts.down_proj.data) for layer in layers
    ]
