"""What a word means for a bet of some status, in a sentence, and which bet a reader sees first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pytest_layerguard.report.bet_report import BetReport

_WORDS: Final = {
    "STRICT": "The claim holds, with room to spare.",
    "LENIENT": "The claim holds.",
    "FALSIFIED": "The claim does not hold.",
    "CATASTROPHIC": "The claim fails beyond doubt.",
    "INCONCLUSIVE": "An interval straddles a bar, so nothing is decided.",
    "CROSSED": "The proposal does what a falsification in the catalogue has ruled out.",
    "REGRESSED": "The bet was upheld, and now does worse.",
    "OVERTURNED": "The bet was falsified, but its claim holds here: the catalogue must be revisited.",
    "TAMPERED": "Claim, model, intervention, measure or criteria were changed after the result.",
    "ERROR": "Nothing could be measured honestly, so there is no verdict.",
    "SKIPPED": "Not measured here.",
}
_ORDER: Final = (
    "TAMPERED", "OVERTURNED", "REGRESSED", "CROSSED", "ERROR", "CATASTROPHIC", "FALSIFIED",
    "INCONCLUSIVE", "LENIENT", "STRICT", "SKIPPED",
)  # fmt: skip
_OUTCOMES: Final = ("failed", "passed", "skipped")


def meaning(status: str, word: str, outcome: str) -> str:
    """Say what a word means, and what it means for the build."""
    said = _WORDS.get(word, "")
    if outcome == "skipped":
        return f"{said} Whatever it closes stays closed." if status == "falsified" else said
    if outcome == "passed" and status == "falsified":
        stands = word in {"FALSIFIED", "CATASTROPHIC"}
        return f"{said} The falsification stands." if stands else f"{said} The build passes."
    if outcome == "failed":
        return f"{said} The build fails."
    return said


def outranks(told: BetReport) -> tuple[int, int, str, int]:
    """The key by which bets are sorted: what fails the build first, then by word, then by place."""
    entry = told.entry
    return (
        _OUTCOMES.index(entry["outcome"]),
        _ORDER.index(entry["word"]) if entry["word"] in _ORDER else len(_ORDER),
        entry["file"],
        entry["line"],
    )
