"""Check the rules between the parts of a bet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.arguments import InterchangeLayers, LoadResults, ReplaceLayers
from pytest_layerguard.bet.criteria import consistency, parse
from pytest_layerguard.bet.criteria.evaluate import NoCriteria
from pytest_layerguard.bet.criteria.metrics import METRICS, Metric
from pytest_layerguard.bet.errors import suggestion
from pytest_layerguard.bet.task_sources import LmEvalTask
from pytest_layerguard.bet.validation import KEY, invalid

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from pydantic import ValidationError

    from pytest_layerguard.bet.arguments import Arguments, Intervention
    from pytest_layerguard.bet.criteria.evaluate import Criteria, Expression
    from pytest_layerguard.bet.validation import Location

_OF_ANSWERS: Final = ("accuracy", "accuracy_change", "flips")
Parts = dict[str, Any]
Arms = dict[str | None, tuple["Intervention", ...]]


@dataclass(frozen=True)
class _Names:
    """The names that a criterion of this bet may use. None stands for the names of an invalid part."""

    arms: Arms | None
    texts: Sequence[str | None] | None
    checkpoints: Sequence[str | None] | None
    tasks: Sequence[str] | None
    sample_tokens: int | None
    generates: bool
    metrics: Mapping[str, Metric]
    choices: Collection[str] = ()
    """The tasks that are questions with choices."""

    @classmethod
    def of(cls, parts: Parts, metrics: Mapping[str, Metric]) -> _Names:
        arms: Arms | None = None
        if "intervention" in parts and "arms" in parts:
            alone = parts["intervention"]
            arms = parts["arms"] if alone is None else {None: alone}
        texts: list[str | None] | None = None
        tasks: list[str] | None = None
        choices: list[str] = []
        sample_tokens: int | None = None
        generates = True
        if "measure" in parts:
            measure = parts["measure"]
            texts = list(measure.named_texts) or [None]
            tasks = list(measure.tasks or ())
            choices = [
                name
                for name, task in (measure.tasks or {}).items()
                if not isinstance(task, LmEvalTask)
            ]
            sample_tokens = measure.sample.tokens if measure.sample else 0
            generates = measure.generate is not None
        checkpoints = list(parts["model"].checkpoints()) if "model" in parts else None
        return cls(arms, texts, checkpoints, tasks, sample_tokens, generates, metrics, choices)

    @property
    def complete(self) -> bool:
        return None not in (self.arms, self.texts, self.checkpoints, self.tasks)

    @property
    def by_dimension(self) -> dict[str, Collection[str | None]]:
        return {
            "arm": self.arms or (),
            "text": self.texts or (),
            "checkpoint": self.checkpoints or (),
        }

    @property
    def by_kind(self) -> dict[str, Collection[str | None]]:
        """The names of every kind: those of dimensions, and of tasks."""
        return {**self.by_dimension, "task": self.tasks or ()}

    @property
    def prefixes(self) -> dict[str, str]:
        """Every name, with ``arm``, ``text``, ``checkpoint`` or ``task``."""
        return {
            name: what for what, names in self.by_kind.items() for name in names if name is not None
        }

    def arms_of(self, named: parse.Name) -> Arms:
        """Return the arms that a metric ranges over."""
        arms: Arms = self.arms or {}
        return {name: done for name, done in arms.items() if name in named.prefix} or arms


def broken_rules(parts: Parts, context: Mapping[str, Any]) -> Iterator[ValidationError]:
    """Yield an error for each broken rule between parts that are valid by themselves.

    ``parts`` lacks the keys whose values are invalid. Rules about those are not checked.
    """
    names = _Names.of(parts, context.get("metrics") or METRICS)
    yield from _one_of_intervention_and_arms(parts)
    yield from _measured_here_or_elsewhere(parts)
    yield from _status(parts)
    yield from _names_apart(parts, names)
    if "criteria" in parts and not isinstance(parts["criteria"], NoCriteria):
        yield from _criteria(parts["criteria"], names)


def _one_of_intervention_and_arms(parts: Parts) -> Iterator[ValidationError]:
    if "intervention" not in parts or "arms" not in parts:
        return
    if parts["intervention"] is None and parts["arms"] is None:
        yield invalid(
            "is missing; give what is done to the model, or arms to compare several", "intervention"
        )
    elif parts["intervention"] is not None and parts["arms"] is not None:
        yield invalid("does not go with intervention; one of the two", "arms", KEY)


def _measured_here_or_elsewhere(parts: Parts) -> Iterator[ValidationError]:
    """Ask for a text, or for tasks and nothing else where results of another engine are judged."""
    if "measure" not in parts:
        return
    measure = parts["measure"]
    arms: Arms = dict(parts.get("arms") or {})
    if parts.get("intervention"):
        arms[None] = parts["intervention"]
    elsewhere = {arm: done for arm, done in arms.items() if _is_elsewhere(done)}
    if elsewhere:
        yield from _without_model(measure)
        for arm, done in arms.items():
            where: Location = ("intervention",) if arm is None else ("arms", arm)
            if arm in elsewhere:
                yield from _one_file_a_task(done[0].arguments, where, list(measure.tasks or ()))
            else:
                yield invalid("is measured here, and does not go with load_results", *where)
        return
    if measure.text is None and measure.texts is None:
        yield invalid("is missing; allowed: text, or texts for several by name", "measure", "text")
    if measure.tokens is None and measure.preset is None:
        yield invalid("is missing; how many tokens are scored", "measure", "tokens")


def _without_model(measure: Any) -> Iterator[ValidationError]:
    """Refuse what only a model could be asked for."""
    for key in sorted(measure.model_fields_set - {"tasks"}):
        message = "has no meaning beside load_results, which loads no model; tasks alone"
        yield invalid(message, "measure", key, KEY)
    if not measure.tasks:
        message = "must name the tasks that the files are of, such as {arc: {lm_eval: arc_easy}}"
        yield invalid(message, "measure")
    for name, task in (measure.tasks or {}).items():
        if not isinstance(task, LmEvalTask):
            message = "must be a task of lm-evaluation-harness beside load_results, such as {lm_eval: arc_easy}"
            yield invalid(message, "measure", "tasks", name)
            continue
        for key in sorted(task.model_fields_set - {"lm_eval", "metric"}):
            message = "has no meaning beside load_results; what was asked stands in the files"
            yield invalid(message, "measure", "tasks", name, key, KEY)


def _one_file_a_task(
    arguments: Any, where: Location, tasks: Sequence[str]
) -> Iterator[ValidationError]:
    for side in ("base", "candidate"):
        given = getattr(arguments, side)
        place = (*where, "load_results", side)
        if given.file is not None and len(tasks) > 1:
            message = f"is of one task, and the bet has {len(tasks)}; write files, one for each by name, or folder"
            yield invalid(message, *place, "file", KEY)
        if given.files is not None and set(given.files) != set(tasks):
            message = f"must have one file for each task of the bet: {', '.join(tasks)}"
            yield invalid(message, *place, "files")


def _is_elsewhere(done: Sequence[Intervention]) -> bool:
    return any(isinstance(each.arguments, LoadResults) for each in done)


def _status(parts: Parts) -> Iterator[ValidationError]:
    if parts.get("closes") is not None and parts.get("status") in ("proposed", "upheld"):
        yield invalid(
            f"has no meaning for a bet that is {parts['status']}; only a falsification closes "
            "a door (status: falsified)",
            "closes",
            KEY,
        )
    challenges = parts.get("challenges") or ()
    acknowledges = parts.get("acknowledges") or ()
    for key, ids in (("challenges", challenges), ("acknowledges", acknowledges)):
        for place, id_ in enumerate(ids):
            if id_ == parts.get("id"):
                yield invalid("is this bet itself; give the id of another", key, place)
            if id_ in ids[:place]:
                yield invalid("is listed twice; each id once", key, place)
            if key == "acknowledges" and id_ in challenges:
                yield invalid("is challenged already; one of the two", key, place)


def _names_apart(parts: Parts, names: _Names) -> Iterator[ValidationError]:
    """Refuse one name for two of arms, texts, checkpoints and tasks, which a criterion could not distinguish."""
    by_path = "model" in parts and parts["model"].paths is not None
    places: dict[str, Location] = {
        "arm": ("arms",),
        "text": ("measure", "texts"),
        "checkpoint": ("model", "paths" if by_path else "revisions"),
        "task": ("measure", "tasks"),
    }
    taken: dict[str, str] = {}
    for what, listed in names.by_kind.items():
        for name in listed:
            if name is not None and taken.setdefault(name, what) != what:
                message = f"is already the name of {'an' if taken[name] == 'arm' else 'a'} {taken[name]}; another name"
                yield invalid(message, *places[what], name, KEY)


def _criteria(criteria: Criteria, names: _Names) -> Iterator[ValidationError]:
    sound = True
    for key, expression in criteria:
        if expression is None:
            continue
        for message, column in _expression(expression, names):
            sound = False
            yield invalid(message, "criteria", key, offset=column)
    if sound and names.arms is not None and names.complete:
        shape = consistency.Shape(
            arms={name: _is_sweep(done) for name, done in names.arms.items()},
            texts=tuple(names.texts or ()),
            checkpoints=tuple(names.checkpoints or ()),
            tasks=tuple(names.tasks or ()),
            sample_tokens=names.sample_tokens or 1,
            metrics=names.metrics,
            protocols=_protocols(names.arms),
            interchanges=frozenset(
                name
                for name, done in names.arms.items()
                if isinstance(done[0].arguments, InterchangeLayers)
            ),
        )
        for key, message in consistency.contradictions(criteria, shape):
            yield invalid(message, "criteria", key)


def _expression(expression: Expression, names: _Names) -> Iterator[tuple[str, int]]:
    quantifiers = [n for n in parse.walk(expression.node) if isinstance(n, parse.Quantifier)]
    inside = {id(name) for quantifier in quantifiers for name in parse.names(quantifier)}
    for name in parse.names(expression.node):
        problem = (
            _prefix(name, names)
            or _metric(name, names)
            or _measured(name, names)
            or (None if id(name) in inside else _alone(name, names))
        )
        if problem:
            yield problem, name.column
    for quantifier in quantifiers:
        problem = _lined_up(quantifier, names)
        if problem:
            yield problem, quantifier.column


def _prefix(named: parse.Name, names: _Names) -> str | None:
    known = names.prefixes
    given: dict[str, str] = {}
    for name in named.prefix:
        if name not in known:
            if not names.complete:
                return None
            allowed = ", ".join(known) or "none here, the bet has neither arms nor names for them"
            close = suggestion(name, known) or ";"
            return f"'{name}' is no arm, text, task or checkpoint of this bet{close} allowed: {allowed}"
        what = known[name]
        if what in given:
            return f"'{named}' names two {what}s, '{given[what]}' and '{name}'; one at most"
        given[what] = name
    return None


def _metric(named: parse.Name, names: _Names) -> str | None:
    if named.metric in names.metrics:
        return None
    close = suggestion(named.metric, names.metrics) or ";"
    if not named.prefix and named.metric in names.prefixes:
        if names.prefixes[named.metric] == "task":
            return f"'{named}' is no metric; write '{named}.accuracy' or another metric of a task"
        return f"'{named}' is no metric; write '{named}.perplexity_ratio' or another of its metrics"
    return f"unknown metric '{named.metric}'{close} allowed: {', '.join(names.metrics)}"


def _measured(named: parse.Name, names: _Names) -> str | None:
    """Return why this bet does not measure a metric, or None if it does."""
    metric = names.metrics[named.metric]
    if metric.needs == "sample":
        if names.sample_tokens == 0:
            return f"'{named.metric}' is not measured; it needs measure.sample"
        return None
    if metric.needs == "generate" and not names.generates:
        return f"'{named.metric}' is not measured; it needs measure.generate"
    tasks = [name for name in named.prefix if names.prefixes.get(name) == "task"]
    if metric.needs == "tasks" and not tasks and names.tasks is not None:
        if not names.tasks:
            return f"'{named.metric}' is not measured; it needs measure.tasks"
        listed = ", ".join(f"'{task}.{named.metric}'" for task in names.tasks)
        return f"'{named.metric}' is measured on a task; write {listed}"
    if tasks and metric.needs != "tasks" and not metric.of_tasks:
        return (
            f"'{named.metric}' is not measured on the task '{tasks[0]}'; write it without the task"
        )
    if tasks and tasks[0] in names.choices and not metric.name.endswith(_OF_ANSWERS):
        return f"'{named}' is not measured; the questions of '{tasks[0]}' give accuracy and flips"
    if names.arms is None:
        return None
    if metric.needs == "protocols":
        if set(named.prefix) & set(names.arms):
            return f"'{named.metric}' belongs to two arms; write it without an arm"
        if not _protocols(names.arms):
            return (
                f"'{named.metric}' is not measured; it needs two arms, one with replace_layers and "
                "one with interchange_layers, on the same pairs"
            )
        return None
    if not tasks and any(map(_is_elsewhere, names.arms.values())):
        return f"'{named.metric}' is not measured; load_results gives the metrics of its tasks"
    for name, done in names.arms_of(named).items():
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
    alone = [(name, done[0].arguments) for name, done in arms.items() if name and len(done) == 1]
    replacing = [(name, each.pairs) for name, each in alone if isinstance(each, ReplaceLayers)]
    swapping = [(name, each.pairs) for name, each in alone if isinstance(each, InterchangeLayers)]
    if len(replacing) != 1 or len(swapping) != 1:
        return None
    (replace, replaced), (interchange, interchanged) = *replacing, *swapping
    return (replace, interchange) if replaced.written() == interchanged.written() else None


def _alone(named: parse.Name, names: _Names) -> str | None:
    """Return why a metric outside any quantifier is not one number, or None if it is."""
    arms = names.arms_of(named)
    if any(_is_sweep(done) for done in arms.values()):
        return (
            f"'{named}' has a value for each variant of the sweep; put it inside any(...), "
            "all(...), min(...), max(...) or mean(...)"
        )
    for what, several in {**names.by_dimension, "arm": arms}.items():
        if what == "arm" and names.metrics[named.metric].spans_arms:
            continue
        if len(several) > 1 and not set(several) & set(named.prefix):
            listed = ", ".join(f"{name}.{named}" for name in list(several)[:4])
            return (
                f"'{named}' has a value for each {what}; name one ({listed}) or put it inside "
                "any(...), all(...), min(...), max(...) or mean(...)"
            )
    return None


def _is_sweep(done: Sequence[Intervention]) -> bool:
    return any(each.arguments.is_sweep for each in done)


def _lined_up(node: parse.Quantifier, names: _Names) -> str | None:
    """Return why the arms inside a quantifier cannot be joined by target, or None if they can."""
    metrics = list(parse.names(node))
    if len({name.prefix for name in metrics}) < 2:
        return None
    swept = {
        str(arm): target
        for name in metrics
        for arm, done in names.arms_of(name).items()
        for each in done
        if (target := each.arguments.sweep_target)
    }
    for arm, target in swept.items():
        first, other = next(iter(swept.items()))
        if not other.may_equal(target):
            return (
                f"{node.word}(...) compares arms variant by variant, but '{first}' and '{arm}' "
                "sweep over different targets; use the same 'each' in both"
            )
    return None
