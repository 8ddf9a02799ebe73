"""The JSON report."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.criteria.metrics import METRICS
from pytest_layerguard.report.bet_report import by_place
from pytest_layerguard.report.rows import target_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pytest_layerguard.bet.criteria.interval import Interval
    from pytest_layerguard.measurement.results import BetResult, VariantResult
    from pytest_layerguard.report.bet_report import BetReport

SCHEMA: Final = 1

Number = float | str


def render(bets: Sequence[BetReport], more: Mapping[str, Any] = MappingProxyType({})) -> str:
    """Return what `--layerguard-json` writes, bets in the order of their files and lines.

    `more` has further keys of the report.
    """
    report = {"schema": SCHEMA, "bets": [entry(bet) for bet in by_place(bets)], **more}
    return json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def entry(bet: BetReport) -> dict[str, Any]:
    """Return the entry of one bet."""
    return {
        "id": bet.id,
        "title": bet.title,
        "model": bet.model,
        "intervention": bet.intervention,
        "file": bet.file,
        "line": bet.line,
        "status": bet.status,
        "outcome": bet.outcome,
        "verdict": bet.verdict,
        "word": bet.word,
        "crossed": [door.id for door in bet.doors],
        "digest": bet.digest,
        "seconds": bet.seconds,
        "cached": bet.cached,
        "tokens": bet.result.tokens if bet.result else None,
        "windows": bet.result.windows if bet.result else None,
        "made_with": dict(bet.made_with),
        # With several texts or checkpoints there is no common base: each variant then has its own.
        "base": _values(bet.bases[0].metrics) if len(bet.bases) == 1 else None,
        "variants": [_variant(bet.result, each) for each in bet.variants if bet.result],
        **({"candidates": [asdict(each) for each in bet.candidates]} if bet.candidates else {}),
    }


def _variant(result: BetResult, variant: VariantResult) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": variant.name,
        "target": target_of(variant),
        "arm": variant.arm,
        "text": variant.text,
        "checkpoint": variant.checkpoint,
        "metrics": {name: metric(name, each) for name, each in variant.metrics.items()},
    }
    base = result.base_of(variant)
    if variant.tasks:
        entry["tasks"] = {name: asdict(each) for name, each in variant.tasks.items()}
    if len(result.bases) > 1:
        entry["base"] = _values(base.metrics)
    if variant.generated:
        entry["generated"] = [
            {"prompt": before.prompt, "base": before.text, "variant": after.text}
            for before, after in zip(base.generated, variant.generated, strict=True)
        ]
    return entry


def metric(name: str, interval: Interval) -> dict[str, Number]:
    """Return a metric; `low` and `high` only where there is an interval."""
    found = {"value": number(name, interval.value)}
    if not interval.is_point:
        found |= {"low": number(name, interval.low), "high": number(name, interval.high)}
    return found


def number(name: str, value: float) -> Number:
    """Return a value of a metric: a count as an integer, and infinity, which JSON lacks, as `"inf"`."""
    if not math.isfinite(value):
        return str(value)
    return int(value) if name in METRICS and METRICS[name].whole else value


def _values(metrics: Mapping[str, Interval]) -> dict[str, Number]:
    return {name: number(name, each.value) for name, each in metrics.items()}
