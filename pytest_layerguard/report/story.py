"""All that the page and the pull request tell of a bet, as plain data that crosses processes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.criteria import parse
from pytest_layerguard.bet.criteria.metrics import METRICS
from pytest_layerguard.measurement.results import BetResult
from pytest_layerguard.report import text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_layerguard.bet.arguments import Intervention
    from pytest_layerguard.bet.bet import Bet, Evidence
    from pytest_layerguard.bet.criteria.evaluate import Criteria, Expression
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.catalogue.doors import Crossing
    from pytest_layerguard.catalogue.outcome import Outcome
    from pytest_layerguard.measurement.results import Continuation, LossProfile, VariantResult

LEVELS: Final = ("strict", "lenient", "catastrophic")
TELLING: Final = 8
"""Variants of a bet whose words and loss profiles are told; a sweep may have thousands."""
PROSE: Final = 4_000
LINE: Final = 500
SAMPLE: Final = 1_200
PROMPTS: Final = 4
TOKENS: Final = 10
FIGURES: Final = 60
"""Published figures of one piece of evidence that are told at the most."""
_TURNED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True)
class Criterion:
    """A criterion as written; what it came to, where it was judged."""

    level: str
    written: str
    truth: str | None = None
    filled: str | None = None
    decided: bool = False


@dataclass(frozen=True)
class Bar:
    """A number that a criterion compares a metric with: ``strict`` wants ``metric <= 1.5``."""

    level: str
    prefix: tuple[str, ...]
    metric: str
    sign: str
    value: float

    def met(self, value: float) -> bool:
        """Whether a value satisfies the comparison."""
        return {
            "<": value < self.value,
            "<=": value <= self.value,
            ">": value > self.value,
            ">=": value >= self.value,
        }[self.sign]

    def about(self, variant: VariantResult) -> bool:
        """Whether the bar is about a variant."""
        return all(name in (variant.arm, variant.text, variant.checkpoint) for name in self.prefix)


@dataclass(frozen=True)
class Published:
    """A piece of evidence: shown, never compared as if it had been measured."""

    source: str
    model: str | None
    text: str | None
    verdict: str | None
    figures: tuple[tuple[str, tuple[tuple[str, float], ...]], ...]
    note: str | None


@dataclass(frozen=True)
class Door:
    """A falsification that a proposal crosses: whose, where it stands, and its numbers."""

    id: str
    title: str
    claim: str
    file: str
    line: int
    closes: str
    numbers: tuple[str, ...]
    standing: str
    instead: str


@dataclass(frozen=True)
class Story:
    """What a bet says and came to, cut to what a reader can take in.

    Attributes:
        result: The measurement; words and loss profiles only of the variants in `telling`.
        telling: The positions of those variants in the result, the mildest first.
        metrics: The metrics that the criteria name, in their order.
        matched: The arms that are trained towards what the original's layers put out.
    """

    title: str = ""
    claim: str = ""
    notes: str | None = None
    links: tuple[str, ...] = ()
    challenges: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    criteria: tuple[Criterion, ...] = ()
    metrics: tuple[str, ...] = ()
    bars: tuple[Bar, ...] = ()
    evidence: tuple[Published, ...] = ()
    messages: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    crossed: tuple[Door, ...] = ()
    result: BetResult | None = None
    telling: tuple[int, ...] = ()
    matched: tuple[str | None, ...] = ()

    @property
    def told_variants(self) -> tuple[VariantResult, ...]:
        """The variants whose words are told, the mildest first."""
        return tuple(self.result.variants[at] for at in self.telling) if self.result else ()

    def to_json(self) -> dict[str, Any]:
        """Plain data; a number that JSON does not know becomes a string that `float` reads."""
        data = asdict(replace(self, result=None))
        data["bars"] = [{**bar, "value": str(bar["value"])} for bar in data["bars"]]
        data["evidence"] = [
            {
                **each,
                "figures": [
                    [name, [[metric, str(value)] for metric, value in figures]]
                    for name, figures in each["figures"]
                ],
            }
            for each in data["evidence"]
        ]
        data["result"] = self.result and self.result.to_json()
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Story:
        """Read what `to_json` wrote."""
        made: dict[str, Any] = {
            "criteria": [Criterion(**each) for each in data["criteria"]],
            "bars": [
                Bar(**{**each, "prefix": tuple(each["prefix"]), "value": float(each["value"])})
                for each in data["bars"]
            ],
            "evidence": [
                Published(**{**each, "figures": _figures_back(each["figures"])})
                for each in data["evidence"]
            ],
            "crossed": [
                Door(**{**each, "numbers": tuple(each["numbers"])}) for each in data["crossed"]
            ],
        }
        values = {**data, **made}
        result = values.pop("result")
        told: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**told, result=result and BetResult.from_json(result))


def _figures_back(figures: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(
        (name, tuple((metric, float(value)) for metric, value in each)) for name, each in figures
    )


def story(document: BetDocument, outcome: Outcome | None, root: Path) -> Story:
    """Tell a bet and what it came to; paths are named from `root`."""
    bet = document.bet
    result = outcome.result if outcome is not None else None
    telling = chosen(result, bet.criteria) if result is not None else ()
    return Story(
        title=text.plain(bet.title, LINE),
        claim=text.plain(bet.claim_line, PROSE),
        notes=bet.notes and text.plain(bet.notes, PROSE),
        links=bet.links[:20],
        challenges=bet.challenges,
        done=tuple(text.plain(each, LINE) for each in done(bet)),
        criteria=tuple(_criteria(bet.criteria, outcome)),
        metrics=tuple(_metrics(bet.criteria)),
        bars=tuple(_bars(bet.criteria)),
        evidence=tuple(_published(each) for each in bet.evidence[:20]),
        messages=tuple(_messages(outcome)) if outcome else (),
        warnings=outcome.warnings if outcome else (),
        crossed=tuple(_doors(outcome, root)) if outcome else (),
        result=result and trimmed(result, telling),
        telling=telling,
        matched=tuple(arm for arm, steps in bet.arm_interventions.items() if _matched(steps)),
    )


def done(bet: Bet) -> Iterator[str]:
    """What is done to the model: one line for each arm, with its arguments."""
    for arm, interventions in bet.arm_interventions.items():
        steps = ", then ".join(
            f"{each.kind} {_arguments(each.arguments.model_dump(mode='json', exclude_defaults=True))}"
            for each in interventions
        )
        yield steps if arm is None else f"{arm}: {steps}"


def _matched(interventions: Sequence[Intervention]) -> bool:
    """Whether the last training's loss is a distance rather than nats."""
    trained = [each.arguments for each in interventions if each.kind == "train"]
    return getattr(trained[-1], "objective", None) == "layer_output" if trained else False


