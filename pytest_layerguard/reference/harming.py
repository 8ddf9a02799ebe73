"""The interventions that the cards' tables show, each on a deep copy of its own."""

from __future__ import annotations

from copy import deepcopy
from itertools import islice
from typing import TYPE_CHECKING, Final

from pytest_layerguard.reference.anatomy import experts_of, layers_of
from pytest_layerguard.reference.stream import batches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

RECOVERY_STEPS: Final = 200
RECOVERY_RATE: Final = 5e-5
RECOVERY_BATCH: Final = 16
# The text of a seed that neither a training run (even) nor the held-out file (1) uses.
RECOVERY_SEED: Final = 3


def without_layer(model: PreTrainedModel, layer: int) -> PreTrainedModel:
    """Leaves a layer out.

    Args:
        model: The model, which stays as it is.
        layer: The layer's index.

    Returns:
        A model with one layer fewer; it cannot use a cache.
    """
    copy = deepcopy(model)
    del layers_of(copy)[layer]
    return copy


def with_mean_experts(model: PreTrainedModel) -> PreTrainedModel:
    """Makes every expert the mean of the experts of its layer.

    Args:
        model: The model, which stays as it is.

    Returns:
        The changed copy.
    """
    copy = deepcopy(model)
    for weights in _expert_weights(copy):
        weights.copy_(weights.mean(dim=0, keepdim=True).expand_as(weights))
    return copy


def half_pruned(model: PreTrainedModel) -> PreTrainedModel:
    """Zeroes the smaller half of each projection of each expert.

    Args:
        model: The model, which stays as it is.

    Returns:
        The changed copy.
    """
    return _without_half(model, lambda matrix: matrix.abs().flatten().argsort(stable=True))


def half_pruned_at_random(model: PreTrainedModel) -> PreTrainedModel:
    """Zeroes a random half of each projection of each expert.

    Args:
        model: The model, which stays as it is.

    Returns:
        The changed copy.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    return _without_half(model, lambda each: torch.randperm(each.numel(), generator=generator))


def ternary(model: PreTrainedModel) -> PreTrainedModel:
    """Rounds the experts' weights to {-1, 0, 1} times the mean magnitude of their row.

    Args:
        model: The model, which stays as it is.

    Returns:
        The changed copy.
    """
    copy = deepcopy(model)
    for weights in _expert_weights(copy):
        scale = weights.abs().mean(dim=-1, keepdim=True).clamp_min(1e-8)
        weights.copy_((weights / scale).round().clamp(-1, 1) * scale)
    return copy


def recovered(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Trains a copy of a model for a while, gently, on text of the recipe's generator.

    Args:
        model: The model, which stays as it is.
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
    """A copy without the first half of each projection's weights, in an order of their flat indices."""
    copy = deepcopy(model)
    for matrix in _expert_matrices(copy):
        matrix.view(-1)[order(matrix)[: matrix.numel() // 2]] = 0
    return copy


def _expert_weights(model: PreTrainedModel) -> Iterator[Tensor]:
    for gate_up, down in experts_of(model):
        yield gate_up
        yield down


def _expert_matrices(model: PreTrainedModel) -> Iterator[Tensor]:
    """Yields each expert's gate, up and down projection, as views."""
    for gates_ups, downs in experts_of(model):
        for gate_up, down in zip(gates_ups, downs, strict=True):
            yield from gate_up.chunk(2)
            yield down
