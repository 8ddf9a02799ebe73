"""Do the intervals of tasks cover?

    PYTHONPATH=tests python tests/benchmarks/task_coverage.py [--documents [--runs 5000] [--model DIR --texts FILE ...]]

Of questions nothing is drawn: every outcome is weighed with its chance, at a grid of true rates. With --documents the
losses of documents are drawn, also real ones, base against variants of a model, with replacement; a file is Parquet
with one text a row in its column `text`. Prints the tables of docs/statistics.md; takes two minutes of one core, and
with documents five.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.special import stdtrit
from support import documents, paired

from pytest_layerguard.bet.criteria.interval import Interval

QUESTIONS = (50, 200, 1_000)
BANDS = ((0, 1), (1, 3), (3, 5), (5, 10), (10, 20), (20, 40))
TOGETHER = 48
DOCUMENTS = (8, 16, 62, 200)
SPREADS = (0.0, 0.5, 1.0)
WORDS = 60_000
"""Words of real documents of each file, at most."""


def of_change(questions: int, rates: np.ndarray, lost: np.ndarray, together: int = 1) -> np.ndarray:
    """How often the change is held and lies below and above, ``[rates, lost, 3]``."""
    return np.array(
        [[paired.of_change(questions, rate, share, together) for share in lost] for rate in rates]
    )


def by_student(sums: np.ndarray, sizes: np.ndarray) -> Interval:
    """Student's t as if documents had one size, for contrast."""
    mean = float(sums.sum() / sizes.sum())
    error = (sums - mean * sizes).std(ddof=1) * math.sqrt(len(sums)) / sizes.sum()
    half = float(stdtrit(len(sums) - 1, 0.975)) * error
    return Interval(mean, mean - half, mean + half)


def measured(model: Path, files: Sequence[Path]) -> Iterator[tuple[str, documents.Draw]]:
    """Real documents, the first of each file, and their losses by several variants of a model."""
    import pandas
    from support.real_losses import of_documents

    for file in files:
        texts = list(pandas.read_parquet(file)["text"])
        sizes = np.array([len(text.split()) for text in texts], dtype=float)
        sizes = sizes[: np.searchsorted(sizes.cumsum(), WORDS)]
        texts = texts[: len(sizes)]
        for name, sums in of_documents(model, texts).items():
            length = np.corrcoef(sums / sizes, np.log(sizes))[0, 1]
            named = f"{file.parent.name}, {name}, correlation {length:.2f}"
            yield f"{named} | {np.log(sizes).std():.1f}", documents.resampled(sums, sizes)


def print_documents(runs: int, model: Path | None, files: Sequence[Path]) -> None:
    draws = [
        (f"{name} | {spread}", losses.of_lengths(spread))
        for name, losses in documents.SYNTHETIC.items()
        for spread in SPREADS
        if spread or not losses.slope
    ]
    print(
        "| losses | spread of lengths | documents | covers | passes at the bar | truth below | t | t passes |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, draw in [*draws, *(measured(model, files) if model else ())]:
        random = np.random.default_rng(0)
        for count in DOCUMENTS:
            passes, below = documents.missed(documents.intervals(draw, count, runs, random))
            student = [by_student(*draw(random, count)) for _ in range(runs)]
            student_passes, student_below = documents.missed(student)
            print(
                f"| {name} | {count} | {1 - passes - below:.1%} | {passes:.1%} | {below:.1%} | "
                f"{1 - student_passes - student_below:.1%} | {student_passes:.1%} |",
                flush=True,
            )


def print_questions() -> None:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--documents", action="store_true", help="tasks of documents, not questions"
    )
    parser.add_argument("--runs", type=int, default=5_000)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--texts", type=Path, nargs="*", default=[])
    chosen = parser.parse_args()
    if chosen.documents:
        print_documents(chosen.runs, chosen.model, chosen.texts)
    else:
        print_questions()


if __name__ == "__main__":
    main()
