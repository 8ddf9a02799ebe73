"""Sixty bets on twelve models, on a Ray cluster of three workers that loses one in the middle.

    python tests/experiments/ray_cluster.py

Needs the extra `ray`. The numbers must be those of one process, and only the bet that the lost node was measuring
may be measured twice. Prints how often bets were measured, and what a bet costs that has nothing to measure.
"""

from __future__ import annotations

import collections
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402
from support import ray_nodes  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from pytest_layerguard import reference  # noqa: E402
from pytest_layerguard.bet.reader import BetDocument, read_bets  # noqa: E402
from pytest_layerguard.environment.conditions import Conditions  # noqa: E402
from pytest_layerguard.interventions.registry import Registry  # noqa: E402
from pytest_layerguard.measurement import measurer  # noqa: E402
from pytest_layerguard.measurement.measurer import LocalMeasurer  # noqa: E402
from pytest_layerguard.measurement.ray_cluster import RayMeasurer  # noqa: E402
from pytest_layerguard.measurement.result_cache import CachingMeasurer  # noqa: E402
from pytest_layerguard.measurement.results import BetResult  # noqa: E402

MODELS = 12
BETS = 5
WORKERS = 3

BET = """\
id: m{model}-b{bet}
title: A bet
claim: It can go.
status: proposed
model: {{path: ../models/{model}}}
intervention: {{skip_layers: {{layers: {{each: all}}}}}}
measure: {{text: {{reference: heldout}}, tokens: {tokens}, window: 128, max_base_perplexity: none}}
criteria: {{lenient: all(perplexity_ratio <= 3)}}
"""


def logging(conditions: Conditions, registry: Registry) -> CachingMeasurer:
    """Open the measurer of a node, as a run does, and let it write down each bet that it measures."""

    class Logging(measurer.LocalMeasurer):
        def measure(self, document: BetDocument, *, bets: Path) -> BetResult:
            with (bets.parent / "measured").open("a", encoding="utf-8") as file:
                file.write(f"{document.bet.id}\n")
            return super().measure(document, bets=bets)

    # A worker of Ray runs several tasks in one process.
    if measurer.LocalMeasurer.__name__ != Logging.__name__:
        measurer.LocalMeasurer = Logging
    return CachingMeasurer(conditions, registry)


def travelling() -> Any:
    """Return what opens a node's measurer, by value: nodes cannot import a script."""
    pickle = importlib.import_module("ray.cloudpickle")
    pickle.register_pickle_by_value(sys.modules[__name__])
    return logging


def made(folder: Path) -> list[BetDocument]:
    """Write the models and the bets."""
    bets = folder / "bets"
    bets.mkdir()
    documents = []
    for model in range(MODELS):
        torch.manual_seed(model)
        config = LlamaConfig(
            vocab_size=1024,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=256,
        )
        LlamaForCausalLM(config).save_pretrained(folder / "models" / str(model))
        for file in reference.folder("reference").glob("tokenizer*"):
            (folder / "models" / str(model) / file.name).write_bytes(file.read_bytes())
        for bet in range(BETS):
            path = bets / f"m{model}-b{bet}.yaml"
            # Other numbers of tokens, so that no bet of a model has the windows of another one.
            path.write_text(BET.format(model=model, bet=bet, tokens=4096 + 1024 * bet))
            documents += read_bets(path)
    return documents


def measured(
    documents: list[BetDocument], folder: Path, address: str
) -> tuple[dict[str, BetResult], float]:
    """Measure all on the cluster; return the results and the seconds."""
    conditions = Conditions(device="cpu", cache=folder / "cache")
    cluster = RayMeasurer(conditions, Registry.of(), address, travelling())
    bets = folder / "bets"
    started = time.perf_counter()
    cluster.expect([(document, bets) for document in documents])
    found = {each.bet.id: cluster.measure(each, bets=bets) for each in documents}
    return found, time.perf_counter() - started


def lose(node: subprocess.Popen[bytes], log: Path) -> None:
    """End a node and all its processes, once a third of the bets were begun."""
    while not log.exists() or len(log.read_text().splitlines()) < MODELS * BETS // 3:
        time.sleep(0.05)
    children = Path(f"/proc/{node.pid}/task/{node.pid}/children")
    for child in [*map(int, children.read_text().split()), node.pid]:
        os.kill(child, signal.SIGKILL)


def main() -> int:
    """Run the experiment; return 1 if numbers differ or more was measured than had to be."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents = made(folder)
        log = folder / "measured"
        with ray_nodes.cluster(nodes=WORKERS, head_processors=0) as cluster:
            loser = threading.Thread(target=lose, args=(cluster.nodes[-1], log))
            loser.start()
            found, took = measured(documents, folder, cluster.address)
            loser.join()
            counts = collections.Counter(log.read_text().split())
            left = ray_nodes.alive(importlib.import_module("ray")) - 1
            again, idle = measured(documents, folder, cluster.address)
        alone = LocalMeasurer(Conditions(device="cpu"), Registry.of())
        alone.expect([(document, folder / "bets") for document in documents])
        started = time.perf_counter()
        here = {each.bet.id: alone.measure(each, bets=folder / "bets") for each in documents}
        by_itself = time.perf_counter() - started
    numbers = [
        {id_: replace(each, seconds=0.0, cached=False).to_json() for id_, each in results.items()}
        for results in (here, found, again)
    ]
    twice = {id_: count for id_, count in counts.items() if count > 1}
    print(f"{len(documents)} bets on {MODELS} models, {WORKERS} workers, {left} at the end")
    print(f"measured {sum(counts.values())} times; more than once: {twice or 'none'}")
    print(f"{took:.1f} s on the cluster, {by_itself:.1f} s in one process")
    print(f"{idle / len(documents) * 1e3:.0f} ms a bet where all are in the cache")
    same = numbers[0] == numbers[1] == numbers[2]
    print("the numbers are the same" if same else "the numbers DIFFER")
    return int(not same or len(twice) > 1 or any(count > 2 for count in twice.values()))


if __name__ == "__main__":
    raise SystemExit(main())
