"""Check the rules between the parts of a bet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.arguments import InterchangeLayers, ReplaceLayers
from pytest_layerguard.bet.criteria import consistency, parse
from pytest_layerguard.bet.criteria.metrics import METRICS, Metric
from pytest_layerguard.bet.errors import suggestion
from pytest_layerguard.bet.validation import KEY, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pydantic import ValidationError

    from pytest_layerguard.bet.arguments import Arguments, Intervention
    from pytest_layerguard.bet.criteria.evaluate import Expression
    from pytest_layerguard.bet.targets import Target
    from pytest_layerguard.bet.validation import Location

Parts = dict[str, Any]
Arms = dict[str | None, tuple["Intervention", ...]]

_CRITERIA: Final = ("strict", "lenient", "catastrophic")


def objections(parts: Parts, context: Mapping[str, Any]) -> Iterator[ValidationError]:
    """Yield an error for each broken rule between parts that are valid by themselves.

    ``parts`` lacks the keys whose values are invalid. Rules about those are not checked.
    """
    metrics = context.get("metrics") or METRICS
    yield from _one_of_intervention_and_arms(parts)
    yield from _status(parts)
    yield from _names_apart(parts)
    if "criteria" in parts:
        yield from _criteria(parts, metrics)


def _one_of_intervention_and_arms(parts: Parts) -> Iterator[ValidationError]:
    if "intervention" not in parts or "arms" not in parts:
        return
    if parts["intervention"] is None and parts["arms"] is None:
        yield refusal(
            "is missing; say what is done to the model, or arms to compare several", "intervention"
        )
    elif parts["intervention"] is not None and parts["arms"] is not None:
        yield refusal("does not go with intervention; one of the two", "arms", KEY)


def _status(parts: Parts) -> Iterator[ValidationError]:
    if parts.get("closes") is not None and parts.get("status") in ("proposed", "upheld"):
        yield refusal(
            f"means nothing for a bet that is {parts['status']}; only a falsification closes "
            "a door (status: falsified)",
            "closes",
            KEY,
        )
    challenges = parts.get("challenges") or ()
    for place, challenged in enumerate(challenges):
        if challenged == parts.get("id"):
            yield refusal("is this bet itself; the id of another", "challenges", place)
        if challenged in challenges[:place]:
            yield refusal("is there twice; each id once", "challenges", place)


def _names_apart(parts: Parts) -> Iterator[ValidationError]:
    """Refuse one name for an arm, a text or a checkpoint, which a criterion could not distinguish."""
    taken: dict[str, str] = {}
    for names, loc, what in (
        (_arms(parts), ("arms",), "an arm"),
        (_texts(parts), ("measure", "texts"), "a text"),
        (_checkpoints(parts), _checkpoints_at(parts), "a checkpoint"),
    ):
        for name in names or ():
            if name is not None and taken.setdefault(name, what) != what:
                message = f"is already the name of {taken[name]}; another name"
                yield refusal(message, *loc, name, KEY)


def _arms(parts: Parts) -> Arms | None:
    if "intervention" not in parts or "arms" not in parts:
        return None
    if parts["intervention"] is not None:
        return {None: parts["intervention"]}
    arms: Arms | None = parts["arms"]
    return arms


def _texts(parts: Parts) -> list[str | None] | None:
    return list(parts["measure"].named_texts) if "measure" in parts else None


def _checkpoints(parts: Parts) -> list[str | None] | None:
    return list(parts["model"].checkpoints()) if "model" in parts else None


def _checkpoints_at(parts: Parts) -> Location:
    model = parts.get("model")
    return ("model", "paths" if model is not None and model.paths is not None else "revisions")


@dataclass(frozen=True)
class _World:
    """The names that a criterion of this bet may use. A part that is invalid itself is None."""

    arms: Arms | None
    texts: Sequence[str | None] | None
    checkpoints: Sequence[str | None] | None
    samples: bool | None
    metrics: Mapping[str, Metric]

    @property
    def names(self) -> dict[str, str]:
        """Every prefix, with ``arm``, ``text`` or ``checkpoint``."""
        return {
            name: what
            for names, what in (
                (self.arms, "arm"),
                (self.texts, "text"),
                (self.checkpoints, "checkpoint"),
            )
            for name in names or ()
            if name is not None
        }

    @property
    def complete(self) -> bool:
        return None not in (self.arms, self.texts, self.checkpoints)

    def arms_of(self, named: parse.Name) -> Arms:
        """Return the arms that a reference ranges over."""
        arms: Arms = self.arms or {}
        chosen: Arms = {name: done for name, done in arms.items() if name in named.prefix}
        return chosen or arms


def _criteria(parts: Parts, metrics: Mapping[str, Metric]) -> Iterator[ValidationError]:
    measure = parts.get("measure")
    world = _World(
        _arms(parts),
        _texts(parts),
        _checkpoints(parts),
        None if measure is None else measure.sample is not None,
        metrics,
    )
    criteria = parts["criteria"]
    sound = True
    for key in _CRITERIA:
        expression = getattr(criteria, key)
        if expression is None:
            continue
        for message, column in _expression(expression, world):
            sound = False
            yield refusal(message, "criteria", key, offset=column)
    if sound and world.arms is not None and world.complete:
        sample = measure.sample.tokens if measure is not None and measure.sample else 1
        shape = consistency.Shape(
            arms={name: _is_sweep(done) for name, done in world.arms.items()},
            texts=tuple(world.texts or ()),
            checkpoints=tuple(world.checkpoints or ()),
            sample_tokens=sample,
            metrics=metrics,
            protocols=_protocols(world.arms),
            interchanges=frozenset(
                name
                for name, done in world.arms.items()
                if isinstance(done[0].arguments, InterchangeLayers)
            ),
        )
        for key, message in consistency.contradictions(criteria, shape):
            yield refusal(message, "criteria", key)


def _expression(expression: Expression, world: _World) -> Iterator[tuple[str, int]]:
    quantifiers = [n for n in parse.walk(expression.node) if isinstance(n, parse.Quantifier)]
    inside = {id(name) for quantifier in quantifiers for name in parse.names(quantifier)}
    for name in parse.names(expression.node):
        complaint = (
            _prefix(name, world)
            or _metric(name, world)
            or _measured(name, world)
            or (None if id(name) in inside else _alone(name, world))
        )
        if complaint:
            yield complaint, name.column
    for quantifier in quantifiers:
        complaint = _lined_up(quantifier, world)
        if complaint:
            yield complaint, quantifier.column


def _prefix(named: parse.Name, world: _World) -> str | None:
    known = world.names
    seen: dict[str, str] = {}
    for name in named.prefix:
        if name not in known:
            if not world.complete:
                return None
            allowed = ", ".join(known) or "none here, the bet has neither arms nor names for them"
            close = suggestion(name, known) or ";"
            return f"'{name}' is no arm, text or checkpoint of this bet{close} allowed: {allowed}"
        what = known[name]
        if what in seen:
            return f"'{named}' names two {what}s, '{seen[what]}' and '{name}'; one at most"
        seen[what] = name
    return None


def _metric(named: parse.Name, world: _World) -> str | None:
    if named.metric in world.metrics:
        return None
    close = suggestion(named.metric, world.metrics) or ";"
    if not named.prefix and named.metric in world.names:
        return f"'{named}' is no metric; write '{named}.perplexity_ratio' or another of its metrics"
    return f"unknown metric '{named.metric}'{close} allowed: {', '.join(world.metrics)}"


def _measured(named: parse.Name, world: _World) -> str | None:
    """Return why this bet does not measure a metric, or None if it does."""
    metric = world.metrics[named.metric]
    if metric.needs == "sample":
        if world.samples is False:
            return f"'{named.metric}' is not measured; it needs measure.sample"
        return None
    if world.arms is None:
        return None
    if metric.needs == "protocols":
        if set(named.prefix) & set(world.arms):
            return f"'{named.metric}' belongs to two arms; write it without an arm"
        if not _protocols(world.arms):
            return (
                f"'{named.metric}' is not measured; it needs two arms, one with replace_layers and "
                "one with interchange_layers, on the same pairs"
            )
        return None
    for name, done in world.arms_of(named).items():
        arguments = [each.arguments for each in done]
        arm = "this bet" if name is None else f"arm '{name}'"
        if metric.needs == "pairs" and (len(arguments) > 1 or not _gives(arguments, metric)):
            return (
                f"'{named.metric}' is not measured in {arm}; it needs replace_layers or "
                "interchange_layers alone"
            )
        if metric.needs == "weights" and not _gives(arguments, metric):
            return (
                f"'{named.metric}' is not measured in {arm}; it needs an intervention that stores "
                "weights otherwise, such as prune_weights or quantize_weights"
            )
    return None


def _gives(arguments: Sequence[Arguments], metric: Metric) -> bool:
    return any(metric.name in each.measures for each in arguments)


def _protocols(arms: Arms) -> tuple[str, str] | None:
    """Return the arms of a replacement and an interchange of the same pairs, or None."""
    replacing = [(name, done[0].arguments) for name, done in arms.items() if len(done) == 1]
    found: dict[type, tuple[str, object]] = {}
    for name, arguments in replacing:
        if isinstance(arguments, ReplaceLayers | InterchangeLayers) and name is not None:
            if type(arguments) in found:
                return None
            found[type(arguments)] = (name, arguments.pairs.written())
    if set(found) != {ReplaceLayers, InterchangeLayers}:
        return None
    (replace, replaced), (interchange, interchanged) = (
        found[ReplaceLayers],
        found[InterchangeLayers],
    )
    return (replace, interchange) if replaced == interchanged else None


def _alone(named: parse.Name, world: _World) -> str | None:
    """Return why a metric outside any quantifier is not one number, or None if it is."""
    arms = world.arms_of(named)
    if any(_is_sweep(done) for done in arms.values()):
        return (
            f"'{named}' has a value for each variant of the sweep; put it inside any(...), "
            "all(...), min(...), max(...) or mean(...)"
        )
    spans_arms = world.metrics[named.metric].spans_arms
    for names, what in (
        (() if spans_arms else arms, "arm"),
        (world.texts or (), "text"),
        (world.checkpoints or (), "checkpoint"),
    ):
        if len(names) > 1 and not set(names) & set(named.prefix):
            listed = ", ".join(f"{name}.{named}" for name in list(names)[:4])
            return (
                f"'{named}' has a value for each {what}; name one ({listed}) or put it inside "
                "any(...), all(...), min(...), max(...) or mean(...)"
            )
    return None


def _is_sweep(done: Sequence[Intervention]) -> bool:
    return any(each.arguments.is_sweep for each in done)


def _lined_up(node: parse.Quantifier, world: _World) -> str | None:
    """Return why the arms inside a quantifier cannot be joined by target, or None if they can."""
    swept: dict[str, Target] = {}
    if len({name.prefix for name in parse.names(node)}) < 2:
        return None
    for name in parse.names(node):
        for arm, done in world.arms_of(name).items():
            target = next((t for each in done if (t := each.arguments.sweep_target)), None)
            if target is not None:
                swept[str(arm)] = target
    for arm, target in swept.items():
        first, other = next(iter(swept.items()))
        if not other.may_equal(target):
            return (
                f"{node.word}(...) compares arms variant by variant, but '{first}' and '{arm}' "
                "sweep over different targets; use the same 'each' in both"
            )
    return None
