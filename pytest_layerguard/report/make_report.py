"""Make the view of a judged bet that every report reads."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.criteria import parse
from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.bet.criteria.metrics import built_in
from pytest_layerguard.bet.digest import digest
from pytest_layerguard.catalogue.bet_folders import shown
from pytest_layerguard.catalogue.wording import (
    cut,
    describe_closes,
    describe_interventions,
    describe_numbers,
    name_interventions,
)
from pytest_layerguard.report import text
from pytest_layerguard.report.bet_report import (
    BetReport,
    CandidateReport,
    ClosedDoor,
    Criterion,
    PublishedEvidence,
    Threshold,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pytest_layerguard.bet.arguments import Intervention
    from pytest_layerguard.bet.bet import Bet, Evidence
    from pytest_layerguard.bet.criteria.evaluate import Criteria, Decider, Expression
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.catalogue.crossing.doors import Crossing
    from pytest_layerguard.catalogue.outcome import Outcome
    from pytest_layerguard.measurement.results import (
        BetResult,
        Continuation,
        GeneratedText,
        LossProfile,
        TaskChange,
        VariantResult,
    )

_KEY: Final = re.compile(r"[a-z_]+(\.[A-Za-z0-9_]+)*(?=: )")
_LEVELS: Final = ("strict", "lenient", "catastrophic")
_LESS_IS_WORSE: Final = (
    "unique_tokens",
    "top1_agreement",
    "stop_rate",
    "first_divergence",
    "accuracy",
    "accuracy_change",
)
_SHOWN: Final = 8
"""Variants whose continuations and loss profiles are kept; a sweep may have thousands."""
_PROSE: Final = 4_000
_LINE: Final = 500
_CONTINUATION: Final = 1_200
_PROMPTS: Final = 4
_TOKENS: Final = 10
_FIGURES: Final = 60
"""Variants of one piece of evidence that are kept."""
_FACTS: Final = 120


def make_report(document: BetDocument, outcome: Outcome, root: Path) -> BetReport:
    """Return the view of a bet and its outcome. Paths are named from `root`."""
    bet, result = document.bet, outcome.result
    kept = _mildest_and_worst(result, bet) if result is not None else ()
    return BetReport(
        id=bet.id,
        file=Path(shown(document.path, root)).as_posix(),
        line=document.line,
        status=bet.status,
        outcome="skipped" if outcome.skipped else "passed" if outcome.passed else "failed",
        word=str(outcome.word),
        verdict=str(outcome.verdict) if outcome.verdict else None,
        verdict_before=str(outcome.verdict_before) if outcome.verdict_before else None,
        digest=digest(bet),
        model=cut(bet.model.name, 1_000),
        intervention=cut(name_interventions(bet), _LINE),
        title=cut(bet.title, _LINE),
        claim=cut(bet.claim_line, _PROSE),
        notes=bet.notes and cut(bet.notes, _PROSE),
        links=bet.links[:20],
        steps=tuple(cut(each, _LINE) for each in describe_interventions(bet)),
        criteria=tuple(_criteria(bet.criteria, outcome)),
        metrics=tuple(_metrics(bet)),
        thresholds=tuple(_thresholds(bet)),
        evidence=tuple(_published(each) for each in bet.evidence[:20]),
        messages=outcome.messages,
        warnings=outcome.warnings,
        remarks=outcome.remarks,
        error_at=_error_at(document, outcome),
        recorded=outcome.recorded,
        lack=outcome.lack,
        missed=outcome.missed,
        differs=tuple(cut(each, _LINE) for each in outcome.differs[:20]),
        doors=tuple(_doors(bet, outcome, root)),
        candidates=tuple(_candidates(result)) if result is not None else (),
        result=result and _trimmed(result, kept),
        shown=kept,
        facts=tuple(_facts(result)) if result is not None else (),
        made_with=_made_with(result) if result is not None else {},
        devices=tuple(dict.fromkeys(_devices(result))) if result is not None else (),
        matched=tuple(arm for arm, steps in bet.arm_interventions.items() if _matched(steps)),
    )


def _error_at(document: BetDocument, outcome: Outcome) -> tuple[int, int] | None:
    """Return the place of the key that an ERROR begins with, such as `model.path: ...`, or of the bet."""
    if outcome.word != "ERROR":
        return None
    key = _KEY.match(outcome.reason)
    return document.position(*key[0].split(".")) if key else (document.line, 1)


def _matched(interventions: Sequence[Intervention]) -> bool:
    """Return whether the last training's loss is a distance rather than nats."""
    trained = [each.arguments for each in interventions if each.kind == "train"]
    return getattr(trained[-1], "objective", None) == "layer_output" if trained else False


def _criteria(criteria: Criteria, outcome: Outcome) -> Iterator[Criterion]:
    for level, expression in _expressions(criteria):
        criterion = Criterion(level, cut(str(expression), _PROSE))
        evaluation = getattr(outcome.judgement, level, None)
        if evaluation is not None:
            criterion = replace(
                criterion,
                truth=evaluation.truth.value,
                # The evaluation repeats the criterion before its numbers.
                filled=cut(evaluation.filled.split("  ->  ", 1)[-1], _PROSE),
                decided=level == outcome.decided_by,
                deciders=tuple(
                    _of_harm(each) if level == "catastrophic" else each
                    for each in evaluation.deciders
                ),
            )
        yield criterion


