"""Do the intervals of tasks cover?

    PYTHONPATH=tests python tests/benchmarks/task_coverage.py

Nothing is drawn: every outcome is weighed with its chance, at a grid of true rates. Prints the tables of
docs/statistics.md; takes two minutes of one core.
"""

from __future__ import annotations

import numpy as np
from support import paired

QUESTIONS = (50, 200, 1_000)
BANDS = ((0, 1), (1, 3), (3, 5), (5, 10), (10, 20), (20, 40))
TOGETHER = 48


def of_change(questions: int, rates: np.ndarray, lost: np.ndarray, together: int = 1) -> np.ndarray:
    """How often the change is held and lies below and above, ``[rates, lost, 3]``."""
    return np.array(
        [[paired.of_change(questions, rate, share, together) for share in lost] for rate in rates]
    )


def main() -> None:
    lost = np.linspace(0, 1, 21)
    print(
        "| questions | changed | covers | 50% lost | 80% lost | 100% lost | least | most | "
        f"misses on one side, at most | {TOGETHER} together | on one side, at most |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for questions in QUESTIONS:
        for low, high in (band for band in BANDS if band[1] <= questions / 2):
            # The first band begins just above 0, where nothing changes.
            rates = np.linspace(low or 0.05, high, 25)
            found = of_change(questions, rates, lost)
            some = found[:, np.isin(lost, (0.5, 0.8, 1.0)), 0].mean(0)
            held, aside = found[..., 0], found[..., 1:].max()
            all_held = of_change(questions, rates[::2], lost[::2], TOGETHER)
            print(
                f"| {questions:,} | {low} to {high} | {held.mean():.1%} | "
                + " | ".join(f"{each:.1%}" for each in some)
                + f" | {held.min():.1%} | {held.max():.1%} | {aside:.1%} | "
                f"{1 - TOGETHER * (1 - all_held[..., 0].mean()):.1%} | "
                f"{TOGETHER * all_held[..., 1:].max():.1%} |",
                flush=True,
            )
    print(
        "\n| questions | right, or wrong | covers | least | most | truth below | at most | truth above | at most |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for questions in QUESTIONS:
        for low, high in (band for band in BANDS if band[1] <= questions / 2):
            shares = np.linspace(low or 0.05, high, 400) / questions
            held, below, above = np.array([paired.of_share(questions, each) for each in shares]).T
            print(
                f"| {questions:,} | {low} to {high} | {held.mean():.1%} | {held.min():.1%} | {held.max():.1%} | "
                f"{below.mean():.1%} | {below.max():.1%} | {above.mean():.1%} | {above.max():.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
