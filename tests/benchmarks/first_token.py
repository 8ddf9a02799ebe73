"""From the start of a process to the first scored token of a bet, against loading the same model by hand.

    OMP_NUM_THREADS=1 python tests/benchmarks/first_token.py [--rounds 5] [bets/40-skip-each-layer.yaml]

By turns: pytest until the first chunk of the base's logits of the first bet is scored, an interpreter that imports
torch and transformers and calls `from_pretrained`, `layerguard explain` of the file, and `--layerguard-ask`.
All files are compiled before. Prints medians of the seconds of the processor, which a busy machine stretches
little, and the ratio of the first two.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from second_run import now

from pytest_layerguard import reference

PROBE = """\
import os
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    from pytest_layerguard.measurement.result_cache import CachingMeasurer
    opened = CachingMeasurer._measurer

    def measurer(self):
        made = opened(self)
        from pytest_layerguard.measurement import sweep
        compare = sweep.compare
        sweep.compare = lambda *args, **more: compare(*args, **more | {"advance": lambda rows: os._exit(0)})
        return made

    CachingMeasurer._measurer = measurer
    return (yield)
"""
BY_HAND = """\
import os, sys
import torch, transformers
transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
# As the other side, which ends here without taking down what it has loaded.
os._exit(0)
"""


def took(command: list[str], plugins: str) -> float:
    """Run a command; return its seconds of the processor."""
    started = now()
    path = os.pathsep.join([plugins, os.environ.get("PYTHONPATH", "")])
    # pytest rewrites the assertions of a plugin's modules, in every run if it may not keep them.
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONPYCACHEPREFIX": f"{plugins}/compiled"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run(command, env=environment, capture_output=True, check=True)
    return now()[1] - started[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("bets", nargs="?", default="bets/40-skip-each-layer.yaml")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", given.bets]
    sides = {
        "first scored token": [*pytest, "--layerguard-fresh", "-p", "layerguard_probe"],
        "import and from_pretrained": [
            sys.executable,
            "-c",
            BY_HAND,
            str(reference.folder("reference")),
        ],
        "explain": [sys.executable, "-m", "pytest_layerguard", "explain", given.bets],
        "--layerguard-ask": [*pytest, "--layerguard-ask", "skip_layers on reference"],
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as plugins:
        (Path(plugins) / "layerguard_probe.py").write_text(PROBE, encoding="utf-8")
        for turn in range(given.rounds + 1):
            for name, command in sides.items():
                seconds = took(command, plugins)
                if turn:
                    found[name].append(seconds)
    medians = [statistics.median(each) for each in found.values()]
    for name, median in zip(found, medians, strict=True):
        print(f"{name:28} {median:5.2f} s")
    print(f"{'ratio of the first two':28} {medians[0] / medians[1]:5.2f}")


if __name__ == "__main__":
    main()