def _of_harm(decider: Decider) -> Decider:
    """Return the comparison in the words of harm: what best meets a catastrophic criterion is the worst."""
    word, of, count = decider.among.partition(" of ")
    harm = {"best": "worst", "worst": "best"}.get(word, word)
    return replace(decider, among=f"{harm}{of}{count}")


def _expressions(criteria: Criteria) -> Iterator[tuple[str, Expression]]:
    for level in _LEVELS:
        expression = getattr(criteria, level)
        if expression is not None:
            yield level, expression


def _metrics(bet: Bet) -> Iterator[str]:
    named = (
        _key(node, bet)[1]
        for _, expression in _expressions(bet.criteria)
        for node in parse.walk(expression.node)
        if isinstance(node, parse.Name)
    )
    return iter(dict.fromkeys(named))


def _key(named: parse.Name, bet: Bet) -> tuple[tuple[str, ...], str]:
    """Return the prefix of a metric without its task, and the metric's name with it."""
    task = next((name for name in named.prefix if name in (bet.measure.tasks or {})), None)
    prefix = tuple(name for name in named.prefix if name != task)
    return prefix, named.metric if task is None else f"{task}.{named.metric}"


def _thresholds(bet: Bet) -> Iterator[Threshold]:
    for level, expression in _expressions(bet.criteria):
        for node in parse.walk(expression.node):
            if isinstance(node, parse.Comparison):
                yield from _compared(level, node, bet)


def _compared(level: str, node: parse.Comparison, bet: Bet) -> Iterator[Threshold]:
    for place, sign in enumerate(node.operators):
        sides = node.operands[place : place + 2]
        if isinstance(sides[0], parse.Number):
            sides, sign = sides[::-1], parse.MIRRORED[sign]
        metric, number = sides
        while isinstance(metric, parse.Quantifier):
            metric = metric.operand
        if (
            isinstance(metric, parse.Name)
            and isinstance(number, parse.Number)
            and sign not in ("==", "!=")
        ):
            yield Threshold(level, *_key(metric, bet), sign, number.value)


def _published(evidence: Evidence) -> PublishedEvidence:
    figures = {"base": evidence.base or {}, **(evidence.variants or {})}
    return PublishedEvidence(
        cut(evidence.source, _LINE),
        evidence.model and cut(evidence.model, _LINE),
        evidence.text and cut(evidence.text, _LINE),
        evidence.verdict,
        {
            cut(name, 100): dict(islice(each.items(), 12))
            for name, each in islice(figures.items(), _FIGURES)
            if each
        },
        evidence.note and cut(evidence.note, _PROSE),
    )


def _doors(bet: Bet, outcome: Outcome, root: Path) -> Iterator[ClosedDoor]:
    # A bet that was measured has challenged the doors already.
    challenge = () if outcome.result is not None else [each.id for each in outcome.crossed]
    for crossing in outcome.crossed:
        yield _door(crossing, bet, root, challenge)


def _door(crossing: Crossing, bet: Bet, root: Path, challenge: Sequence[str]) -> ClosedDoor:
    entry = crossing.entry
    document, closes = entry.document, entry.closes
    assert closes is not None
    standing = f"{'; '.join(crossing.parts)}, on {crossing.model}"
    if crossing.doubt is not None:
        standing += f"; cannot be excluded: {crossing.doubt}"
    return ClosedDoor(
        id=crossing.id,
        title=cut(document.bet.title, _LINE),
        claim=cut(document.bet.claim_line, _PROSE),
        file=shown(document.path, root),
        line=document.line,
        closes=describe_closes(closes),
        numbers=tuple(describe_numbers(entry)),
        standing=cut(standing, _PROSE),
        instead=f"what you can do: {crossing.alternatives(bet, challenge)}" if challenge else "",
    )


def _candidates(result: BetResult) -> Iterator[CandidateReport]:
    for each in result.candidates():
        if each["model"]["kind"] == "cast":
            continue
        floor = each.get("floor")
        yield CandidateReport(
            cut(".".join(name for name in (each["arm"], each["variant"]) if name), 200),
            tuple(cut(line, _LINE) for line in each["facts"][:20]),
            tuple(
                (cut(one["kind"], 80), cut(one["sentence"], _LINE))
                for one in each.get("recognised", ())[:20]
            ),
            floor
            and (
                f"computes in {floor['dtype']}, and so does its floor: the base in {floor['dtype']} has a "
                f"perplexity ratio of {short(floor['perplexity_ratio'])} and a KL of {short(floor['kl'])}"
            ),
        )


