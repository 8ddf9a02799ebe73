"""Do the intervals cover, and does the number of tokens that is named decide?

    PYTHONPATH=tests python tests/benchmarks/coverage.py [--runs 4000] [--tails]
        [--model DIR --text FILE [--candidates DIR ...] [--real]]

Simulates measurements whose truth is known and counts how often the intervals of the measurer hold it. With a
model and a text it also draws windows of real token losses, base against variants and candidates, with replacement;
with --real these alone. Prints the tables of docs/statistics.md; takes a few minutes of one core.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.special import stdtrit
from support.processes import SYNTHETIC, TOKENS, Array, Process, resampled, sweep

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.bet.criteria.straddle import Straddle
from pytest_layerguard.measurement.metrics.statistics import clustered, percentile

WINDOWS = (8, 22, 64)
LAYERS = 48


def interval(tokens: Array, comparisons: int = 1) -> Interval:
    """The measurer's interval of the mean of ``[windows, TOKENS]``."""
    numbers = np.repeat(np.arange(len(tokens)), tokens.shape[1])
    return clustered(tokens.ravel(), numbers).interval(comparisons)


def by_token(tokens: Array) -> Interval:
    """As if tokens were independent, for contrast."""
    error = tokens.std(ddof=1) / math.sqrt(tokens.size)
    half = float(stdtrit(tokens.size - 1, 0.975)) * error
    return Interval(tokens.mean(), tokens.mean() - half, tokens.mean() + half)


def by_student(tokens: Array) -> Interval:
    """Student's t on window means, without regard to skewness, for contrast."""
    means = tokens.mean(1)
    half = float(stdtrit(len(means) - 1, 0.975)) * means.std(ddof=1) / math.sqrt(len(means))
    return Interval(means.mean(), means.mean() - half, means.mean() + half)


