"""Measures what another thread count, micro-batch or dtype does to every number of a catalogue, and to its verdicts.

    python tests/experiments/sameness.py bets --jobs 2

Every bet on a reference model is measured under each condition in a process of its own. Exits with 1 if running
again changes one bit, or if any condition changes a verdict.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

CONDITIONS: dict[str, dict[str, Any]] = {
    "as usual, 1 thread": {},
    "the same again": {},
    "in reverse order": {"reverse": True},
    "2 threads": {"threads": 2},
    "micro-batch of 512 tokens": {"micro_batch": 512},
    "micro-batch of 8,192 tokens": {"micro_batch": 8192},
    "bfloat16": {"dtype": "bfloat16"},
    "float16": {"dtype": "float16"},
}


def measure(folder: Path, condition: dict[str, Any]) -> dict[str, Any]:
    """Numbers and verdict of each bet."""
    import torch

    from pytest_layerguard.bet.reader import parse_bets
    from pytest_layerguard.bet.verdict import judge
    from pytest_layerguard.environment.conditions import Conditions
    from pytest_layerguard.interventions.registry import Registry
    from pytest_layerguard.measurement import session
    from pytest_layerguard.measurement.measurer import LocalMeasurer

    torch.set_num_threads(condition.get("threads", 1))
    if "micro_batch" in condition:
        session.MICRO_BATCH["cpu"] = condition["micro_batch"]  # type: ignore[index]
    measurer = LocalMeasurer(Conditions(device="cpu"), Registry.of())
    documents = []
    for path in sorted(folder.glob("*.yaml")):
        for document in parse_bets(path.read_text(encoding="utf-8"), path):
            model = document.bet.model
            if model.reference is None:
                continue
            if "dtype" in condition:
                model = model.model_copy(update={"dtype": condition["dtype"]})
            bet = document.bet.model_copy(update={"model": model})
            documents.append(replace(document, bet=bet))
    if condition.get("reverse"):
        documents.reverse()
    measurer.expect([(document, folder) for document in documents])
    found = {}
    for document in documents:
        result = measurer.measure(document, bets=folder)
        verdict = judge(document.bet.criteria, result.rows()).verdict
        plain = result.to_json()
        found[document.bet.id] = {"verdict": str(verdict), "variants": plain["variants"]}
    return found


def compared(usual: dict[str, Any], other: dict[str, Any]) -> tuple[list[str], bool]:
    """The row of a table, and whether every verdict stayed."""
    worst = {"perplexity_ratio": 0.0, "kl": 0.0, "top1_agreement": 0.0, "unique_tokens": 0.0}
    moved = []
    for id_, bet in usual.items():
        if bet["verdict"] != other[id_]["verdict"]:
            moved.append(f"{id_}: {other[id_]['verdict']} instead of {bet['verdict']}")
        for ours, theirs in zip(bet["variants"], other[id_]["variants"], strict=True):
            for name in worst.keys() & ours["metrics"].keys() & theirs["metrics"].keys():
                value, changed = (float(each["metrics"][name]["value"]) for each in (ours, theirs))
                by_ratio = name == "perplexity_ratio"
                moved_by = math.log(changed / value) if by_ratio else changed - value
                worst[name] = max(worst[name], abs(moved_by))
    same = "bit for bit" if usual == other else "no"
    largest = [f"{each:.1e}" for each in list(worst.values())[:3]]
    row = [same, *largest, f"{worst['unique_tokens']:.0f}", "; ".join(moved) or "none"]
    return row, not moved


def measured(folder: Path, name: str) -> dict[str, Any]:
    """What a process of its own finds under a condition."""
    threads = str(CONDITIONS[name].get("threads", 1))
    said = subprocess.run(
        [sys.executable, __file__, str(folder), "--condition", name],
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
    )
    found: dict[str, Any] = json.loads(said.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bets", type=Path)
    parser.add_argument("--jobs", type=int, default=1, help="so many conditions at once")
    parser.add_argument("--condition", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.condition is not None:
        json.dump(measure(chosen.bets, CONDITIONS[chosen.condition]), sys.stdout, sort_keys=True)
        return 0
    print(
        "| condition | the same | ratio, relative | KL, nats | agreement | unique tokens | verdicts changed |"
    )
    print("|---|---|---|---|---|---|---|")
    wrong = False
    with ThreadPoolExecutor(chosen.jobs) as pool:
        # The narrow types take longest, and are begun with.
        begun = {name: pool.submit(measured, chosen.bets, name) for name in reversed(CONDITIONS)}
        usual = begun["as usual, 1 thread"].result()
        for name in CONDITIONS:
            found = begun[name].result()
            row, kept = compared(usual, found)
            wrong |= not kept or (name in ("the same again", "in reverse order") and found != usual)
            print(f"| {name} | {' | '.join(row)} |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
