"""What a catalogue of 1,000 bets on models of up to 70B parameters takes, counted and not measured.

    python tests/experiments/catalogue_plan.py [--flops 2.5e14] [--read 2e9]

`--flops` is what a card does in a second while a sweep runs (`tests/device/check.py` measures the share of its peak),
`--read` the bytes that it reads from a disk in a second. Each bet skips each layer on 8,192 tokens and samples 100
from each variant; a catalogue has many bets on few models.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from pytest_layerguard.bet.reader import parse_bets  # noqa: E402
from pytest_layerguard.catalogue.cost import cost_of  # noqa: E402
from pytest_layerguard.catalogue.model_facts import ModelFacts  # noqa: E402
from pytest_layerguard.interventions.registry import Registry  # noqa: E402

BET = """\
id: plan
title: A plan
claim: A layer can go.
status: proposed
model: reference
intervention: {skip_layers: {layers: {each: all}}}
measure:
  text: {reference: heldout}
  tokens: 8192
  window: 512
  sample: {prompts: ["Once upon a time"], tokens: 100}
criteria: {lenient: any(perplexity_ratio <= 3)}
"""


class Class(NamedTuple):
    """Models of one size, and how many bets are on how many of them."""

    name: str
    parameters: float
    active: float
    layers: int
    width: int
    vocabulary: int
    models: int
    bets: int
    cards: int


CLASSES = (
    Class("SmolLM2-135M", 0.135e9, 0.135e9, 30, 576, 49_152, 30, 400, 1),
    Class("Qwen3-8B", 8.2e9, 8.2e9, 36, 4096, 151_936, 25, 350, 1),
    Class("Qwen3-30B-A3B", 30.5e9, 3.3e9, 48, 2048, 151_936, 8, 150, 1),
    Class("Llama-3-70B", 70.6e9, 70.6e9, 80, 8192, 128_256, 5, 100, 2),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flops", type=float, default=2.5e14)
    parser.add_argument("--read", type=float, default=2e9)
    given = parser.parse_args()
    (document,) = parse_bets(BET, ROOT / "bets" / "plan.yaml")
    print(
        "| model | models | bets | GiB a model | layer evaluations a bet | s a bet | h of cards | h of reading |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    computing = reading = 0.0
    for each in CLASSES:
        cost = cost_of(document.bet, Registry.of(), each.layers, 0)
        facts = ModelFacts(
            parameters=int(each.active),
            layers=each.layers,
            hidden_size=each.width,
            vocabulary=each.vocabulary,
        )
        seconds = 2 * cost.work(document.bet.measure, facts) / given.flops
        # A model over two cards runs on one of them at a time.
        cards = each.bets * seconds * each.cards / 3600
        size = 2 * each.parameters
        loads = each.models * size / given.read * each.cards / 3600
        computing += cards
        reading += loads
        print(
            f"| {each.name} | {each.models} | {each.bets} | {size / 2**30:.1f} | {cost.shared:,} | "
            f"{seconds:.1f} | {cards:.1f} | {loads:.2f} |"
        )
    total = sum(each.models * 2 * each.parameters for each in CLASSES)
    print(
        f"\n{computing:.1f} h of cards, {reading:.1f} h of them reading besides, {total / 1e12:.1f} TB on disk"
    )


if __name__ == "__main__":
    main()
