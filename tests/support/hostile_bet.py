"""A bet, measured, that says hostile words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_layerguard.catalogue.outcome import error
from pytest_layerguard.measurement.results import ChangedAnswer, GeneratedText, TaskChange
from support import tales

if TYPE_CHECKING:
    from pytest_layerguard.report.bet_report import BetReport


def hostile(words: str) -> BetReport:
    """A bet that says the same hostile words wherever it can say anything."""
    bet = tales.document(tales.SWEEP)
    evidence = bet.bet.evidence[0].model_copy(
        update={"source": words, "note": words, "variants": {words: {"perplexity": 1.0}}}
    )
    # What YAML cannot say, a claim cannot hold; the rest comes from models and tokenizers too.
    claim = words.replace("\ud800", "")
    bet = replace(
        bet,
        bet=bet.bet.model_copy(
            update={"title": words, "claim": claim, "notes": words, "evidence": (evidence,)}
        ),
    )
    free = GeneratedText(words, words, 1, ended=True)
    found = tales.result(
        tales.variant(
            "skip-0",
            "0",
            samples=tales.said(words, words),
            spoken=tales.said(words, words),
            generated=(free,),
            note=words,
            tasks={
                "quiz": TaskChange(
                    2, 1, 1, 1, 1.0, (ChangedAnswer(words, words, words, words, lost=True),)
                )
            },
            profile=replace(
                tales.profile(), tokens=(replace(tales.profile().tokens[0], token=words),)
            ),
        )
    )
    bases = tuple(replace(each, generated=(free,)) for each in found.bases)
    candidate = {
        "arm": None,
        "variant": words,
        "model": {"kind": "path", "name": words},
        "facts": [words],
        "recognised": [{"kind": words, "sentence": words}],
    }
    made = {words[:99]: {words[:99]: words}, "checkpoints": [{"candidates": [candidate]}]}
    found = replace(found, bases=bases, provenance=made, diagnostics={"x": words})
    return tales.reported(
        bet, replace(error("as our own code says it"), result=found, warnings=("w",))
    )
