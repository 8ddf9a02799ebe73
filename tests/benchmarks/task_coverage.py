"""Do the intervals of tasks cover, and do they agree with McNemar's exact test?

    PYTHONPATH=tests python tests/benchmarks/task_coverage.py

Nothing is drawn: every outcome is weighed with its chance. Prints the tables of docs/statistics.md; takes a minute of
one core.
"""

from __future__ import annotations

from support import paired

QUESTIONS = (50, 200, 1_000)
CHANGED = (1, 3, 5, 10, 20, 40)


def main() -> None:
    shares = (0.5, 0.8, 1.0)
    of_lost = " | ".join(f"{share:.0%} of them lost" for share in shares)
    print(f"| questions | changed on average | {of_lost} | most on one side | as McNemar |")
    print("|---|---|---|---|---|---|---|")
    for questions in QUESTIONS:
        for changed in (each for each in CHANGED if each <= questions / 2):
            found = [paired.of_change(questions, changed, share) for share in shares]
            held = " | ".join(f"{coverage.held:.1%}" for coverage, _ in found)
            worst = max(max(coverage.below, coverage.above) for coverage, _ in found)
            agrees = min(agree for _, agree in found)
            print(
                f"| {questions:,} | {changed} | {held} | {worst:.1%} | {agrees:.2%} |", flush=True
            )
    print("\n| questions | true share | covers | most on one side |")
    print("|---|---|---|---|")
    for questions in QUESTIONS:
        for share in (0.01, 0.05, 0.25, 0.5, 0.9):
            held, below, above = paired.of_share(questions, share)
            print(f"| {questions:,} | {share} | {held:.1%} | {max(below, above):.1%} |")


if __name__ == "__main__":
    main()
