"""Greedy texts of a base and each variant without one layer, against one batch of as many texts of the base.

    OMP_NUM_THREADS=1 python tests/benchmarks/sampling.py --model DIR [--variants 30] [--tokens 60] [--rounds 3]

The other side is transformers' own `generate` with as many equal rows, which no variant could do with less: every row
goes through every layer. Sides take turns. Prints seconds of the processor, the ratio of their medians, and the tokens
that went through a layer on each side.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from sweeps import processor

from pytest_layerguard.measurement.generation import generate, greedy
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.models.runner import Runner

PROMPTS = (
    "Once upon a time",
    "Once upon a time there was a little girl who lived near a lake. " * 8,
)


class Counting(Runner):
    """Counts the tokens that went through a layer."""

    tokens = 0

    def step(self, frame: Any, slot: int, state: Any, *more: Any) -> Any:
        self.tokens += state.hidden.shape[0] * state.hidden.shape[1]
        return super().step(frame, slot, state, *more)


def report(
    model: PreTrainedModel,
    runner: Counting,
    plans: list[Plan],
    prompt: list[int],
    tokens: int,
    rounds: int,
) -> None:
    rows = torch.tensor([prompt] * len(plans))
    options = {"do_sample": False, "min_new_tokens": tokens, "max_new_tokens": tokens}
    ours, theirs = [], []
    for _ in range(rounds):
        runner.tokens = 0
        ours.append(processor(lambda: generate(runner, plans, [prompt], tokens, greedy)))
        theirs.append(
            processor(lambda: model.generate(rows, attention_mask=torch.ones_like(rows), **options))
        )
    full = len(plans) * len(plans[0].steps) * (len(prompt) + tokens - 1)
    here, there = statistics.median(ours), statistics.median(theirs)
    print(
        f"{len(plans) - 1} variants, a prompt of {len(prompt)} tokens and {tokens} new ones: {here:.2f} s, "
        f"one batch {there:.2f} s, ratio {here / there:.3f}; tokens through a layer {runner.tokens:,} of {full:,}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--variants", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(given.model)
    model = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32).eval()
    runner = Counting(Anatomy.of(model.requires_grad_(False)))
    base = Plan.untouched(len(runner.anatomy))
    plans = [base, *(base.without(frozenset([layer])) for layer in range(given.variants))]
    for prompt in PROMPTS:
        report(model, runner, plans, tokenizer(prompt).input_ids, given.tokens, given.rounds)


if __name__ == "__main__":
    main()
