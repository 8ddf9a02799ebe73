"""How a sweep and a plain loop of full forward passes grow with layers, tokens, vocabulary and variants: a plot.

    python tests/benchmarks/growth.py [--rounds 2] [--svg docs/pictures/growth.svg]

One size at a time is changed, the others stay at their middle. Both sides skip layers and score the same; they take
turns, and the least time of the processor of each is printed, which other work on the machine stretches little.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.lines import Line, Panel, drawn
from sweeps import built, processor, scored

from pytest_layerguard.measurement.session import MICRO_BATCH, reuse_freed_memory
from pytest_layerguard.measurement.sweep import sweep
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Plan, evaluations
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.texts.windows import Batch, Contract, batched, cut

WIDTH = 128
WINDOW = 128


@dataclass(frozen=True)
class Size:
    """What is measured: a model and how much is done to it."""

    layers: int = 8
    tokens: int = 256
    vocabulary: int = 2048
    variants: int = 8


VALUES = {
    "layers": (2, 4, 8, 16),
    "tokens": (128, 256, 512, 1024),
    "vocabulary": (512, 2048, 8192, 32_768),
    "variants": (1, 2, 4, 8),
}


def sizes(name: str) -> list[Size]:
    """The sizes of one panel; each layer of the model is skipped unless it is the variants that change."""
    found = [replace(Size(), **{name: value}) for value in VALUES[name]]
    return [replace(each, variants=each.layers) if name != "variants" else each for each in found]


def skipped(size: Size) -> list[int]:
    """Which layers are skipped, evenly over the model."""
    return [(2 * place + 1) * size.layers // (2 * size.variants) for place in range(size.variants)]


def looped(model: PreTrainedModel, batches: list[Batch], layers: list[int]) -> None:
    """Full forward passes, the base's and those of the model without each of these layers."""
    base = scored(model, batches, None)
    blocks = model.model.layers
    for layer in layers:
        forward = blocks[layer].forward
        blocks[layer].forward = lambda hidden_states, **_: hidden_states
        scored(model, batches, base)
        blocks[layer].forward = forward


def measured(size: Size, rounds: int) -> tuple[float, float, int]:
    """Seconds of the sweep and of the loop, and the sweep's layer evaluations for each micro-batch."""
    model = built(size.layers, WIDTH, size.vocabulary)
    ids = torch.randint(3, size.vocabulary, (size.tokens + 1,)).tolist()
    windows = cut(ids, Contract(size.tokens, WINDOW, WINDOW, start=()))
    batches = batched(windows, MICRO_BATCH["cpu"] // WINDOW)
    runner, base = Runner(Anatomy.of(model)), Plan.untouched(size.layers)
    layers = skipped(size)
    plans = [base.without(frozenset([layer])) for layer in layers]
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(processor(lambda: sweep(runner, batches, base, plans, size.vocabulary)))
        theirs.append(processor(lambda: looped(model, batches, layers)))
    return min(ours), min(theirs), evaluations([base, *plans])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--svg", type=Path, default=Path("docs/pictures/growth.svg"))
    given = parser.parse_args()
    # As a subject does; both sides share it.
    reuse_freed_memory()
    known: dict[Size, tuple[float, float, int]] = {}
    panels = []
    print(
        "| | layers | tokens | vocabulary | variants | layer evaluations | sweep | loop | ratio |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, values in VALUES.items():
        ours, theirs = [], []
        for size in sizes(name):
            if size not in known:
                known[size] = measured(size, given.rounds)
            here, there, counted = known[size]
            ours.append(here)
            theirs.append(there)
            full = (size.variants + 1) * size.layers - size.variants
            print(
                f"| {name} | {size.layers} | {size.tokens:,} | {size.vocabulary:,} | {size.variants} | "
                f"{counted} of {full} | {here:.3f} s | {there:.3f} s | {here / there:.2f} |",
                flush=True,
            )
        lines = (
            Line("plain loop", "theirs", tuple(zip(values, theirs, strict=True))),
            Line("sweep", "ours", tuple(zip(values, ours, strict=True))),
        )
        panels.append(Panel(name, lines))
    given.svg.write_text(drawn(panels, "seconds of the processor"), encoding="utf-8")
    print(f"written to {given.svg}")


if __name__ == "__main__":
    main()
