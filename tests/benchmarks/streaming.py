"""A model that stays on disk: a streamed sweep against accelerate's disk offload in a loop.

    python tests/benchmarks/streaming.py [--layers 16] [--width 1024] [--tokens 128] [--folder /tmp] [--like DIR]

DIR holds a model whose weights are taken, in float32, in place of random ones of a Llama with a vocabulary of 1,024.
Each side runs in a process of its own. Bytes of layers are counted where accelerate reads them for either side, and
the weights that a sweep holds at a time where it reads them. The peak is the resident memory by the kernel's count,
pages of mapped files included; limits of a process (RLIMIT_DATA, RLIMIT_AS) would be of no use, because they count a
mapped file whole, however little of it is in memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.utils.offload import OffloadedWeightsLoader
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.held_weights import HeldWeights
from support.resident import resident
from sweeps import built, skipping_loop

from pytest_layerguard.measurement.session import reuse_freed_memory
from pytest_layerguard.measurement.sweep import sweep
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.models.streaming import load_streamed
from pytest_layerguard.texts.windows import Batch, Contract, batched, cut

VOCABULARY = 1024
WINDOW = 128


class Reads:
    """Counts what of the layers is read from disk through accelerate."""

    def __init__(self) -> None:
        self.bytes = 0
        read = OffloadedWeightsLoader.__getitem__

        def counting(loader: Any, key: str) -> Any:
            found = read(loader, key)
            if ".layers." in key:
                self.bytes += found.nbytes
            return found

        OffloadedWeightsLoader.__getitem__ = counting  # type: ignore[method-assign]


def text(tokens: int, vocabulary: int) -> list[Batch]:
    drawn = torch.randint(3, vocabulary, (tokens + 1,), generator=torch.Generator().manual_seed(0))
    windows = cut(drawn.tolist(), Contract(tokens, WINDOW, WINDOW, start=()))
    return batched(windows, 2048 // WINDOW)


def stored(folder: Path) -> tuple[int, int]:
    """Bytes of the layers on disk, and of everything."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    layers = sum(each.numel() * 4 for layer in model.model.layers for each in layer.parameters())
    return layers, sum(each.numel() * 4 for each in model.parameters())


def measured(given: argparse.Namespace, folder: Path, scratch: str) -> dict[str, float]:
    """Loads and runs one side."""
    layers, weights = stored(folder)
    config = AutoConfig.from_pretrained(folder)
    batches = text(given.tokens, config.vocab_size)
    count = config.num_hidden_layers
    # As a subject does.
    reuse_freed_memory()
    reads = Reads()
    took: dict[str, float] = {}

    def load(**options: Any) -> Any:
        return AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float32, output_loading_info=True, **options
        )

    def timed(work: Any) -> None:
        reads.bytes = 0
        started, used = time.perf_counter(), time.process_time()
        work()
        took["clock"] = time.perf_counter() - started
        took["processor"] = time.process_time() - used

    def streamed() -> None:
        model, _, store = load_streamed(AutoModelForCausalLM, config, "cpu", load)
        runner = Runner(Anatomy.of(model.eval().requires_grad_(False)), store)
        base = Plan.untouched(count)
        plans = [base.without(frozenset([layer])) for layer in range(count)]
        held = HeldWeights(pytest.MonkeyPatch())
        timed(lambda: sweep(runner, batches, base, plans, config.vocab_size))
        took["held"] = held.most

    def looped() -> None:
        places = {"model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
        places |= {"model.rotary_emb": "cpu"}
        places |= {f"model.layers.{layer}": "disk" for layer in range(count)}
        model, _ = load(device_map=places, offload_folder=scratch)
        timed(lambda: skipping_loop(model.eval().requires_grad_(False), batches))

    peak = resident(streamed if given.side == "sweep" else looped)
    return {**took, "read": reads.bytes, "peak": peak, "layers": layers, "weights": weights}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--like", type=Path)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side is not None:
        with tempfile.TemporaryDirectory(dir=given.folder) as scratch:
            print(json.dumps(measured(given, given.model, scratch)))
        return
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        model = (
            built(given.layers, given.width, VOCABULARY)
            if given.like is None
            else AutoModelForCausalLM.from_pretrained(given.like, dtype=torch.float32)
        )
        model.save_pretrained(folder)
        del model
        for side in ("sweep", "loop"):
            command = [sys.executable, *sys.argv, "--side", side, "--model", folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
            found[side] = json.loads(done.stdout.splitlines()[-1])
    ours, theirs = found["sweep"], found["loop"]
    weights = ours["weights"]
    print(
        f"weights {weights / 2**20:,.0f} MiB, 35 % of them {0.35 * weights / 2**20:,.0f} MiB; the sweep holds "
        f"{ours['held'] / 2**20:,.0f} MiB of them at a time ({ours['held'] / weights:.1%})"
    )
    for side, each in found.items():
        print(
            f"{side:5} read {each['read'] / 2**20:,.0f} MiB ({each['read'] / each['layers']:.3f} x the layers), "
            f"resident peak beside the imports {each['peak'] / 2**20:,.0f} MiB ({each['peak'] / weights:.1%} of "
            f"the weights), {each['clock']:.1f} s, {each['processor']:.1f} s of the processor"
        )
    for what in ("read", "clock", "processor", "peak"):
        print(f"loop/sweep {what} {theirs[what] / ours[what]:.2f}")


if __name__ == "__main__":
    main()