def by_bootstrap(tokens: Array, random: np.random.Generator) -> Interval:
    """The percentile bootstrap over windows, for contrast."""
    means = tokens.mean(1)
    drawn = means[random.integers(0, len(means), (500, len(means)))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(means.mean(), min(low, means.mean()), max(high, means.mean()))


def covered(found: Iterator[Interval] | list[Interval]) -> tuple[float, float]:
    """How often 0 is held, and how often the upper end lies below it: a pass of what is truly at the bar."""
    listed = list(found)
    held = sum(each.low <= 0 <= each.high for each in listed)
    passed = sum(each.high <= 0 for each in listed)
    return held / len(listed), passed / len(listed)


def single(name: str, process: Process, runs: int, random: np.random.Generator) -> None:
    for windows in WINDOWS:
        drawn = [process(random, 1, windows)[0] for _ in range(runs)]
        ours, passes = covered(interval(each) for each in drawn)
        student, student_passes = covered(by_student(each) for each in drawn)
        tokens, _ = covered(by_token(each) for each in drawn)
        bootstrap, _ = covered(by_bootstrap(each, random) for each in drawn[:500])
        print(
            f"| {name} | {windows} | {ours:.1%} | {passes:.1%} | {student:.1%} | {student_passes:.1%} | "
            f"{tokens:.1%} | {bootstrap:.1%} |",
            flush=True,
        )


def together(name: str, process: Process, runs: int, random: np.random.Generator) -> None:
    draw = sweep(process, LAYERS)
    for windows in WINDOWS:
        held = passed = 0
        for _ in range(runs):
            found = [interval(each, LAYERS) for each in draw(random, 1, windows)]
            held += all(each.low <= 0 <= each.high for each in found)
            passed += any(each.high <= 0 for each in found)
        print(f"| {name} | {windows} | {held / runs:.1%} | {passed / runs:.1%} |", flush=True)


def deciding(name: str, process: Process, runs: int, random: np.random.Generator) -> None:
    error = process(random, 1, 20_000)[0].mean(1).std()
    for windows in WINDOWS:
        cells = []
        for gap in (0.5, 1.0, 2.0, None):
            decided, factors = [], []
            while len(decided) < runs:
                truth = (gap or random.uniform(0.5, 4)) * error / math.sqrt(windows)
                found = interval(process(random, 1, windows)[0] + truth)
                if not found.low <= 0 <= found.high:
                    continue
                straddle = Straddle("kl", "", found, Interval.point(0), "kl <= 0")
                named = straddle.tokens_to_decide(windows * TOKENS, windows, 1)
                assert named is not None
                later = interval(process(random, 1, named // TOKENS)[0] + truth)
                decided.append(not later.low <= 0 <= later.high)
                factors.append(named / (windows * TOKENS))
            cells.append(f"{np.mean(decided):.0%} (x{np.median(factors):.0f})")
        print(f"| {name} | {windows} | {' | '.join(cells)} |", flush=True)


def tails(name: str, kl: Process, change: Process, runs: int, random: np.random.Generator) -> None:
    """How often the percentiles of KL and the root mean square change hold those of the whole, or end below them."""
    whole = kl(random, 1, 200_000)[0]
    levels = {0.99: np.quantile(whole, 0.99), 0.999: np.quantile(whole, 0.999)}
    square = float((change(random, 1, 200_000)[0] ** 2).mean())
    for windows in (8, 16, 32, 64, 256):
        numbers = np.repeat(np.arange(windows), TOKENS)
        cells = []
        for level, truth in levels.items():
            drawn = [kl(random, 1, windows)[0] for _ in range(runs)]
            found = [percentile(each.ravel(), numbers, level) for each in drawn]
            held = np.mean([each.low <= truth <= each.high for each in found])
            passed = np.mean([each.high < truth for each in found])
            endless = np.mean([each.high == math.inf for each in found])
            resampled = [percentiles_by_bootstrap(each, level, random) for each in drawn[:300]]
            naive = np.mean([each.low <= truth <= each.high for each in resampled])
            cells.append(f"{held:.1%} | {passed:.1%} | {endless:.0%} | {naive:.0%}")
        squares = [change(random, 1, windows)[0] ** 2 for _ in range(runs)]
        roots = [clustered(each.ravel(), numbers).root() for each in squares]
        held = np.mean([each.low <= math.sqrt(square) <= each.high for each in roots])
        passed = np.mean([each.high < math.sqrt(square) for each in roots])
        print(
            f"| {name} | {windows} | {' | '.join(cells)} | {held:.1%} | {passed:.1%} |", flush=True
        )


def percentiles_by_bootstrap(tokens: Array, level: float, random: np.random.Generator) -> Interval:
    """The percentile bootstrap over windows, for contrast."""
    drawn = tokens[random.integers(0, len(tokens), (200, len(tokens)))].reshape(200, -1)
    low, high = np.quantile(np.quantile(drawn, level, axis=1), [0.025, 0.975])
    value = float(np.quantile(tokens, level))
    return Interval(value, min(low, value), max(high, value))


def independent(random: np.random.Generator, runs: int, windows: int) -> Array:
    """Tokens that know nothing of their neighbours."""
    return random.normal(size=(runs, windows, TOKENS))


def log_normal(process: Process) -> Process:
    """A KL per token, whose logarithm has the correlations and the skewness of a process."""
    return lambda random, runs, windows: 0.1 * np.exp(0.7 * process(random, runs, windows))


def measured(
    model: Path, text: Path, candidates: Sequence[Path] = ()
) -> Mapping[str, tuple[Array, Array, Array]]:
    """Real differences of token losses, KLs and differences of probabilities, each ``[n]``.

    Of a few interventions, and of other checkpoints of the model.
    """
    import torch
    from support.real_losses import of_variants
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from pytest_layerguard.models.tokenization import encode, start_ids
    from pytest_layerguard.texts.windows import Contract, batched, cut

    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    start = start_ids(tokenizer, "auto")
    ids = encode(tokenizer, text.read_text(encoding="utf-8"))
    tokens = min(len(ids) - 1, 131_072) // TOKENS * TOKENS
    windows = cut(ids, Contract(tokens, TOKENS, TOKENS, start))
    batches = batched(windows, 2048 // TOKENS)
    base, variants = of_variants(loaded, windows, batches)
    base_losses = base.double().numpy()
    found = {
        f"{model.name}, {name}": (scores.losses.double().numpy(), scores.kl.double().numpy())
        for name, scores in variants.items()
    }
    for folder in candidates:
        other = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        losses, kl = [], []
        for batch in batches:
            with torch.no_grad():
                p, q = (
                    each(batch.input_ids).logits[batch.scored].double().log_softmax(-1)
                    for each in (loaded, other)
                )
            losses.append(-q.gather(1, batch.labels[batch.scored][:, None])[:, 0])
            kl.append((p.exp() * (p - q)).sum(-1))
        found[folder.name] = torch.cat(losses).numpy(), torch.cat(kl).numpy()
    return {
        name: (losses - base_losses, kl, np.exp(-losses) - np.exp(-base_losses))
        for name, (losses, kl) in found.items()
    }


def in_a_row(name: str, differences: Array, random: np.random.Generator) -> None:
    """How often windows that stand one after another speak for the whole text they are taken from."""
    count = len(differences) // TOKENS
    windows = differences[: count * TOKENS].reshape(count, TOKENS)
    windows = windows - windows.mean()
    cells = []
    for length in WINDOWS:
        starts = random.integers(0, count - length + 1, 2000)
        held, _ = covered(interval(windows[start : start + length]) for start in starts)
        cells.append(f"{held:.0%}")
    means = windows.mean(1)
    neighbours = float(np.corrcoef(means[:-1], means[1:])[0, 1])
    print(f"| {name} | {neighbours:.2f} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=4000)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--candidates", type=Path, nargs="*", default=[])
    parser.add_argument("--real", action="store_true", help="leave out the synthetic losses")
    parser.add_argument("--tails", action="store_true", help="percentiles of KL, and rms_dp")
    chosen = parser.parse_args()
    random = np.random.default_rng(0)
    real = measured(chosen.model, chosen.text, chosen.candidates) if chosen.model else {}
    synthetic = {} if chosen.real else SYNTHETIC
    if chosen.tails:
        print(
            "\n| KL | windows | kl_p99 | passes at the bar | no upper end | bootstrap | "
            "kl_p999 | passes | no upper end | bootstrap | rms_dp | passes |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|---|")
        processes = {"independent tokens": independent, **synthetic} if synthetic else {}
        for name, process in processes.items():
            tails(name, log_normal(process), process, chosen.runs, random)
        for name, (_, kl, change) in real.items():
            tails(name, resampled(kl, 0), resampled(change, 0), chosen.runs, random)
        return
    processes = {**synthetic, **{name: resampled(each) for name, (each, *_) in real.items()}}

    print(
        "\n| losses | windows | covers | passes at the bar | t | t passes | by token | bootstrap |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, process in processes.items():
        single(name, process, chosen.runs, random)
    print(f"\n| losses, {LAYERS} layers | windows | all covered | any passes at the bar |")
    print("|---|---|---|---|")
    for name, process in synthetic.items():
        together(name, process, max(200, chosen.runs // 10), random)
    print("\n| losses | windows | 0.5 errors off | 1 | 2 | 0.5 to 4 |")
    print("|---|---|---|---|---|---|")
    for name, process in list(processes.items())[: len(synthetic) + 2]:
        deciding(name, process, max(50, chosen.runs // 40), random)
    if real:
        print(
            "\n| losses | correlation of neighbours | "
            + " | ".join(f"{each} in a row" for each in WINDOWS)
            + " |"
        )
        print("|---|---|---|---|---|")
        for name, (differences, *_) in real.items():
            in_a_row(name, differences, random)


if __name__ == "__main__":
    main()
