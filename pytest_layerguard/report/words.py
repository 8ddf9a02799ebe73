"""The words that several reports use: what a word means, evidence, names of variants and notes on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.bet.errors import many
from pytest_layerguard.catalogue.wording import cut
from pytest_layerguard.measurement.metrics.statistics import FEWEST_WINDOWS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_layerguard.measurement.results import BaseResult, BetResult, VariantResult
    from pytest_layerguard.report.bet_report import BetReport, PublishedEvidence

_MEANINGS: Final = {
    "STRICT": "The claim holds, with room to spare.",
    "LENIENT": "The claim holds.",
    "FALSIFIED": "The claim does not hold.",
    "CATASTROPHIC": "The claim fails beyond doubt.",
    "INCONCLUSIVE": "An interval straddles a bar, so nothing is decided.",
    "CROSSED": "The proposal does what a falsification in the catalogue has ruled out.",
    "REGRESSED": "The bet was upheld, and now does worse.",
    "OVERTURNED": "The bet was falsified, but its claim holds here: the catalogue must be revisited.",
    "STALE": "The bet is the same, but weights, tokenizer, text or candidate are not those of its record.",
    "TAMPERED": "Claim, model, intervention, measure or criteria were changed after the result.",
    "ERROR": "Nothing could be measured honestly, so there is no verdict.",
    "UNMEASURED": "It cannot be measured here, and --layerguard-require all asks for that.",
    "UNRECORDED": "It has no record, and --layerguard-require records asks for one.",
    "SKIPPED": "Not measured here.",
}
_LACKS: Final = {
    "gpu": "needs a GPU of {}",
    "memory": "needs {} of memory",
    "network": "no network to reach {}",
    "access": "no access to {}",
    "package": "needs the package {}",
    "model": "needs the model {}",
}
_ALONE: Final = {"network": "with ", "access": "with "}
_SEVERAL: Final = {
    "gpu": "need a GPU",
    "memory": "need more memory",
    "network": "for want of a network",
    "access": "for want of access",
    "package": "need a package",
    "model": "need the model",
}
_SIZES: Final = frozenset({"gpu", "memory"})
_LISTED: Final = 2
_EVIDENCE: Final = 1_000
"""Characters of one piece of evidence on a line."""
_BRIEF: Final = 240
"""Characters of one reason in a list of skipped bets."""
_NOTE: Final = 600
_NAMED: Final = 4
"""Variants that are named before one note; the others are counted."""


def meaning(status: str, word: str, outcome: str) -> str:
    """Return what a word means, and what it means for the build."""
    meant = _MEANINGS.get(word, "")
    if outcome == "skipped":
        return f"{meant} Whatever it closes stays closed." if status == "falsified" else meant
    if outcome == "passed" and status == "falsified":
        stands = word in {"FALSIFIED", "CATASTROPHIC"}
        return f"{meant} The falsification stands." if stands else f"{meant} The build passes."
    if outcome == "failed":
        return f"{meant} The build fails."
    return meant


def published(evidence: Sequence[PublishedEvidence]) -> Iterator[str]:
    """Yield one line for each piece of evidence: source, model, verdict, figures and note."""
    for each in evidence:
        where = f"{each.source} ({each.model})" if each.model else each.source
        figures = "; ".join(
            f"{name} " + ", ".join(f"{metric} {short(value)}" for metric, value in values.items())
            for name, values in each.figures.items()
        )
        cited = ": ".join(part for part in (where, each.verdict, figures, each.note) if part)
        yield f"published, not measured here: {cut(cited, _EVIDENCE)}"


def why_skipped(bet: BetReport) -> Iterator[str]:
    """Yield why a bet was skipped, and its published evidence."""
    yield from bet.messages
    yield from published(bet.evidence)


def why_skipped_in_brief(bet: BetReport) -> str:
    """Return what was wanting, or the first line of why a bet was skipped; the reports have the rest."""
    if bet.lack is None:
        return cut(bet.messages[0].split("\n")[0], _BRIEF)
    kind, of = bet.lack
    return cut(_LACKS[kind].format(of), _BRIEF)


def lacks(bets: Sequence[BetReport]) -> Iterator[str]:
    """Yield how many of the skipped bets wanted what: `2 need a GPU (8 and 24 GiB)`."""
    wanted: dict[str, list[BetReport]] = {}
    for bet in bets:
        wanted.setdefault(bet.lack.kind if bet.lack else "", []).append(bet)
    for kind, those in wanted.items():
        if len(those) == 1:
            yield f"1 {_ALONE.get(kind, '')}{why_skipped_in_brief(those[0])}"
        elif not kind:
            yield f"{len(those)} for other reasons"
        else:
            named = sorted({bet.lack.of for bet in those if bet.lack})
            if kind in _SIZES:
                sizes = sorted(float(each.removesuffix(" GiB")) for each in named)
                which = f" ({_listed([f'{size:g}' for size in sizes])} GiB)"
            else:
                which = f" ({cut(_listed(named), _BRIEF)})" if len(named) <= _LISTED else ""
            yield f"{len(those)} {_SEVERAL[kind]}{which}"


def _listed(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} and {last}" if most else last


def how_measured(result: BetResult) -> str:
    """Return how many tokens were scored, and where the intervals come from."""
    intervals = (
        "descriptive: fewer than 8 windows, so no intervals"
        if result.descriptive
        else "95 % intervals, clustered by window"
    )
    asked = [
        f"{many(change.questions, 'question')} of {name}, 95 % intervals, paired by question"
        for variant in result.variants[:1]
        for name, change in variant.tasks.items()
    ]
    asked += [
        f"{many(count, 'document')} of {name}, "
        + (
            "intervals clustered by document"
            if count >= FEWEST_WINDOWS
            else "too few for intervals"
        )
        for variant in result.variants[:1]
        for name, count in variant.documents.items()
    ]
    scored = f"{result.tokens:,} tokens in {many(result.windows, 'window')}; {intervals}"
    # Nothing was scored of results that were measured elsewhere.
    return "; ".join([*([scored] if result.tokens else []), *asked])


def task_changes(variants: Sequence[VariantResult]) -> Iterator[str]:
    """Yield how many answers of each task every variant lost and gained."""
    for variant in variants:
        for name, change in variant.tasks.items():
            yield (
                f"{where_and_name(variant)}: of {change.right_before} right answers of {name} {change.lost} lost, "
                f"{change.gained} gained (McNemar's exact p {change.p_value:.2g})"
            )


def metric_name(metric: str) -> str:
    """Return a metric's name as people write it."""
    return metric.replace("_", " ").replace("kl", "KL").replace("top1", "top-1")


