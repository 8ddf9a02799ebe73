"""Training of a reference model, offline, on one CPU thread."""

from __future__ import annotations

import dataclasses
import math
import platform
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.reference import folder
from pytest_layerguard.reference.initial_weights import build, initial_weights, weights_digest
from tools.reference_models.checkpoint import save, write_json
from tools.reference_models.evaluate import losses_by_dtype, one_thread, routers
from tools.reference_models.recipe import EXPERTS, RECIPES, Recipe, configuration
from tools.reference_models.text import batches, heldout_ids, train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CLIP: Final = 1.0
BETAS: Final = (0.9, 0.95)
AVERAGED_STEPS: Final = 50

_SHOWN_EVERY: Final = 50


@dataclass(frozen=True)
class Trained:
    """A trained model and the course of its training.

    Attributes:
        model: The model in fp32, in evaluation mode, on the CPU.
        losses: The language-model loss of every step, in nats per token.
        seconds: The duration of the loop.
    """

    model: PreTrainedModel
    losses: tuple[float, ...]
    seconds: float

    @property
    def loss(self) -> float:
        """The mean loss of the last steps, in nats per token."""
        last = self.losses[-AVERAGED_STEPS:]
        return sum(last) / len(last)


def make(name: str, out: Path, *, seed: int = 0, steps: int | None = None) -> Path:
    """Train one reference model and write its folder, with a ``training.json``.

    Args:
        name: ``reference`` or ``reference-wide``.
        out: The folder to write the model's folder in.
        seed: The seed of the initial weights and, doubled, of the text.
        steps: Optimizer steps, if not those of the recipe.

    Returns:
        The folder written.

    Raises:
        KeyError: There is no reference model of this name.
    """
    import tokenizers
    import torch
    import transformers

    recipe = RECIPES[name]
    if steps is not None:
        recipe = dataclasses.replace(recipe, steps=steps)
    tokenizer = train_tokenizer()
    trained = train(recipe, tokenizer, seed=seed, progress=_show(recipe))
    target = out / folder(name).name
    save(trained.model, tokenizer, target)
    report = {
        "command": f"python -m tools.reference_models train --only {name}"
        + (f" --seed {seed}" if seed else "")
        + (f" --steps {steps}" if steps is not None else ""),
        "seed": seed,
        **dataclasses.asdict(recipe),
        "tokens": recipe.tokens,
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "seconds": round(trained.seconds, 1),
        "tokens_per_second": round(recipe.tokens / trained.seconds),
        "training_loss": trained.loss,
        "losses": {
            str(step): round(trained.losses[step - 1], 4)
            for step in range(_SHOWN_EVERY, recipe.steps + 1, _SHOWN_EVERY)
        },
        "heldout_loss_by_stored_dtype": losses_by_dtype(trained.model, heldout_ids(tokenizer)),
        "trained_weights": weights_digest(dict(trained.model.state_dict())),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "machine": f"{platform.system()} {platform.machine()}, one CPU thread",
    }
    write_json(target / "training.json", report)
    return target


def train(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> Trained:
    """Train a model from its initial weights, on one CPU thread, in fp32.

    Args:
        recipe: The recipe of the model.
        tokenizer: The tokenizer of the text.
        seed: The seed of the initial weights; the seed of the text is twice as large.
        progress: Called after every step with its number from 1 and its loss in nats per token.

    Returns:
        The trained model.
    """
    import torch
    from torch.nn import functional

    config = configuration(recipe)
    model = build(config, initial_weights(config, seed)).train()
    # The loop over experts trains faster on a CPU at these widths than the grouped product.
    model.set_experts_implementation("eager")
    optimizer = _optimizer(model, recipe)
    losses: list[float] = []
    started = time.monotonic()
    # The held-out text has an odd seed, so no seed of a run can train on it.
    stream = batches(tokenizer, 2 * seed, recipe.batch)
    with one_thread(), _router_logits(model) as routed:
        for step in range(1, recipe.steps + 1):
            tokens = next(stream)
            routed.clear()
            logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
            loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            torch.autograd.backward(loss + recipe.balance * balancing_loss(routed))
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step)
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            progress(step, losses[-1])
    model.train(False)
    return Trained(model, tuple(losses), time.monotonic() - started)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of a step: a linear warm-up, then a cosine decay to 0.

    Args:
        recipe: The recipe of the model.
        step: The step's number, from 1.

    Returns:
        The learning rate.
    """
    if step <= recipe.warmup:
        return recipe.learning_rate * step / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.learning_rate * (1 + math.cos(math.pi * done)) / 2


def balancing_loss(routed: list[Tensor]) -> Tensor:
    """Return how unevenly the routers use their experts, as a mean over the layers.

    Each layer counts by itself. The balancing loss of transformers pools the layers, so it is at its
    least even where one layer uses half of its experts and another the other half.

    Args:
        routed: Router logits of each layer, of shape (tokens, experts).

    Returns:
        1 where all experts are used alike, at most ``EXPERTS``.
    """
    import torch

    losses = []
    for logits in routed:
        probabilities = logits.softmax(dim=-1)
        share = torch.bincount(logits.argmax(dim=-1), minlength=EXPERTS) / len(logits)
        losses.append(EXPERTS * (share * probabilities.mean(dim=0)).sum())
    return torch.stack(losses).mean()


def _optimizer(model: PreTrainedModel, recipe: Recipe) -> Any:
    import torch

    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() == 1]
    groups = [
        {"params": matrices, "weight_decay": recipe.weight_decay},
        {"params": gains, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=BETAS)


@contextmanager
def _router_logits(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Collect the router logits of each layer, in order, while the model runs."""
    collected: list[Tensor] = []

    def collect(module: nn.Module, inputs: Any, output: Any) -> None:
        collected.append(output[0])

    hooks = [router.register_forward_hook(collect) for router in routers(model)]
    try:
        yield collected
    finally:
        for hook in hooks:
            hook.remove()


def _show(recipe: Recipe) -> Callable[[int, float], None]:
    started = time.monotonic()

    def progress(step: int, loss: float) -> None:
        if step % _SHOWN_EVERY == 0 or step == recipe.steps:
            seconds = time.monotonic() - started
            line = f"{recipe.name}: step {step}/{recipe.steps}, loss {loss:.4f}, {seconds:.0f} s"
            print(line, file=sys.stderr, flush=True)

    return progress
