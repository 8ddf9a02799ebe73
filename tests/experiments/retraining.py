"""How much of a re-initialised layer's damage is undone by training it towards the original's output.

Run from the root of a checkout, the second with the model in ``models/stories260k`` and the texts in ``models/data``:

    python tests/experiments/retraining.py retraining-reference
    python tests/experiments/retraining.py retraining-stories260k

Prints the tables of ``docs/layer-degeneration.md``. Ten thousand steps for each layer take a while.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

from pytest_layerguard.bet.reader import read_bets
from pytest_layerguard.bet.verdict import judge
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.measurer import LocalMeasurer
from pytest_layerguard.measurement.results import BetResult

HERE = Path(__file__).parent
MODELS = HERE.parents[1] / "models"


def damage(result: BetResult, arm: str, layer: str) -> float:
    """Mean rise of the token losses in nats, the logarithm of the ratio."""
    (found,) = (v for v in result.variants if v.arm == arm and v.target == layer)
    return math.log(found.metrics["perplexity_ratio"].value)


def table(result: BetResult) -> list[str]:
    """Perplexity and the share of the damage undone, by layer and steps."""
    arms = list(dict.fromkeys(str(v.arm) for v in result.variants))
    lines = [
        f"base perplexity {result.bases[0].metrics['perplexity'].value:.4f}; {result.seconds:.0f} s",
        "",
        f"| layer | {' | '.join(arms)} | {' | '.join(f'undone {arm}' for arm in arms[1:])} |",
        f"|---{'|---:' * (2 * len(arms) - 1)}|",
    ]
    for layer in dict.fromkeys(v.target for v in result.variants):
        row = [v.metrics["perplexity"].value for v in result.variants if v.target == layer]
        whole = damage(result, arms[0], layer)
        undone = [1 - damage(result, arm, layer) / whole for arm in arms[1:]]
        cells = [*(f"{value:.4f}" for value in row), *(f"{share:.1%}" for share in undone)]
        lines.append(f"| {layer} | {' | '.join(cells)} |")
    return lines


def curves(result: BetResult) -> list[str]:
    """The loss on the way, of the longest training of each layer."""
    last = str(result.variants[-1].arm)
    return [
        f"layer {v.target}: "
        + ", ".join(f"{step}: {loss:.3g}" for step, loss in v.diagnostics["training_loss"])
        for v in result.variants
        if v.arm == last
    ]


def main(wanted: str) -> None:
    """Measures one bet of ``retraining.yaml`` and prints what came out."""
    registry = Registry.of()
    documents = read_bets(HERE / "retraining.yaml", kinds=registry.arguments)
    (document,) = (each for each in documents if each.bet.id == wanted)
    measurer = LocalMeasurer(Conditions(roots=(MODELS,)), registry)
    result = measurer.measure(document, bets=HERE)
    verdict = judge(document.bet.criteria, result.rows()).verdict
    print(*table(result), "", f"verdict {verdict}", "", *curves(result), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1])
