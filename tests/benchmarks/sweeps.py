"""Sweeps against a plain loop of full forward passes on the same loaded model, and against their own limit.

    python tests/benchmarks/sweeps.py [--layers 16] [--pair-layers 12] [--rounds 5]

Both sides compute token losses, KL and agreement of every variant, in fp32. The limit is what the sweep cannot
avoid: its counted layer evaluations and heads, times what one of each takes when it is measured by itself. Sides
take turns, round by round; ratios of medians are printed. Times are those of the processor: run it with one thread.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import plain

from pytest_layerguard.measurement.session import reuse_freed_memory
from pytest_layerguard.measurement.sweep import sweep
from pytest_layerguard.measurement.token_scores import compare
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Plan, Weights, evaluations
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.texts.windows import Batch, Contract, batched, cut

WINDOW = 256
TOKENS = 2048


def built(layers: int, width: int, vocabulary: int) -> PreTrainedModel:
    torch.manual_seed(0)
    config = CONFIG_MAPPING["llama"](
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=1024,
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model.float().eval().requires_grad_(False)


def text(vocabulary: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary, (TOKENS + 1,), generator=generator).tolist()
    return batched(cut(ids, Contract(TOKENS, WINDOW, WINDOW, start=())), 8)


@torch.inference_mode()
def scored(
    model: PreTrainedModel, batches: Sequence[Batch], base: Sequence[Tensor] | None
) -> list[Tensor]:
    """Full forward passes; with a base's log-probabilities also KL and agreement, as the sweep gives them."""
    kept: list[Tensor] = []
    for number, batch in enumerate(batches):
        logits = model(input_ids=batch.input_ids, use_cache=False).logits
        rows = logits.flatten(0, 1).float().log_softmax(-1)
        rows.gather(-1, batch.labels.view(-1, 1)).mean()
        if base is None:
            kept.append(rows)
        else:
            reference = base[number]
            (reference.exp() * (reference - rows)).sum(-1).mean()
            (rows.argmax(-1) == reference.argmax(-1)).float().mean()
    return kept


def skipping_loop(model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """The base, then the model with each layer taken out of its list in turn."""
    base = scored(model, batches, None)
    blocks = plain.layers_of(model)
    for layer in range(len(blocks)):
        forward = blocks[layer].forward
        blocks[layer].forward = lambda hidden_states, **_: hidden_states
        scored(model, batches, base)
        blocks[layer].forward = forward


def pair_loop(model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """The base, then every replacement and interchange by pointing slots at other blocks' parameters."""
    base = scored(model, batches, None)
    blocks = plain.layers_of(model)
    own = [dict(block.named_parameters()) for block in blocks]

    def with_weights(chosen: dict[int, int]) -> None:
        for slot, layer in chosen.items():
            for name, tensor in own[layer].items():
                owner, _, leaf = name.rpartition(".")
                blocks[slot].get_submodule(owner)._parameters[leaf] = tensor
        scored(model, batches, base)
        for slot in chosen:
            for name, tensor in own[slot].items():
                owner, _, leaf = name.rpartition(".")
                blocks[slot].get_submodule(owner)._parameters[leaf] = tensor

    for i, j in combinations(range(len(blocks)), 2):
        with_weights({i: j})
        with_weights({j: i})
        with_weights({i: j, j: i})


def processor(work: Callable[[], object]) -> float:
    """Seconds of the processor, which other work on the machine stretches little."""
    started = time.process_time()
    work()
    return time.process_time() - started


@torch.inference_mode()
def limit(
    runner: Runner, batches: Sequence[Batch], layers: int, heads: int, vocabulary: int
) -> float:
    """What so many layer evaluations and heads take by themselves, each measured in a tight loop."""
    frame = runner.begin(batches[0].input_ids)
    state = frame.start
    for _ in range(3):
        runner.step(frame, 0, state)
    layer = min(processor(lambda: runner.step(frame, 0, state)) for _ in range(20))
    final = runner.finish(frame, state).flatten(0, 1)
    labels = batches[0].labels.flatten()
    pair = [(final, runner.logits)]
    head = min(
        processor(lambda: compare((final, runner.logits), pair, labels, vocabulary))
        - processor(lambda: compare((final, runner.logits), [], labels, vocabulary))
        for _ in range(5)
    )
    only_base = min(
        processor(lambda: compare((final, runner.logits), [], labels, vocabulary)) for _ in range(5)
    )
    return len(batches) * (layers * layer + heads * max(head, 0.0) + only_base)


def report(
    name: str, model: PreTrainedModel, plans: list[Plan], loop: Callable[..., None], rounds: int
) -> None:
    vocabulary = model.config.vocab_size
    batches = text(vocabulary)
    runner = Runner(Anatomy.of(model))
    base = Plan.untouched(len(runner.anatomy))
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        ours.append(processor(lambda: sweep(runner, batches, base, plans, vocabulary)))
        theirs.append(processor(lambda: loop(model, batches)))
    counted = evaluations([base, *plans])
    least = limit(runner, batches, counted, len(plans), vocabulary)
    here, there = statistics.median(ours), statistics.median(theirs)
    print(
        f"{name}: {len(runner.anatomy)} layers, {len(plans)} variants, {counted} layer evaluations; "
        f"sweep {here:.2f} s, loop {there:.2f} s, limit {least:.2f} s; "
        f"sweep/loop {here / there:.3f}, sweep/limit {here / least:.3f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--pair-layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    # As a subject does; both sides and the limit share it.
    reuse_freed_memory()
    model = built(given.layers, given.width, given.vocabulary)
    base = Plan.untouched(given.layers)
    skips = [base.without(frozenset([layer])) for layer in range(given.layers)]
    report("skip each layer", model, skips, skipping_loop, given.rounds)
    model = built(given.pair_layers, given.width, given.vocabulary)
    base = Plan.untouched(given.pair_layers)
    pairs = [
        plan
        for i, j in combinations(range(given.pair_layers), 2)
        for plan in (
            base.rebound({i: Weights(j)}),
            base.rebound({j: Weights(i)}),
            base.rebound({i: Weights(j), j: Weights(i)}),
        )
    ]
    report("all pairs, both protocols", model, pairs, pair_loop, max(1, given.rounds // 2))


if __name__ == "__main__":
    main()
