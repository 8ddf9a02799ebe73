"""The second run of an unchanged catalogue: no model is loaded, torch is not imported.

    python tests/benchmarks/second_run.py [--rounds 5] [bets/]

Runs the catalogue once to fill the cache, then the same again and an empty pytest run by turns, each from the
start of its process to its end. Prints the seconds of each, by the clock and of the processor, which a busy machine
does not stretch, and which heavy packages were loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROBE = """\
import json, os, sys

def pytest_unconfigure(config):
    heavy = {"torch", "transformers", "numpy", "scipy"} & set(sys.modules)
    with open(os.environ["PROBE"], "w") as file:
        json.dump(sorted(heavy), file)
"""


Took = tuple[float, float]
"""Seconds by the clock, and of the processor."""


def now() -> Took:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), used.ru_utime + used.ru_stime


def run(args: list[str], plugins: Path, probe: Path) -> tuple[Took, list[str]]:
    """Run pytest; return how long it took and which heavy packages it had loaded in the end."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "layerguard_probe", *args]
    started = now()
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(plugins), "PROBE": str(probe)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    ended = now()
    if done.returncode not in (0, 1):
        sys.exit(done.stdout.decode()[-4000:])
    took = (ended[0] - started[0], ended[1] - started[1])
    return took, json.loads(probe.read_text(encoding="utf-8"))


def tell(name: str, took: list[Took], heavy: list[str]) -> None:
    clock, processor = (statistics.median(each) for each in zip(*took, strict=True))
    print(f"{name:17} {clock:6.2f} s, {processor:6.2f} s of the processor  {heavy}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("bets", nargs="?", default="bets")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "layerguard_probe.py").write_text(PROBE, encoding="utf-8")
        (folder / "test_nothing.py").write_text("def test_nothing():\n    pass\n", encoding="utf-8")
        cache, report, probe = folder / "cache", folder / "report.json", folder / "probe.json"
        bets = [args.bets, f"--layerguard-cache={cache}", f"--layerguard-json={report}"]
        empty = [
            f"--rootdir={folder}",
            str(folder / "test_nothing.py"),
            "-p",
            "no:layerguard",
            "-p",
            "no:cacheprovider",
        ]
        first, heavy = run(bets, folder, probe)
        tell("first run", [first], heavy)
        second: list[Took] = []
        nothing: list[Took] = []
        for _ in range(args.rounds):
            took, heavy = run(bets, folder, probe)
            second.append(took)
            nothing.append(run(["-c", os.devnull, *empty], folder, probe)[0])
        given = json.loads(report.read_text(encoding="utf-8"))["bets"]
        measured = [bet for bet in given if bet["variants"]]
        cached = sum(bet["cached"] for bet in measured)
        tell("second run", second, heavy)
        tell("empty pytest run", nothing, [])
        pairs = zip(second, nothing, strict=True)
        tell("difference", [(one[0] - two[0], one[1] - two[1]) for one, two in pairs], [])
        print(f"{cached} of {len(measured)} bets that have numbers are cached")


if __name__ == "__main__":
    main()
