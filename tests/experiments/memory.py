"""Measures many bets on many models in one process, and looks at what memory is left in use.

    PYTHONPATH=tests python tests/experiments/memory.py --bets 200 --models 20

The exit status says whether the process ended with the memory that it had after its first model was
let go of, within one model, and with no tensor of any model alive.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
from pathlib import Path

import torch
from hub import tiny

from pytest_layerguard.bet.reader import read_bets
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.measurer import LocalMeasurer

BET = """\
id: bet-{number}
title: A bet
claim: It can go.
status: proposed
model: {{path: ../models/{model}}}
intervention: {does}
measure: {{text: {{file: ../text.txt}}, tokens: 480, window: 24, max_base_perplexity: none{more}}}
criteria: {{lenient: any(perplexity_ratio <= 1e6)}}
"""
DONE = (
    "{skip_layers: {layers: {each: all}}}",
    "{interchange_layers: {pairs: {each: all}}}",
    "{quantize_weights: {parts: linear, bits: 4, scale: row}}",
    "{prune_weights: {parts: linear, sparsity: 0.5, by: magnitude}}",
    "{reinitialize_layers: {layers: {each: all}, seed: 1}}",
)
SPOKEN = (", sample: {prompts: [a b c], tokens: 8}", "")
SHAPE = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4}


def in_use() -> int:
    """Resident bytes of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def tensors() -> int:
    """Bytes of all tensors that are alive."""
    gc.collect()
    alive = {
        each.untyped_storage().data_ptr(): each.untyped_storage().nbytes()
        for each in gc.get_objects()
        if isinstance(each, torch.Tensor)
    }
    return sum(alive.values())


def main() -> int:
    """Measure as many as were asked for; print bytes as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--bets", type=int, default=200)
    parser.add_argument("--models", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        bets = root / "bets"
        bets.mkdir()
        (root / "text.txt").write_text(" ".join("the quick brown fox jumps over a dog" * 40))
        for number in range(asked.models):
            tiny.save(root / "models" / f"m{number}", seed=number, **SHAPE)
        one = (root / "models" / "m0" / "model.safetensors").stat().st_size
        each = asked.bets // asked.models
        for number in range(asked.bets):
            written = BET.format(
                number=number,
                model=f"m{number // each}",
                does=DONE[number % len(DONE)],
                more=SPOKEN[number % len(SPOKEN)],
            )
            (bets / f"{number:03}.yaml").write_text(written)
        documents = [read_bets(path)[0] for path in sorted(bets.iterdir())]
        measurer = LocalMeasurer(Conditions(device="cpu"), Registry.of())
        measurer.expect((document, bets) for document in documents)
        curve, alive = [], []
        before = tensors()
        for number, document in enumerate(documents):
            measurer.measure(document, bets=bets)
            if (number + 1) % each == 0:
                curve.append(in_use())
                alive.append(tensors() - before)
    print(
        json.dumps(
            {
                "bets": len(documents),
                "loads": measurer.loads,
                "model_bytes": one,
                "resident_after_each_model": curve,
                "tensors_after_each_model": alive,
            }
        )
    )
    return int(curve[-1] - curve[0] > one or alive[-1] > 0)


if __name__ == "__main__":
    sys.exit(main())