def _arguments(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{key}: {_arguments(each)}" for key, each in value.items())
        return f"{{{inner}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_arguments, value))}]"
    return str(value)


def _criteria(criteria: Criteria, outcome: Outcome | None) -> Iterator[Criterion]:
    judgement = outcome.judgement if outcome is not None else None
    for level, expression in _expressions(criteria):
        evaluation = getattr(judgement, level) if judgement is not None else None
        written = text.plain(str(expression), PROSE)
        if judgement is None or evaluation is None:
            yield Criterion(level, written)
            continue
        yield Criterion(
            level,
            written,
            evaluation.truth.value,
            # The evaluation repeats the criterion before its numbers.
            text.plain(evaluation.filled.split("  ->  ", 1)[-1], PROSE),
            decided=outcome is not None and level == outcome.decided_by,
        )


def _expressions(criteria: Criteria) -> Iterator[tuple[str, Expression]]:
    for level in LEVELS:
        expression = getattr(criteria, level)
        if expression is not None:
            yield level, expression


def _metrics(criteria: Criteria) -> Iterator[str]:
    named = (
        node.parts[-1]
        for _, expression in _expressions(criteria)
        for node in parse.walk(expression.node)
        if isinstance(node, parse.Name)
    )
    return iter(dict.fromkeys(named))


def _bars(criteria: Criteria) -> Iterator[Bar]:
    for level, expression in _expressions(criteria):
        for node in parse.walk(expression.node):
            if isinstance(node, parse.Comparison):
                yield from _compared(level, node)


def _compared(level: str, node: parse.Comparison) -> Iterator[Bar]:
    for place, sign in enumerate(node.operators):
        sides = node.operands[place : place + 2]
        if isinstance(sides[0], parse.Number):
            sides, sign = sides[::-1], _TURNED.get(sign, sign)
        metric, bar = sides
        while isinstance(metric, parse.Quantifier):
            metric = metric.operand
        if isinstance(metric, parse.Name) and isinstance(bar, parse.Number) and sign in _TURNED:
            yield Bar(level, metric.parts[:-1], metric.parts[-1], sign, bar.value)


def _published(evidence: Evidence) -> Published:
    figures = {"base": evidence.base or {}, **(evidence.variants or {})}
    return Published(
        text.plain(evidence.source, LINE),
        evidence.model and text.plain(evidence.model, LINE),
        evidence.text and text.plain(evidence.text, LINE),
        evidence.verdict,
        tuple(
            (text.plain(name, 100), tuple(each.items())[:12])
            for name, each in list(figures.items())[:FIGURES]
            if each
        ),
        evidence.note and text.plain(evidence.note, PROSE),
    )


def _messages(outcome: Outcome) -> Iterator[str]:
    """What an outcome says, but for the doors, which are told one by one."""
    doors = tuple(f"{crossing.id} (" for crossing in outcome.crossed)
    return (each for each in outcome.messages if not (doors and each.startswith(doors)))


def _doors(outcome: Outcome, root: Path) -> Iterator[Door]:
    # Advice is for those who have not challenged yet.
    challenge = () if outcome.result is not None else [each.id for each in outcome.crossed]
    for crossing in outcome.crossed:
        yield _door(crossing, root, challenge)


def _door(crossing: Crossing, root: Path, challenge: Sequence[str]) -> Door:
    from pytest_layerguard.catalogue.bet_folders import shown
    from pytest_layerguard.catalogue.wording import describe_numbers

    entry = crossing.entry
    document, closes = entry.document, entry.closes
    assert closes is not None
    standing = f"{'; '.join(crossing.parts)}, on {crossing.model}"
    if crossing.doubt is not None:
        standing += f"; cannot be excluded: {crossing.doubt}"
    return Door(
        id=crossing.id,
        title=text.plain(document.bet.title, LINE),
        claim=text.plain(document.bet.claim_line, PROSE),
        file=str(shown(document.path, root)),
        line=document.line,
        closes=text.plain(
            f"{', '.join(closes.interventions)} on models with {closes.models}", LINE
        ),
        numbers=tuple(text.plain(line, PROSE) for line in describe_numbers(entry)),
        standing=text.plain(standing, PROSE),
        instead=text.plain([*crossing.lines(root, challenge=challenge)][-1].strip(), PROSE)
        if challenge
        else "",
    )


def chosen(result: BetResult, criteria: Criteria) -> tuple[int, ...]:
    """Variants whose words are worth the room, the mildest first: all of a few, else both ends."""
    count = len(result.variants)
    metric = next(
        (name for name in _metrics(criteria) if all(name in v.metrics for v in result.variants)),
        "perplexity_ratio",
    )
    known = METRICS.get(metric)
    sign = -1 if known is not None and known.name in {"unique_tokens", "top1_agreement"} else 1

    def harm(at: int) -> float:
        interval = result.variants[at].metrics.get(metric)
        return sign * interval.value if interval is not None else math.inf

    ranked = sorted(range(count), key=harm)
    if count <= TELLING:
        return tuple(ranked)
    return (*ranked[: TELLING - 2], *ranked[-2:])


def trimmed(result: BetResult, telling: Sequence[int]) -> BetResult:
    """Return the result without token ids, and with the words of telling variants alone."""
    kept = set(telling)
    return replace(
        result,
        bases=tuple(
            replace(base, samples=_words(base.samples), spoken=_words(base.spoken))
            for base in result.bases
        ),
        variants=tuple(
            replace(
                variant,
                samples=_words(variant.samples) if at in kept else (),
                spoken=_words(variant.spoken) if at in kept else (),
                profile=_profile(variant.profile) if at in kept else None,
                diagnostics=variant.diagnostics if at in kept else {},
                note=variant.note and text.plain(variant.note, LINE),
            )
            for at, variant in enumerate(result.variants)
        ),
    )


def _words(spoken: Sequence[Continuation]) -> tuple[Continuation, ...]:
    return tuple(
        replace(
            each,
            prompt=text.block(each.prompt, LINE),
            text=text.block(each.text, SAMPLE),
            token_ids=(),
        )
        for each in spoken[:PROMPTS]
    )


def _profile(profile: LossProfile | None) -> LossProfile | None:
    if profile is None:
        return None
    tokens = tuple(
        replace(harm, token=text.spoken(harm.token, 40)) for harm in profile.tokens[:TOKENS]
    )
    return replace(profile, tokens=tokens)
