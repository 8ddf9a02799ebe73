"""Replay upstream accuracy gates on exact intervals, as they stand in docs/why/gates-that-flake.md.

    python tests/experiments/gates.py [rounded | widened | fifty | at-the-bar | tested ...]

Each replay prints Markdown tables from published counts alone; without a name all are printed. A share has the
interval of Clopper and Pearson. A change on the same questions is the share gained minus the share lost: its
interval, of at least 95 %, is made of one of each at 97.5 %. Whether anything changed at all is McNemar's exact test.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from math import ceil
from typing import NamedTuple

from scipy.stats import binom, binomtest, norm

LIKELY = 0.025
"""The share of runs in which a gate may be wrong, on either side."""


class Change(NamedTuple):
    """The change of a share on the same questions, with its 95 % interval."""

    value: float
    low: float
    high: float


def share(right: int, questions: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share."""
    found = binomtest(right, questions).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)


def change(lost: int, gained: int, questions: int) -> Change:
    """Return the change of accuracy by answers lost and gained."""
    fewest_lost, most_lost = share(lost, questions, 0.975)
    fewest_gained, most_gained = share(gained, questions, 0.975)
    return Change((gained - lost) / questions, fewest_gained - most_lost, most_gained - fewest_lost)


def mcnemar(lost: int, gained: int) -> float:
    """Return how likely so uneven a split of the changed answers is by chance."""
    return float(binomtest(lost, lost + gained).pvalue)


def verdict(low: float, high: float, bar: float) -> str:
    """Return what an interval says of a claim that the value is at least the bar."""
    return "holds" if low >= bar else "FALSIFIED" if high < bar else "INCONCLUSIVE"


