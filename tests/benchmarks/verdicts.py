"""Does the largest number of tokens named decide the verdict, where several layers straddle the bar?

    python tests/benchmarks/verdicts.py [--cases 100]

Layers with normal window means, each truly so many standard errors of its first measurement from the bar; of what came
out INCONCLUSIVE, how often a new measurement on the largest number named has a verdict.
"""

from __future__ import annotations

import argparse
import math

import numpy as np

from pytest_layerguard.bet.criteria.evaluate import Criteria, Expression, Row
from pytest_layerguard.bet.criteria.interval import Interval, quantile
from pytest_layerguard.bet.verdict import Verdict, judge

WINDOW, WINDOWS = 128, 22
CRITERIA = Criteria(lenient=Expression.parse("any(kl <= 0)"))
GAPS = ((1.0, 1.0), (-1.0, -1.0), (-0.6, 1.5, 2.0), (2.0, 2.0, 2.0, 2.0), (0.5, 0.5))


def measured(random: np.random.Generator, gaps: tuple[float, ...], windows: int) -> list[Row]:
    rows = []
    for place, gap in enumerate(gaps):
        error = math.sqrt(random.chisquare(windows - 1) / (windows - 1) / windows)
        value = gap / math.sqrt(WINDOWS) + random.normal() / math.sqrt(windows)
        half = quantile(windows, len(gaps)) * error
        found = Interval(value, value - half, value + half)
        rows.append(Row(f"skip-{place}", str(place), None, None, None, {"kl": found}))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=100)
    cases = parser.parse_args().cases
    random = np.random.default_rng(0)
    print("| layers, errors from the bar | a verdict in |")
    print("|---|---|")
    for gaps in GAPS:
        decided = []
        while len(decided) < cases:
            first = measured(random, gaps, WINDOWS)
            judgement = judge(CRITERIA, first)
            if judgement.verdict is not Verdict.INCONCLUSIVE:
                continue
            ground = (WINDOWS * WINDOW, WINDOWS, len(gaps))
            named = max(each.tokens_to_decide(*ground) or 0 for each in judgement.straddling)
            later = judge(CRITERIA, measured(random, gaps, named // WINDOW))
            decided.append(later.verdict is not Verdict.INCONCLUSIVE)
        listed = ", ".join(f"{gap:g}" for gap in gaps)
        print(f"| {listed} | {np.mean(decided):.0%} |", flush=True)


if __name__ == "__main__":
    main()
