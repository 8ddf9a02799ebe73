"""Memory beside the loaded model, for a vocabulary of 262,144: counted and resident.

    python tests/benchmarks/memory.py [--tokens 512] [--layers 8] [--width 128]

A sweep that skips each layer, and a plain loop that holds full logits, each in a process of its own and twice:
first the resident memory is read from the kernel, then torch's profiler, which takes some itself, counts every
allocation. Where there is a CUDA device (--device cuda), its allocator is read instead.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.allocations import allocated
from support.resident import resident
from sweeps import built, skipping_loop

from pytest_layerguard.measurement.session import MICRO_BATCH, reuse_freed_memory
from pytest_layerguard.measurement.sweep import sweep
from pytest_layerguard.measurement.token_scores import chunk_rows
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.texts.windows import Contract, batched, cut

WINDOW = 128


def measured(given: argparse.Namespace) -> dict[str, int]:
    """What one side holds beyond the loaded model, in bytes, measured in this process."""
    # As a subject does.
    reuse_freed_memory()
    model = built(given.layers, given.width, given.vocabulary).to(given.device)
    drawn = torch.randint(3, given.vocabulary, (given.tokens + 1,)).tolist()
    windows = cut(drawn, Contract(given.tokens, WINDOW, WINDOW, start=()))
    batches = batched(windows, MICRO_BATCH[given.device] // WINDOW)
    runner = Runner(Anatomy.of(model))
    base = Plan.untouched(given.layers)
    plans = [base.without(frozenset([layer])) for layer in range(given.layers)]
    sides: dict[str, Callable[[], object]] = {
        "sweep": lambda: sweep(runner, batches, base, plans, given.vocabulary),
        "loop": lambda: skipping_loop(model, batches),
    }
    work = sides[given.side]
    found: dict[str, int] = {}
    if given.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        found["counted"] = torch.cuda.max_memory_allocated() - before
    else:
        found["resident"] = resident(work)
        took = allocated(work)
        found |= {"counted": took.peak, "largest": took.largest}
    found["chunk"] = chunk_rows(given.vocabulary, given.device) * given.vocabulary * 4
    found["model"] = sum(each.nbytes for each in model.parameters())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--vocabulary", type=int, default=262_144)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--side", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side is not None:
        print(json.dumps(measured(given)))
        return
    found: dict[str, dict[str, int]] = {"sweep": {}, "loop": {}}
    for side, results in found.items():
        command = [sys.executable, *sys.argv, "--side", side]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        results |= json.loads(done.stdout.splitlines()[-1])
    ours, theirs = found["sweep"], found["loop"]
    logits = given.tokens * given.vocabulary * 4
    print(
        f"model {_mib(ours['model'])}, all logits of one variant {_mib(logits)}, "
        f"a chunk of them {_mib(ours['chunk'])}"
    )
    for how in ("counted", "resident"):
        if how in ours:
            print(
                f"{how:9} sweep {_mib(ours[how])}, loop {_mib(theirs[how])}; "
                f"loop/sweep {theirs[how] / ours[how]:.1f}"
            )
    if "largest" in ours:
        print(
            f"largest allocation of the sweep {_mib(ours['largest'])}, "
            f"of the loop {_mib(theirs['largest'])}"
        )


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f} MiB"


if __name__ == "__main__":
    main()
