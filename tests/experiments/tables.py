"""Measures the bets of a file and prints their tables, as they stand in the documentation.

Run from the root of a checkout, with the model in ``models/stories260k`` and the texts in ``models/data``:

    python tests/experiments/tables.py tests/experiments/stories260k/no-free-swap.yaml
"""

from __future__ import annotations

import sys
from pathlib import Path

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.bet.reader import read_bets
from pytest_layerguard.bet.verdict import judge
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.measurer import LocalMeasurer
from pytest_layerguard.measurement.results import BetResult

MODELS = Path(__file__).parents[2] / "models"
SHOWN = ("perplexity", "perplexity_ratio", "kl", "protocol_gap", "size_ratio", "top1_agreement")


def number(found: Interval | None) -> str:
    if found is None:
        return ""
    if found.low == found.high:
        return f"{found.value:.4g}"
    return f"{found.value:.4g} [{found.low:.4g}, {found.high:.4g}]"


def table(result: BetResult) -> list[str]:
    metrics = [m for m in SHOWN if any(m in v.metrics for v in result.variants)]
    lines = [
        f"base perplexity{f' ({base.text})' if base.text else ''} {number(base.metrics['perplexity'])}"
        for base in result.bases
    ]
    lines += [
        "",
        f"| variant | {' | '.join(metrics)} | chosen |",
        f"|---{'|---' * len(metrics)}|---|",
    ]
    for v in result.variants:
        name = ", ".join(filter(None, (v.arm, v.name, v.text, v.checkpoint)))
        cells = [number(v.metrics.get(metric)) for metric in metrics]
        chosen = ", ".join(map(str, v.diagnostics.get("removed", ())))
        lines.append(f"| {name} | {' | '.join(cells)} | {chosen} |")
    said = [(b.text or "", "base", s.text) for b in result.bases[:1] for s in b.spoken]
    said += [
        (v.text or "", str(v.arm), s.text)
        for v in result.variants
        if v.text == result.variants[0].text
        for s in v.spoken
    ]
    return (
        lines
        + [""] * bool(said)
        + [f"- {arm}: {' '.join(text.split())!r}" for _, arm, text in said]
    )


def main(path: Path) -> None:
    registry = Registry.of()
    measurer = LocalMeasurer(Conditions(roots=(MODELS,)), registry)
    for document in read_bets(path, kinds=registry.arguments):
        result = measurer.measure(document, bets=path.parent)
        verdict = judge(document.bet.criteria, result.rows()).verdict
        print(
            f"\n{document.bet.id}: {verdict}, {result.seconds:.0f} s",
            *table(result),
            sep="\n",
            flush=True,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