def where(each: BaseResult | VariantResult) -> str:
    """Return arm, text and checkpoint of a measurement, as far as the bet has several."""
    parts = (getattr(each, "arm", None), each.text, each.checkpoint)
    return " \u00b7 ".join(part for part in parts if part is not None)


def where_and_name(variant: VariantResult) -> str:
    """Return a variant's arm, text and checkpoint, and its name."""
    return " \u00b7 ".join(part for part in (where(variant), variant.name) if part)


def name_of(each: BaseResult | VariantResult) -> str:
    """Return the name of a base or a variant, with its arm, text and checkpoint where there are several."""
    parts = [getattr(each, "name", "base"), getattr(each, "arm", None), each.text, each.checkpoint]
    return ", ".join(cut(part, 60) for part in parts if part is not None)


def notes(variants: Sequence[VariantResult]) -> Iterator[str]:
    """Yield each note once, after the names of the variants that have it."""
    noted: dict[str, list[str]] = {}
    for variant in variants:
        if variant.note:
            noted.setdefault(variant.note, []).append(name_of(variant))
    for note, names in noted.items():
        left = len(names) - _NAMED
        # "and 1 more" would be no shorter than the name.
        named = ", ".join(names if left <= 1 else names[:_NAMED])
        more = f" and {left} more" if left > 1 else ""
        yield f"{named}{more}: {cut(note, _NOTE)}"
