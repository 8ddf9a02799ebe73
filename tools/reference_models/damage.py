"""The interventions of the cards' tables, each on a deep copy of the model."""

from __future__ import annotations

from copy import deepcopy
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from tools.reference_models.text import batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RECOVERY_STEPS: Final = 200
RECOVERY_RATE: Final = 5e-5
RECOVERY_BATCH: Final = 16
# Neither a training run (even seeds) nor the held-out text (1) uses this seed.
RECOVERY_SEED: Final = 3


def without_layer(model: PreTrainedModel, layer: int) -> PreTrainedModel:
    """Remove a layer.

    Args:
        model: The model; it is not changed.
        layer: The layer's index.

    Returns:
        A model with one layer fewer; it cannot use a cache.
    """
    copy = deepcopy(model)
    del _layers(copy)[layer]
    return copy


def with_mean_experts(model: PreTrainedModel) -> PreTrainedModel:
    """Replace every expert by the mean of the experts of its layer.

    Args:
        model: The model; it is not changed.

    Returns:
        The changed copy.
    """
    copy = deepcopy(model)
    for weights in _expert_weights(copy):
        weights.copy_(weights.mean(dim=0, keepdim=True).expand_as(weights))
    return copy


def half_pruned(model: PreTrainedModel) -> PreTrainedModel:
    """Zero the smaller half of each projection of each expert.

    Args:
        model: The model; it is not changed.

    Returns:
        The changed copy.
    """
    return _without_half(model, lambda matrix: matrix.abs().flatten().argsort(stable=True))


def half_pruned_at_random(model: PreTrainedModel) -> PreTrainedModel:
    """Zero a random half of each projection of each expert.

    Args:
        model: The model; it is not changed.

    Returns:
        The changed copy.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    return _without_half(model, lambda each: torch.randperm(each.numel(), generator=generator))


def ternary(model: PreTrainedModel) -> PreTrainedModel:
    """Round the experts' weights to {-1, 0, 1} times the mean magnitude of their row.

    Args:
        model: The model; it is not changed.

    Returns:
        The changed copy.
    """
    copy = deepcopy(model)
    for weights in _expert_weights(copy):
        scale = weights.abs().mean(dim=-1, keepdim=True).clamp_min(1e-8)
        weights.copy_((weights / scale).round().clamp(-1, 1) * scale)
    return copy


def recovered(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Train a copy of a model for a few steps, at a low rate, on generated stories.

    Args:
        model: The model; it is not changed.
        tokenizer: Its tokenizer.

    Returns:
        The trained copy.
    """
    import torch
    from torch.nn import functional

    copy = deepcopy(model)
    optimizer = torch.optim.AdamW(copy.parameters(), lr=RECOVERY_RATE)
    stream = batches(tokenizer, RECOVERY_SEED, RECOVERY_BATCH)
    for tokens in islice(stream, RECOVERY_STEPS):
        logits = copy(input_ids=tokens[:, :-1], use_cache=False).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        torch.autograd.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    return copy


def _without_half(model: PreTrainedModel, order: Callable[[Tensor], Tensor]) -> PreTrainedModel:
    """Zero the first half of each projection's weights, in an order of their flat indices."""
    copy = deepcopy(model)
    for matrix in _expert_matrices(copy):
        matrix.view(-1)[order(matrix)[: matrix.numel() // 2]] = 0
    return copy


def _expert_weights(model: PreTrainedModel) -> Iterator[Tensor]:
    """Yield each layer's gates and ups in one tensor, and its downs; of shape (experts, out, in)."""
    for layer in _layers(model):
        yield layer.mlp.experts.gate_up_proj.data
        yield layer.mlp.experts.down_proj.data


def _expert_matrices(model: PreTrainedModel) -> Iterator[Tensor]:
    """Yield the gate, up and down projection of each expert, as views."""
    for layer in _layers(model):
        experts = layer.mlp.experts
        for gate_up, down in zip(experts.gate_up_proj.data, experts.down_proj.data, strict=True):
            yield from gate_up.chunk(2)
            yield down


def _layers(model: PreTrainedModel) -> Any:
    return model.get_decoder().layers  # type: ignore[no-untyped-call]
