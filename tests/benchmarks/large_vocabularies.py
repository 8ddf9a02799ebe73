"""A sweep at a large vocabulary against its counted limit, and where its time goes.

    OMP_NUM_THREADS=1 python tests/benchmarks/large_vocabularies.py [--rounds 3] [--tokens 256] [--model DIR]

Skips each layer of a random Llama of SmolLM2's shape (30 layers, width 576, a vocabulary of 49,152) and of one of 4
layers with a vocabulary of 151,936, or of the model in a folder. The limit is what the sweep cannot avoid: its counted
layer evaluations and heads, times what one of each takes when it is measured by itself, before and after each sweep.
All times are those of the processor. The shares are those of the last round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from sweeps import limit, processor

from pytest_layerguard.measurement import sweep as sweeping
from pytest_layerguard.measurement.session import reuse_freed_memory
from pytest_layerguard.measurement.sweep import sweep
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Plan, evaluations
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.texts.windows import Contract, batched, cut

WINDOW = 256
SHAPES = ((30, 49_152), (4, 151_936))


def of_shape(layers: int, vocabulary: int) -> PreTrainedModel:
    """A random Llama of SmolLM2-135M's width."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING["llama"](
        vocab_size=vocabulary,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model.float().eval().requires_grad_(False)


class Shares:
    """Seconds of the processor by what they were spent on, what is called within not counted twice."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.inner = [0.0]

    def of(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            self.inner.append(0.0)
            try:
                return work(*args, **kwargs)
            finally:
                took = time.process_time() - started
                self.seconds[name] += took - self.inner.pop()
                self.inner[-1] += took

        return counted

    def swept(self, runner: Runner, work: Callable[[], object]) -> float:
        """Run a sweep; return its seconds."""
        runs = {"step": "layers", "logits": "heads", "finish": "norm", "begin": "embeddings"}
        with mock.patch.multiple(
            runner, **{name: self.of(given, getattr(runner, name)) for name, given in runs.items()}
        ):
            compare = self.of("losses, KL, agreement", sweeping.compare)
            with mock.patch.object(sweeping, "compare", compare):
                return processor(self.of("the rest", work))


def report(model: PreTrainedModel, tokens: int, rounds: int) -> None:
    vocabulary, layers = model.config.vocab_size, model.config.num_hidden_layers
    ids = torch.randint(3, vocabulary, (tokens + 1,), generator=torch.Generator().manual_seed(0))
    batches = batched(cut(ids.tolist(), Contract(tokens, WINDOW, WINDOW, start=())), 8)
    runner, base = Runner(Anatomy.of(model)), Plan.untouched(layers)
    plans = [base.without(frozenset([layer])) for layer in range(layers)]
    counted = evaluations([base, *plans])
    took, least = [], []
    for _ in range(rounds):
        shares = Shares()
        before = limit(runner, batches, counted, len(plans), vocabulary)
        took.append(shares.swept(runner, lambda: sweep(runner, batches, base, plans, vocabulary)))
        after = limit(runner, batches, counted, len(plans), vocabulary)
        least.append((before + after) / 2)
    ratio = statistics.median(one / other for one, other in zip(took, least, strict=True))
    whole = sum(shares.seconds.values())
    parts = ", ".join(f"{name} {took / whole:.1%}" for name, took in shares.seconds.most_common())
    print(
        f"{layers} layers, vocabulary {vocabulary:,}, {len(plans)} variants, {counted} layer evaluations and "
        f"{len(plans) + 1} heads on {tokens:,} tokens: sweep {statistics.median(took):.2f} s, "
        f"limit {statistics.median(least):.2f} s, sweep / limit {ratio:.3f}\n  {parts}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--model", type=Path)
    given = parser.parse_args()
    # As a session does; the sweep and the limit share it.
    reuse_freed_memory()
    if given.model is not None:
        loaded = AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32)
        report(loaded.eval().requires_grad_(False), given.tokens, given.rounds)
        return
    for layers, vocabulary in SHAPES:
        report(of_shape(layers, vocabulary), given.tokens, given.rounds)


if __name__ == "__main__":
    main()
