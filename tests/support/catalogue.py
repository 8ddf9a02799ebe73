"""A folder of bets, and a judge to whom one says what would be measured."""

from __future__ import annotations

import contextlib
import json
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.bet.errors import BetFileError
from pytest_layerguard.bet.reader import read_bets
from pytest_layerguard.catalogue.bet_folders import Catalogue, bet_files
from pytest_layerguard.catalogue.judge import Judge
from pytest_layerguard.catalogue.model_facts import ModelLookup
from pytest_layerguard.catalogue.records import path_of
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.measurement.results import BaseResult, BetResult, VariantResult

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.catalogue.outcome import Outcome

BET_40: dict[str, Any] = {
    "id": "bet-40",
    "title": "Skip each layer",
    "claim": "At least one layer can be skipped at no more than 3x the perplexity.",
    "status": "falsified",
    "model": "reference",
    "intervention": {"skip_layers": {"layers": {"each": "all"}}},
    "measure": {"text": {"reference": "heldout"}, "tokens": 1024, "window": 128},
    "criteria": {
        "strict": "any(perplexity_ratio <= 1.5)",
        "lenient": "any(perplexity_ratio <= 3)",
        "catastrophic": "all(perplexity_ratio >= 10)",
    },
    "closes": {"interventions": ["skip_layers", "remove_layers"], "models": "parameters <= 1e8"},
    "evidence": [
        {
            "source": "Bet 40, Skip-each-layer ablation",
            "model": "FractalMoE 30M",
            "verdict": "CATASTROPHIC",
            "base": {"perplexity": 89},
            "variants": {"skip-0": {"perplexity": 7120}, "skip-3": {"perplexity": 980}},
        }
    ],
}
PROPOSAL: dict[str, Any] = {
    "id": "drop-one",
    "title": "Drop a layer to save bandwidth",
    "claim": "Layer 2 can go.",
    "status": "proposed",
    "model": "reference",
    "intervention": {"skip_layers": {"layers": 2}},
    "measure": {"text": {"reference": "heldout"}, "tokens": 1024, "window": 128},
    "criteria": {"strict": "perplexity_ratio <= 1.5", "lenient": "perplexity_ratio <= 30"},
}
RATIOS = {
    "STRICT": 1.2,
    "LENIENT": 2.5,
    "FALSIFIED": 5.0,
    "CATASTROPHIC": 80.0,
}
"""A ratio that leads to each verdict on bet 40; STRICT or LENIENT on the proposal by 30."""


def measured(*ratios: float, spread: float = 1.05, **changes: Any) -> BetResult:
    """Return a result with so many variants."""
    variants = tuple(
        VariantResult(
            f"skip-{place}",
            str(place),
            None,
            None,
            None,
            {"perplexity_ratio": Interval(ratio, ratio / spread, ratio * spread)},
        )
        for place, ratio in enumerate(ratios)
    )
    reported: dict[str, Any] = {
        "bases": (BaseResult(None, None, {"perplexity": Interval.point(9.0)}),),
        "variants": variants,
        "tokens": 1024,
        "windows": 8,
        "descriptive": False,
        "provenance": {"device": "cpu"},
        "seconds": 1.0,
    }
    return BetResult(**{**reported, **changes})


def measured_as(verdict: str) -> BetResult:
    """Return a result that bet 40's criteria judge so."""
    undecided = verdict not in RATIOS
    return measured(2.9 if undecided else RATIOS[verdict], spread=1.2 if undecided else 1.05)


class Bets:
    """A project with a bet folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "bets"
        self.path.mkdir()
        self.measured: list[str] = []
        self.conditions = Conditions()

    def put(self, bet: dict[str, Any] | None = None, /, *, file: str = "", **changes: Any) -> str:
        """Write a bet, with some of its keys changed, and those that are None left out."""
        bet = {**(PROPOSAL if bet is None else bet), **changes}
        bet = {key: value for key, value in bet.items() if value is not None}
        path = self.path / (file or f"{bet['id']}.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(bet), encoding="utf-8")
        return str(bet["id"])

    def document(self, id_: str, bets: Path | None = None) -> BetDocument:
        """Return a bet as it stands on the disk."""
        for path in bet_files(bets or self.path):
            with contextlib.suppress(BetFileError):
                for document in read_bets(path):
                    if document.bet.id == id_:
                        return document
        raise KeyError(id_)

    def judge(self, id_: str, *ratios: float, bets: Path | None = None, **changes: Any) -> Outcome:
        """Judge a bet that would be measured at these ratios."""
        options = {name: changes.pop(name) for name in ("require", "recording") if name in changes}
        if "require" in options:
            options["require"] = frozenset(options["require"])

        def measure() -> BetResult:
            self.measured.append(id_)
            return measured(*(ratios or (1.2,)), **changes)

        judge = Judge(
            ModelLookup(self.conditions, offline=True),
            self.root,
            (PurePosixPath("bets"),),
            **options,
        )
        return judge.judge(self.document(id_, bets), bets or self.path, measure)

    def record(self, id_: str, *ratios: float) -> Path:
        """Measure and record a bet."""
        self.judge(id_, *ratios, recording=True)
        path = path_of(self.path, id_)
        assert path.is_file()
        return path

    @property
    def catalogue(self) -> Catalogue:
        """The catalogue as it stands on the disk."""
        return Catalogue.load([self.path])