def _mildest_and_worst(result: BetResult, bet: Bet) -> tuple[int, ...]:
    """Return the positions of the variants to show, the mildest first; of many, only those at both ends."""
    count = len(result.variants)
    metric = next(
        (name for name in _metrics(bet) if all(name in v.metrics for v in result.variants)),
        "perplexity_ratio",
    )
    known = built_in(metric)
    sign = -1 if known is not None and known.name in _LESS_IS_WORSE else 1

    def harm(at: int) -> float:
        interval = result.variants[at].metrics.get(metric)
        return sign * interval.value if interval is not None else math.inf

    ranked = sorted(range(count), key=harm)
    if count <= _SHOWN:
        return tuple(ranked)
    return (*ranked[: _SHOWN - 2], *ranked[-2:])


def _trimmed(result: BetResult, kept: Sequence[int]) -> BetResult:
    """Return the result without token ids, and with the continuations of kept variants alone."""
    return replace(
        result,
        bases=tuple(
            replace(
                base,
                samples=_continuations(base.samples),
                spoken=_continuations(base.spoken),
                generated=_generated(base.generated),
            )
            for base in result.bases
        ),
        variants=tuple(
            _with_details(variant) if at in kept else _without_details(variant)
            for at, variant in enumerate(result.variants)
        ),
        provenance={},
        diagnostics={},
    )


def _with_details(variant: VariantResult) -> VariantResult:
    losses = variant.diagnostics.get("training_loss")
    return replace(
        variant,
        samples=_continuations(variant.samples),
        spoken=_continuations(variant.spoken),
        generated=_generated(variant.generated),
        profile=_profile(variant.profile),
        tasks={name: _task_change(each) for name, each in variant.tasks.items()},
        diagnostics={"training_loss": losses} if losses else {},
        note=variant.note and cut(variant.note, _LINE),
    )


def _without_details(variant: VariantResult) -> VariantResult:
    tasks = {name: replace(each, examples=()) for name, each in variant.tasks.items()}
    bare = replace(
        variant,
        samples=(),
        spoken=(),
        generated=(),
        profile=None,
        tasks=tasks,
        diagnostics={},
        kl_tail={},
    )
    return _with_details(bare)


def _continuations(made: Sequence[Continuation]) -> tuple[Continuation, ...]:
    return tuple(
        replace(
            each,
            prompt=text.block(each.prompt, _LINE),
            text=text.block(each.text, _CONTINUATION),
            token_ids=(),
        )
        for each in made[:_PROMPTS]
    )


def _generated(made: Sequence[GeneratedText]) -> tuple[GeneratedText, ...]:
    return tuple(
        replace(
            each, prompt=text.block(each.prompt, _LINE), text=text.block(each.text, _CONTINUATION)
        )
        for each in made[:_PROMPTS]
    )


def _task_change(change: TaskChange) -> TaskChange:
    return replace(
        change,
        examples=tuple(
            replace(
                each,
                question=text.block(each.question, _CONTINUATION),
                right=text.one_line(each.right, _LINE),
                base=text.one_line(each.base, _LINE),
                variant=text.one_line(each.variant, _LINE),
            )
            for each in change.examples
        ),
    )


def _profile(profile: LossProfile | None) -> LossProfile | None:
    if profile is None:
        return None
    tokens = tuple(
        replace(harm, token=text.one_line(harm.token, 40)) for harm in profile.tokens[:_TOKENS]
    )
    return replace(profile, tokens=tokens)


def _made_with(result: BetResult) -> dict[str, str]:
    """Return versions, device and dtype by name; of checkpoints that differ, all that there are."""
    found: dict[str, dict[str, None]] = {}
    for made in result.provenance.get("checkpoints", ()):
        on = {key: made[key] for key in ("device", "dtype") if key in made}
        for name, value in {**made.get("versions", {}), **on}.items():
            found.setdefault(name, {})[cut(str(value), 100)] = None
    return {name: ", ".join(values) for name, values in found.items()}


def _devices(result: BetResult) -> Iterator[str]:
    for made in result.provenance.get("checkpoints", ()):
        if "device" in made:
            yield cut(str(made["device"]), 100)


def _facts(result: BetResult) -> Iterator[tuple[str, str]]:
    """Yield provenance and diagnostics of a measurement, by name."""
    checkpoints = result.provenance.get("checkpoints", ())
    found: list[tuple[str, str]] = []
    for key, value in {**result.provenance, **result.diagnostics}.items():
        if key != "checkpoints":
            found += _leaves(key, value)
            continue
        for made in checkpoints:
            prefix = f"{made.get('checkpoint')}: " if len(checkpoints) > 1 else ""
            found += [(prefix + name, each) for name, each in _leaves("", made)]
    for name, each in found[:_FACTS]:
        yield cut(name, 80), cut(each, 300)


def _leaves(key: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested data with their names, but for those that are None."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from _leaves(f"{key} {name}".strip().replace("_", " "), each)
    elif isinstance(value, list | tuple):
        for at, each in enumerate(value):
            yield from _leaves(f"{key} {at}" if len(value) > 1 else key, each)
    elif value is not None:
        number = isinstance(value, float) and math.isfinite(value)
        yield key, short(value) if number else str(value)
