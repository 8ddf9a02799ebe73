"""Words for what a bet does and for the numbers that are known of it, the same in every report.

Whatever comes from a bet file or a record is untrusted text: what is returned here is on one line,
bounded and safe to print. `literal` and `code` make it safe in Markdown too.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.bet.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_layerguard.bet.arguments import Intervention
    from pytest_layerguard.bet.bet import Bet, Closes, Evidence
    from pytest_layerguard.bet.criteria.scope import Fact
    from pytest_layerguard.catalogue.bet_folders import Entry
    from pytest_layerguard.catalogue.records import Record

_LONGEST: Final = 400
_VARIANTS: Final = 6
_MARKUP: Final = re.compile(r"([\\`*_{}\[\]<>#|~&@$!])")
_ADDRESS: Final = re.compile(r"(?i)(:)(?=//)|(?<=\bwww)(\.)")
_BACKTICKS: Final = re.compile("`+")


def describe_intervention(intervention: Intervention) -> str:
    """Return ``prune_weights {sparsity: 0.5}``: the kind and the arguments that are no defaults."""
    given = intervention.arguments.model_dump(mode="json", exclude_defaults=True)
    return printable(f"{intervention.kind} {flow(given)}" if given else intervention.kind)


def describe_interventions(bet: Bet) -> Iterator[str]:
    """Yield a line for each arm: ``a: skip_layers {layers: all}, then train {steps: 50}``."""
    for arm, interventions in bet.arm_interventions.items():
        steps = ", then ".join(map(describe_intervention, interventions))
        yield steps if arm is None else f"{arm}: {steps}"


def name_interventions(bet: Bet) -> str:
    """Return the kinds of a bet in their order, or the arms that it compares: ``a vs b``."""
    if bet.arms is not None:
        return " vs ".join(bet.arms)
    return ", ".join(each.kind for each in bet.arm_interventions[None])


def describe_closes(closes: Closes) -> str:
    """Return ``skip_layers, remove_layers on models with parameters <= 1e8``."""
    return f"{', '.join(closes.interventions)} on models with {cut(str(closes.models))}"


def describe_facts(facts: Mapping[str, Fact]) -> str:
    """Return ``layers 4, experts unknown, family qwen3_moe``."""
    return ", ".join(f"{name} {_fact(value)}" for name, value in facts.items())


def _fact(value: Fact) -> str:
    if isinstance(value, str):
        return printable(value)
    return "unknown" if value is None else short(value)


def describe_door(entry: Entry) -> Iterator[str]:
    """Yield lines with the claim that failed, what was done, what it closes, and the numbers."""
    assert entry.closes is not None
    yield f"claim that failed: {cut(entry.document.bet.claim_line)}"
    yield f"what was done: {cut('; '.join(describe_interventions(entry.document.bet)))}"
    yield f"it closes: {describe_closes(entry.closes)}"
    yield from describe_numbers(entry)


def describe_numbers(entry: Entry) -> Iterator[str]:
    """Yield lines with what decided a bet, else with what was published, else that there is neither."""
    bet, record = entry.document.bet, entry.record
    if record is not None:
        yield f"its record: {describe_record(record)}"
    elif bet.evidence:
        for each in bet.evidence:
            yield f"its evidence (published, not measured here): {describe_evidence(each)}"
    else:
        yield "it has neither a record nor evidence"


def describe_record(record: Record) -> str:
    """Return the verdict of a record with the criterion that decided, numbers filled in."""
    judgement = record.judgement
    ground = f"on {record.result.tokens:,} tokens"
    if record.result.descriptive:
        ground += ", descriptive"
    return cut(f"{record.verdict}: {judgement.deciding.filled} ({ground})")


def describe_evidence(
    evidence: Evidence, *, variants: int = _VARIANTS, longest: int = _LONGEST
) -> str:
    """Return source, model, verdict and figures of published evidence, but not its note.

    The figures of at most `variants` variants are shown, and `longest` characters in all.
    """
    source = ", ".join(part for part in (evidence.source, evidence.model) if part)
    parts = [f"{source}: {evidence.verdict}" if evidence.verdict else source]
    published = list((evidence.variants or {}).items())
    for name, figures in [("base", evidence.base or {}), *published[:variants]]:
        if figures:
            words = (f"{key.replace('_', ' ')} {short(value)}" for key, value in figures.items())
            parts.append(f"{name} {', '.join(words)}")
    if len(published) > variants:
        parts.append(f"and {len(published) - variants} more")
    return cut("; ".join(parts), longest)


def flow(value: object) -> str:
    """Return plain data in YAML's flow style: ``{layers: [0, 1]}``."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {flow(each)}' for key, each in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(flow, value))}]"
    return str(value)


def cut(text: str, longest: int = _LONGEST) -> str:
    """Return untrusted text on one line, safe to print and not too long."""
    whole = printable(text)
    return whole if len(whole) <= longest else f"{whole[:longest]}..."


def literal(text: str) -> str:
    """Return text as one line that Markdown shows letter by letter: no link, image, HTML or mention."""
    escaped = _MARKUP.sub(r"\\\1", printable(text))
    return _ADDRESS.sub(lambda match: f"\\{match[0]}", escaped)


def code(text: str) -> str:
    """Return text as a code span of Markdown, whatever backticks it has."""
    plain = printable(text) or " "
    fence = "`" * (max((len(run) for run in _BACKTICKS.findall(plain)), default=0) + 1)
    space = " " if len(fence) > 1 else ""
    return f"{fence}{space}{plain}{space}{fence}"
