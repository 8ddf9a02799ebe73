"""The training loop of the reference models."""

from __future__ import annotations

import math
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.reference.anatomy import routers_of
from pytest_layerguard.reference.initial import build, initial_weights
from pytest_layerguard.reference.shape import EXPERTS, Shape
from pytest_layerguard.reference.stream import batches
from pytest_layerguard.reference.threads import one_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CLIP: Final = 1.0
BETAS: Final = (0.9, 0.95)
AVERAGED_STEPS: Final = 50


@dataclass(frozen=True)
class Trained:
    """A trained model and how its training went.

    Attributes:
        model: The model in fp32, in evaluation mode, on the CPU.
        losses: The language-model loss of every step, in nats per token.
        seconds: The time of the loop.
    """

    model: PreTrainedModel
    losses: tuple[float, ...]
    seconds: float

    @property
    def loss(self) -> float:
        """The mean loss of the last steps, in nats per token of text never seen before."""
        last = self.losses[-AVERAGED_STEPS:]
        return sum(last) / len(last)


def train(
    shape: Shape,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Trained:
    """Trains a model from its initial weights, on one CPU thread, in fp32.

    Args:
        shape: The model and its training figures.
        tokenizer: The tokenizer of the text.
        seed: The seed of the initial weights; the text is that of twice the seed.
        progress: Called after every step with its number from 1 and its loss in nats per token.

    Returns:
        The trained model.
    """
    import torch
    from torch.nn import functional

    model = build(shape, initial_weights(shape, seed)).train()
    # The loop over experts trains faster on a CPU at these widths than the grouped product.
    model.set_experts_implementation("eager")
    optimizer = _optimizer(model, shape)
    losses: list[float] = []
    started = time.monotonic()
    # The held-out text has an odd seed, so no seed of a run can train on it.
    stream = batches(tokenizer, 2 * seed, shape.batch)
    with one_thread(), _router_logits(model) as routed:
        for step in range(1, shape.steps + 1):
            tokens = next(stream)
            routed.clear()
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
            loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            torch.autograd.backward(loss + shape.balance * balancing_loss(routed))
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(shape, step)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            progress(step, losses[-1])
    model.train(False)
    return Trained(model, tuple(losses), time.monotonic() - started)


def learning_rate(shape: Shape, step: int) -> float:
    """Says the learning rate of a step: a linear rise, then a cosine down to nothing.

    Args:
        shape: The training figures.
        step: The step's number, from 1.

    Returns:
        The learning rate.
    """
    if step <= shape.warmup:
        return shape.learning_rate * step / shape.warmup
    done = (step - shape.warmup) / max(1, shape.steps - shape.warmup)
    return shape.learning_rate * (1 + math.cos(math.pi * done)) / 2


def balancing_loss(routed: list[Tensor]) -> Tensor:
    """Says how unevenly each layer's router uses its experts.

    Each layer is judged on its own, unlike transformers' own balancing loss, which pools them all
    and is content when one layer uses half of its experts and another the other half.

    Args:
        routed: Router logits of each layer, of shape (tokens, experts).

    Returns:
        The mean over the layers: 1 when all experts are used alike, up to ``EXPERTS``.
    """
    import torch

    losses = []
    for logits in routed:
        probabilities = logits.softmax(dim=-1)
        share = torch.bincount(logits.argmax(dim=-1), minlength=EXPERTS) / len(logits)
        losses.append(EXPERTS * (share * probabilities.mean(dim=0)).sum())
    return torch.stack(losses).mean()


def _optimizer(model: PreTrainedModel, shape: Shape) -> Any:
    import torch

    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() == 1]
    groups = [
        {"params": matrices, "weight_decay": shape.weight_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=shape.learning_rate, betas=BETAS)


@contextmanager
def _router_logits(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Collects the router logits of each layer, in order, while the model runs."""
    collected: list[Tensor] = []

    def collect(module: nn.Module, inputs: Any, output: Any) -> None:
        collected.append(output[0])

    hooks = [router.register_forward_hook(collect) for router in routers_of(model)]
    try:
        yield collected
    finally:
        for hook in hooks:
            hook.remove()
