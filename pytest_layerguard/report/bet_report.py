"""What one bet came to, as plain data that survives a process boundary."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.report import text
from pytest_layerguard.report.evidence import published
from pytest_layerguard.report.story import Story, story

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from pytest_layerguard.bet.bet import Bet
    from pytest_layerguard.bet.criteria.interval import Interval
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.catalogue.outcome import Outcome
    from pytest_layerguard.measurement.results import BetResult, VariantResult

_BRIEF: Final = 240
"""Characters of one reason in a list of skipped bets."""

Scalar = str | int | float | bool
Number = float | str


@dataclass(frozen=True)
class BetReport:
    """One bet of a run: its entry in the JSON report, and what else the summary shows."""

    entry: Mapping[str, Any]
    """The bet's entry as `--layerguard-json` writes it; written with `number`."""
    model: str
    intervention: str
    notes: tuple[str, ...] = ()
    story: Story = field(default_factory=Story)
    """What the page and the pull request tell of it."""

    def to_json(self) -> str:
        """Write as one string: the one form in which pytest-xdist lets an attribute travel."""
        return json.dumps(
            {
                "entry": self.entry,
                "model": self.model,
                "intervention": self.intervention,
                "notes": self.notes,
                "story": self.story.to_json(),
            },
            allow_nan=False,
        )

    @classmethod
    def from_json(cls, text: str) -> BetReport:
        """Read what `to_json` wrote."""
        data = json.loads(text)
        return cls(
            data["entry"],
            data["model"],
            data["intervention"],
            tuple(data["notes"]),
            Story.from_json(data["story"]),
        )

    def properties(self) -> list[tuple[str, Scalar]]:
        """Flat values for JUnit XML and for whatever else reads `user_properties`."""
        entry = self.entry
        values: dict[str, Scalar | None] = {
            "bet": entry["id"],
            "status": entry["status"],
            "word": entry["word"],
            "verdict": entry["verdict"],
            "digest": entry["digest"],
            "cached": entry["cached"],
            "base_perplexity": (entry["base"] or {}).get("perplexity"),
        }
        for name, choose in (
            ("perplexity", max),
            ("perplexity_ratio", max),
            ("unique_tokens", min),
        ):
            points = self.points(name)
            values[name.replace("perplexity_ratio", "ratio")] = choose(points, default=None)
        return [(f"layerguard_{key}", value) for key, value in values.items() if value is not None]

    def points(self, metric: str) -> list[float]:
        """The metric's value in every variant that has one."""
        found = (variant["metrics"].get(metric) for variant in self.entry["variants"])
        return [float(each["value"]) for each in found if each is not None]


def by_place(bets: Iterable[BetReport]) -> list[BetReport]:
    """Bets in the order of their files and lines, in whatever order workers were done."""
    return sorted(bets, key=lambda told: (told.entry["file"], told.entry["line"]))


def tell(
    document: BetDocument, outcome: Outcome | None, file: str, passed: str, root: Path
) -> BetReport:
    """Tell what a bet came to; without an outcome it is an ERROR, whatever raised it.

    `file` is the bet's path as reports name it, from `root`, and `passed` is pytest's word for
    the test.
    """
    from pytest_layerguard.bet.digest import digest

    bet = document.bet
    result = outcome.result if outcome is not None else None
    bases = result.bases if result is not None else ()
    entry = {
        "id": bet.id,
        "file": file,
        "line": document.line,
        "status": bet.status,
        "outcome": passed,
        "verdict": str(outcome.verdict) if outcome and outcome.verdict else None,
        "word": str(outcome.word) if outcome else "ERROR",
        "crossed": [crossing.id for crossing in outcome.crossed] if outcome else [],
        "digest": digest(bet),
        # What this run spent on it: a cached result says how long it took when it was measured.
        "seconds": round(result.seconds, 3) if result and not result.cached else 0.0,
        "cached": bool(result and result.cached),
        # Several texts or checkpoints have no one base: each variant then carries its own.
        "base": _points(bases[0].metrics) if len(bases) == 1 else None,
        "variants": [_variant(result, each) for each in result.variants] if result else [],
    }
    notes = () if outcome is None else (*outcome.warnings, *why_skipped(document, outcome))
    return BetReport(entry, bet.model.name, done(bet), notes, story(document, outcome, root))


def why_skipped(document: BetDocument, outcome: Outcome) -> Iterator[str]:
    """Why a bet was skipped, and what is known of it from elsewhere."""
    if outcome.skipped:
        yield from outcome.messages
        yield from published(document.bet.evidence)


def why_skipped_in_brief(document: BetDocument, outcome: Outcome) -> str:
    """Why a bet was skipped, on one line that a list of many such stays readable with.

    The whole of it stands below the table of bets, in the reports and in the JSON file.
    """
    reason, *further = (text.plain(each.split("\n")[0], _BRIEF) for each in outcome.messages)
    evidence = list(published(document.bet.evidence))
    told = [reason, *(text.plain(each, _BRIEF) for each in evidence[:1])]
    left = len(further) + max(0, len(evidence) - 1)
    return "; ".join([*told, *([f"and {left} more below"] if left else [])])


def done(bet: Bet) -> str:
    """What is done to the model, in a few words: its kinds in order, or the arms it compares."""
    if bet.arms is not None:
        return " vs ".join(bet.arms)
    return ", ".join(each.kind for each in bet.arm_interventions[None])


def _variant(result: BetResult, variant: VariantResult) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": variant.name,
        "arm": variant.arm,
        "text": variant.text,
        "checkpoint": variant.checkpoint,
        "metrics": {name: metric(interval) for name, interval in variant.metrics.items()},
    }
    if len(result.bases) > 1:
        entry["base"] = _points(result.base_of(variant).metrics)
    return entry


def metric(interval: Interval) -> dict[str, Number]:
    """A metric for JSON: `low` and `high` only where there is an interval."""
    if interval.is_point:
        return {"value": number(interval.value)}
    return {
        "value": number(interval.value),
        "low": number(interval.low),
        "high": number(interval.high),
    }


def number(value: float) -> Number:
    """A number for JSON, which has no infinity: `"inf"` and `"-inf"`, which `float()` reads."""
    return value if math.isfinite(value) else str(value)


def _points(metrics: Mapping[str, Interval]) -> dict[str, Number]:
    return {name: number(each.value) for name, each in metrics.items()}
