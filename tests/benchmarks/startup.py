"""What the plugin costs a run of a user who has no bets.

    python tests/benchmarks/startup.py [--rounds 20]

Runs one empty test with the plugin and without, by turns, each from the start of its process to its end. Prints
medians of the time on the clock and of the processor's, which a busy machine does not stretch, the medians of the
differences of neighbours, and how many modules the plugin adds.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFTEST = """\
import sys

def pytest_unconfigure(config):
    print(f"modules {len(sys.modules)}")
"""


def processor() -> float:
    """Seconds of the processor that processes which have ended took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(folder: Path, *args: str) -> tuple[float, float, int]:
    """Run the empty test; return seconds by the clock and of the processor, and modules."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *args]
    started, used = time.perf_counter(), processor()
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=True, text=True)
    took = time.perf_counter() - started
    return took, processor() - used, int(done.stdout.rsplit("modules ", 1)[1].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "conftest.py").write_text(CONFTEST, encoding="utf-8")
        (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        (folder / "test_nothing.py").write_text("def test_nothing():\n    pass\n", encoding="utf-8")
        with_it, without = [], []
        for _ in range(args.rounds):
            with_it.append(run(folder))
            without.append(run(folder, "-p", "no:layerguard"))
    for at, clock in enumerate(("clock", "processor")):
        one, other = [each[at] for each in with_it], [each[at] for each in without]
        added = [left - right for left, right in zip(one, other, strict=True)]
        print(
            f"{clock:10} with the plugin {1000 * statistics.median(one):6.0f} ms, "
            f"without {1000 * statistics.median(other):6.0f} ms, "
            f"median difference {1000 * statistics.median(added):4.0f} ms"
        )
    print(f"modules added: {with_it[0][2] - without[0][2]}")


if __name__ == "__main__":
    main()
