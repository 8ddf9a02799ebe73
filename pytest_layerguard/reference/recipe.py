"""The whole recipe of one reference model: train, measure, write."""

from __future__ import annotations

import dataclasses
import platform
import sys
import time
from typing import TYPE_CHECKING, Final

from pytest_layerguard.reference import folder
from pytest_layerguard.reference.initial import weights_digest
from pytest_layerguard.reference.measuring import heldout_ids, losses_by_dtype
from pytest_layerguard.reference.saving import save
from pytest_layerguard.reference.shape import SHAPES
from pytest_layerguard.reference.tokenizer import train_tokenizer
from pytest_layerguard.reference.training import train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_layerguard.reference.shape import Shape

TOKENIZER_SEED: Final = 0
STORED_DTYPE: Final = "float16"
_SHOWN_EVERY: Final = 50


def make(name: str, out: Path, *, seed: int = 0, steps: int | None = None) -> Path:
    """Trains one reference model and writes its folder.

    Args:
        name: ``reference`` or ``reference-wide``.
        out: Where the folder is to stand.
        seed: The seed of the initial weights and, doubled, of the text.
        steps: Optimiser steps, if not those of the shape.

    Returns:
        The folder written.

    Raises:
        KeyError: There is no reference model of this name.
    """
    import tokenizers
    import torch
    import transformers

    shape = SHAPES[name]
    if steps is not None:
        shape = dataclasses.replace(shape, steps=steps)
    tokenizer = train_tokenizer(TOKENIZER_SEED)
    trained = train(shape, tokenizer, seed=seed, progress=_show(shape))
    target = out / folder(name).name
    report = {
        "command": f"python -m pytest_layerguard.reference --only {name}"
        + (f" --seed {seed}" if seed else "")
        + (f" --steps {steps}" if steps is not None else ""),
        "seed": seed,
        **dataclasses.asdict(shape),
        "tokens": shape.tokens,
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "seconds": round(trained.seconds, 1),
        "tokens_per_second": round(shape.tokens / trained.seconds),
        "training_loss": trained.loss,
        "losses": {
            str(step): round(trained.losses[step - 1], 4)
            for step in range(_SHOWN_EVERY, shape.steps + 1, _SHOWN_EVERY)
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
    save(trained.model, tokenizer, report, target, dtype=getattr(torch, STORED_DTYPE))
    return target


def _show(shape: Shape) -> Callable[[int, float], None]:
    started = time.monotonic()

    def progress(step: int, loss: float) -> None:
        if step % _SHOWN_EVERY == 0 or step == shape.steps:
            seconds = time.monotonic() - started
            line = f"{shape.name}: step {step}/{shape.steps}, loss {loss:.4f}, {seconds:.0f} s"
            print(line, file=sys.stderr, flush=True)

    return progress