def fewest(decided: Callable[[int], bool], start: int = 1) -> int:
    """Return the fewest questions, to three figures, from which on a gate decides."""
    low, high = start, start
    while not decided(high):
        low, high = high, high * 2
    while high - low > max(1, high // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if decided(middle) else (middle, high)
    return high


def rounded() -> Iterator[str]:
    """A recovery that is rounded to a percent before it is compared (llm-compressor, 1,000 questions)."""
    questions, bar = 1000, 0.95
    yield "| metric | base | compressed | recovery | compared as | fewest right that pass 0.95, 0.94 |"
    yield "|---|---|---|---|---|---|"
    counts = {"flexible-extract": (781, 736), "strict-match": (709, 667)}
    for name, (base, compressed) in counts.items():
        passing = [
            next(n for n in range(base) if round(n / base, 2) >= level) for level in (0.95, 0.94)
        ]
        yield (
            f"| {name} | {base} | {compressed} | {compressed / base:.4f} | "
            f"{round(compressed / base, 2)} | "
            + ", ".join(f"{each} ({each / base:.4f})" for each in passing)
            + " |"
        )
    yield ""
    yield "| metric | lost, gained | change | bar | verdict | questions that decide | p of no change |"
    yield "|---|---|---|---|---|---|---|"
    for name, (base, compressed) in counts.items():
        least = (bar - 1) * base / questions
        for gained in (0, 20, 60):
            lost = gained + base - compressed

            def decided(
                n: int, lost: int = lost, gained: int = gained, least: float = least
            ) -> bool:
                more = n / questions
                found = change(round(lost * more), round(gained * more), n)
                return verdict(found.low, found.high, least) != "INCONCLUSIVE"

            found = change(lost, gained, questions)
            yield (
                f"| {name} | {lost}, {gained} | {found.value:.3f} [{found.low:.3f}, {found.high:.3f}] | "
                f"{least:.3f} | {verdict(found.low, found.high, least)} | "
                f"{fewest(decided, questions):,} | {mcnemar(lost, gained):.1g} |"
            )


def widened() -> Iterator[str]:
    """A tolerance that grew from 0.02 to 0.1 (vLLM)."""
    yield "| gate | questions | reference | answers lost that pass | p of so many lost, none gained |"
    yield "|---|---|---|---|---|"
    # numpy.isclose takes its share of the measured value, not of the reference.
    gates = [(f"relative {each}", 250, 0.756, 0.756 / (1 + each)) for each in (0.02, 0.05, 0.08)]
    gates += [("absolute 0.08", 1319, 0.925, 0.845), ("absolute 0.1", 1319, 0.925, 0.825)]
    for name, questions, reference, floor in gates:
        lost = round(reference * questions) - _least(floor, questions)
        yield f"| {name} | {questions:,} | {reference} | {lost} | {mcnemar(lost, 0):.1g} |"
    yield ""
    yield "| questions | changed by noise | answers lost that stand out from noise | as points |"
    yield "|---|---|---|---|"
    for questions in (250, 1319):
        for noise in (0.02, 0.05):
            half = round(noise * questions / 2)
            lost = next(n for n in range(questions) if mcnemar(half + n, half) < 0.05)
            yield f"| {questions:,} | {2 * half} | {lost} | {100 * lost / questions:.1f} |"


def fifty() -> Iterator[str]:
    """Fifty questions against bars that were made for 1,319 (vLLM)."""
    yield (
        "| gate | floor | true share | fails on 50 | on 1,319 | questions for 2.5 % | failed with | "
        "interval | verdict |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    gates = {
        "MXFP4, MXFP6": (0.4405 - 0.08, (0.4428, 0.4359, 0.4466), 18),
        "MXFP6, MXFP6": (0.5049 - 0.08, (0.4973, 0.5011, 0.5004), 21),
    }
    for name, (floor, runs, right) in gates.items():
        true = sum(runs) / len(runs)

        def rare(questions: int, true: float = true, floor: float = floor) -> bool:
            return _fails(questions, true, floor) <= LIKELY

        low, high = share(right, 50)
        yield (
            f"| {name} | {floor:.4f} | {true:.4f} | {_fails(50, true, floor):.1%} | "
            f"{_fails(1319, true, floor):.1g} | {fewest(rare)} | {right} of 50 | [{low:.3f}, {high:.3f}] | "
            f"{verdict(low, high, floor)} |"
        )


def _fails(questions: int, true: float, floor: float) -> float:
    """Return how often a model of this accuracy gets fewer right than the floor asks for."""
    return float(binom.cdf(_least(floor, questions) - 1, questions, true))


def _least(floor: float, questions: int) -> int:
    """Return the fewest right answers that reach a floor."""
    return ceil(floor * questions - 1e-9)


def at_the_bar() -> Iterator[str]:
    """A bar within the noise: 14 % of 120 runs at or below it (SGLang)."""
    runs, failed, values = 120, 17, 486
    low, high = share(failed, runs)
    each = 1 - (1 - failed / runs) ** (runs / values)
    yield f"{failed} of {runs} runs: {failed / runs:.1%} [{low:.1%}, {high:.1%}]; of each value {each:.1%}"
    yield ""
    yield "| questions | bar | right, at 0.9443 | interval | verdict | not above the bar, other questions each time |"
    yield "|---|---|---|---|---|---|"
    for questions in (200, 1319):
        for bar in (0.935, 0.93):
            right = round(0.9443 * questions)
            low, high = share(right, questions)
            missed = binom.cdf(bar * questions // 1, questions, 0.9443)
            yield (
                f"| {questions:,} | {bar} | {right} | [{low:.4f}, {high:.4f}] | "
                f"{verdict(low, high, bar)} | {missed:.1%} |"
            )
    yield ""
    yield "| bar | questions that decide |"
    yield "|---|---|"
    for bar in (0.935, 0.93, 0.92):

        def above(questions: int, bar: float = bar) -> bool:
            return share(round(0.9443 * questions), questions)[0] >= bar

        yield f"| {bar} | {fewest(above):,} |"


def tested() -> Iterator[str]:
    """A gate that is a test, of two runs taken for independent, beside a paired one (TensorRT-LLM)."""
    questions = 1319
    error = 100 * (2 * 0.25 / questions) ** 0.5
    yield "| answers that change | bar below the reference, points | loss seen in 80 % of runs, points |"
    yield "|---|---|---|"
    yield (
        f"| taken for independent | {-norm.ppf(0.05) * error:.2f} | "
        f"{-(norm.ppf(0.05) + norm.ppf(0.2)) * error:.2f} |"
    )
    for noise in (0.02, 0.05, 0.1):
        changed = round(noise * questions)
        bar = next(n for n in range(changed) if binom.sf(n - 1, changed, 0.5) <= 0.05)
        seen = next(
            each / 1000
            for each in range(500, 1001)
            if binom.sf(bar - 1, changed, each / 1000) >= 0.8
        )
        points = (100 * (2 * bar - changed) / questions, 100 * changed * (2 * seen - 1) / questions)
        yield f"| {noise:.0%}, paired | {points[0]:.2f} | {points[1]:.2f} |"


REPLAYS: dict[str, Callable[[], Iterator[str]]] = {
    "rounded": rounded,
    "widened": widened,
    "fifty": fifty,
    "at-the-bar": at_the_bar,
    "tested": tested,
}


def main(names: list[str]) -> int:
    """Print the replays of these names, or all."""
    unknown = [name for name in names if name not in REPLAYS]
    if unknown:
        print(f"{unknown[0]!r} is no replay; allowed: {', '.join(REPLAYS)}", file=sys.stderr)
        return 2
    print("\n\n".join("\n".join(REPLAYS[name]()) for name in names or REPLAYS))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
