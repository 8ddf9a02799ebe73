"""Check that the criteria of one bet do not contradict each other.

Two checks complete each other: one compares the expressions by their shape (``implication``), the other
tries measurements at, between and around the bars that the criteria name. A measurement that is found
proves what can happen. If none is found, that is a proof only if every case was tried.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, product
from operator import itemgetter
from statistics import fmean
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria import parse
from pytest_layerguard.bet.criteria.evaluate import Expression, Row, RowWalker
from pytest_layerguard.bet.criteria.expression import ARITHMETIC, COMPARISONS
from pytest_layerguard.bet.criteria.implication import implies
from pytest_layerguard.bet.criteria.interval import Interval, short

if TYPE_CHECKING:
    from pytest_layerguard.bet.criteria.evaluate import Binding, Criteria
    from pytest_layerguard.bet.criteria.metrics import Metric
    from pytest_layerguard.bet.criteria.parse import Name, Node

_MOST_TRIED: Final = 1_000
_MOST_STEPS: Final = 300_000
_SWEEPS_TRIED: Final = (1, 2, 3)

Values = Sequence[float]
Function = Callable[[Values], float]
Slot = tuple[str, str | None, str | None, str | None, str]
"""What is measured, as metric, arm, text, checkpoint and target."""


@dataclass(frozen=True)
class Shape:
    """The form of a bet's measurements: its arms (and whether each sweeps), texts, checkpoints and tasks.

    ``protocols`` names the arms of a replacement and an interchange of the same pairs;
    ``interchanges`` the arms whose ``swap_kl`` is their ``kl``.
    """

    arms: Mapping[str | None, bool]
    texts: Sequence[str | None]
    checkpoints: Sequence[str | None]
    tasks: Sequence[str]
    sample_tokens: int
    metrics: Mapping[str, Metric]
    protocols: tuple[str, str] | None = None
    interchanges: frozenset[str | None] = frozenset()


def contradictions(criteria: Criteria, shape: Shape) -> Iterator[tuple[str, str]]:
    """Yield the criterion at fault and a message for each contradiction."""
    strict, lenient, catastrophic = criteria.strict, criteria.lenient, criteria.catastrophic
    follows = strict is None or implies(strict.node, lenient.node)
    found = _tried(criteria, shape, until_all=follows)
    if not follows and found.only_strict is not None:
        yield (
            "lenient",
            f"is stricter than strict: where {found.only_strict}, strict is true and lenient is "
            "false; whenever strict holds, lenient must hold too",
        )
    if catastrophic is not None and implies(lenient.node, catastrophic.node):
        yield (
            "catastrophic",
            "is true wherever lenient is, so that the claim can never hold; a catastrophic bar "
            "lies beyond the lenient one",
        )
    elif found.complete and not found.holds:
        yield "lenient", "can never hold, whatever is measured; write a claim that can be kept"
    elif found.complete and not found.fails:
        yield "lenient", "can never fail, whatever is measured; write a bet that can be lost"
    elif (
        strict is not None and catastrophic is not None and implies(strict.node, catastrophic.node)
    ):
        yield (
            "catastrophic",
            "is true wherever strict is, so that nothing can be STRICT; a catastrophic bar lies "
            "beyond the others",
        )


@dataclass
class _Found:
    """The result of the trials. ``complete`` means that every case was tried."""

    holds: bool = False
    fails: bool = False
    only_strict: str | None = None
    complete: bool = True


def _tried(criteria: Criteria, shape: Shape, *, until_all: bool) -> _Found:
    found = _Found()
    for variants in _SWEEPS_TRIED if any(shape.arms.values()) else (1,):
        trial = _Trial.of(criteria, shape, variants)
        found.complete &= trial.exhaustive
        for values in trial.measurements():
            try:
                strict, lenient, catastrophic = (truth(values) for truth in trial.truths)
            except ZeroDivisionError:
                continue
            found.holds |= bool(lenient and not catastrophic)
            found.fails |= bool(catastrophic or not lenient)
            if strict and not lenient and found.only_strict is None:
                found.only_strict = trial.describe(values)
            if found.holds and found.fails and (until_all or found.only_strict):
                return found
    # With more quantifiers than variants, some case may need more variants than were tried.
    found.complete &= _quantifiers(criteria) <= _SWEEPS_TRIED[-1]
    return found


def _expressions(criteria: Criteria) -> list[Expression]:
    every = (criteria.strict, criteria.lenient, criteria.catastrophic)
    return [expression for expression in every if expression is not None]


def _quantifiers(criteria: Criteria) -> int:
    return sum(
        isinstance(node, parse.Quantifier)
        for expression in _expressions(criteria)
        for node in parse.walk(expression.node)
    )


@dataclass
class _Trial:
    """The compiled criteria for a number of variants, with the values to try."""

    free: dict[Slot, list[float]]
    truths: list[Function]
    slots: dict[Slot, int]
    derived: list[tuple[int, Function]]
    exhaustive: bool
    most: int

    @classmethod
    def of(cls, criteria: Criteria, shape: Shape, variants: int) -> _Trial:
        expressions = _expressions(criteria)
        references = {each for expression in expressions for each in expression.references}
        metrics = sorted({_key(each, shape) for each in references})
        rows = _rows(shape, references, variants, metrics)
        slots: dict[Slot, int] = {}
        for row in rows:
            for metric in metrics:
                slots.setdefault(_slot(metric, row), len(slots))
        derived = list(_derived(slots, shape))
        compiler = _Compiler(rows, slots)
        truths = [
            compiler.truth(expression.node, None) if expression else (lambda _: 0.0)
            for expression in (criteria.strict, criteria.lenient, criteria.catastrophic)
        ]
        bars = _Bars.of(expressions)
        dependent = {place for place, _ in derived}
        free = {
            slot: bars.worth_trying(shape.metrics[_metric(slot[0])], shape.sample_tokens)
            for slot, place in slots.items()
            if place not in dependent
        }
        most = max(50, min(_MOST_TRIED, _MOST_STEPS // max(1, compiler.steps)))
        cases = math.prod(len(values) for values in free.values())
        exhaustive = cases <= most and bars.only_bars and not derived
        return cls(free, truths, slots, derived, exhaustive, most)

    def measurements(self) -> Iterator[Values]:
        """Yield possible measurements: every case if there are few, else a fixed draw of them."""
        choices = list(self.free.values())
        places = [self.slots[slot] for slot in self.free]
        values = [0.0] * len(self.slots)
        cases = math.prod(len(each) for each in choices)
        drawn = product(*choices) if cases <= self.most else islice(_draws(choices), self.most)
        for case in drawn:
            for place, value in zip(places, case, strict=True):
                values[place] = value
            for place, calculate in self.derived:
                values[place] = calculate(values)
            yield values

    def describe(self, values: Values) -> str:
        """Describe measured numbers, as in ``kl is 1 and 2``."""
        by_name: dict[str, list[str]] = {}
        for (metric, arm, text, checkpoint, _), place in self.slots.items():
            names = [name for name in (arm, text, checkpoint, metric) if name is not None]
            by_name.setdefault(".".join(names), []).append(short(values[place]))
        parts = [f"{name} is {' and '.join(numbers)}" for name, numbers in by_name.items()]
        return ", ".join(parts[:6])


def _draws(choices: Sequence[Sequence[float]]) -> Iterator[tuple[float, ...]]:
    # Seeded, so that a bet is valid in every run or in none.
    chance = random.Random(0)
    while True:
        yield tuple(chance.choice(each) for each in choices)


def _rows(shape: Shape, references: set[Name], variants: int, metrics: Sequence[str]) -> list[Row]:
    """Return a row for each name in the criteria, and for one name of each dimension that they do not use."""
    named = {name for each in references for name in each.prefix}

    def some(names: Sequence[str | None]) -> list[str | None]:
        others = [name for name in names if name not in named][:1]
        return [name for name in names if name in named] + others

    zero = {metric: Interval.point(0.0) for metric in metrics}
    return [
        Row(str(place), str(place) if shape.arms[arm] else "", arm, text, checkpoint, zero)
        for arm in some(list(shape.arms))
        for text in some(shape.texts)
        for checkpoint in some(shape.checkpoints)
        for place in range(variants if shape.arms[arm] else 1)
    ]


def _key(reference: Name, shape: Shape) -> str:
    """Return the name of a metric, after that of its task."""
    task = next((name for name in reference.prefix if name in shape.tasks), None)
    return reference.metric if task is None else f"{task}.{reference.metric}"


def _metric(key: str) -> str:
    return key.rpartition(".")[2]


def _slot(metric: str, row: Row) -> Slot:
    if _metric(metric).startswith("base_"):
        return metric, None, row.text, row.checkpoint, ""
    if metric == "protocol_gap":
        return metric, None, row.text, row.checkpoint, row.target
    return metric, row.arm, row.text, row.checkpoint, row.target


def _derived(slots: Mapping[Slot, int], shape: Shape) -> Iterator[tuple[int, Function]]:
    """Yield the numbers that the definition of the metrics derives from others."""
    for (metric, arm, text, checkpoint, target), place in slots.items():
        task, dot, name = metric.rpartition(".")
        of = f"{task}{dot}"
        base = slots.get((f"{of}base_perplexity", None, text, checkpoint, ""))
        ratio = slots.get((f"{of}perplexity_ratio", arm, text, checkpoint, target))
        swap = slots.get(("swap_kl", arm, text, checkpoint, target))
        before = slots.get((f"{of}base_accuracy", None, text, checkpoint, ""))
        change = slots.get((f"{of}accuracy_change", arm, text, checkpoint, target))
        if name == "accuracy" and before is not None and change is not None:
            yield place, _sum(before, change)
        elif name == "perplexity" and base is not None and ratio is not None:
            yield place, _product(base, ratio)
        elif metric == "kl" and arm in shape.interchanges and swap is not None:
            yield place, itemgetter(swap)
        elif metric == "protocol_gap" and shape.protocols is not None:
            pair = [
                slots.get(("swap_kl", name, text, checkpoint, target)) for name in shape.protocols
            ]
            if pair[0] is not None and pair[1] is not None:
                yield place, _difference(pair[0], pair[1])


def _product(first: int, second: int) -> Function:
    return lambda values: values[first] * values[second]


def _sum(first: int, second: int) -> Function:
    return lambda values: values[first] + values[second]


def _difference(first: int, second: int) -> Function:
    return lambda values: values[first] - values[second]


class _Compiler(RowWalker[Function, Function]):
    """Compile an expression into a function of the measured numbers."""

    def __init__(self, rows: Sequence[Row], slots: Mapping[Slot, int]) -> None:
        super().__init__(rows)
        self.slots = slots
        self.steps = 0

    def truth(self, node: Node, binding: Binding | None) -> Function:
        self.steps += 1
        return super().truth(node, binding)

    def number(self, node: Node, binding: Binding | None) -> Function:
        self.steps += 1
        return super().number(node, binding)

    def constant(self, value: float) -> Function:
        return lambda _: value

    def measured(self, metric: str, row: Row) -> Function:
        return itemgetter(self.slots[_slot(metric, row)])

    def negative(self, operand: Function) -> Function:
        return lambda values: -operand(values)

    def calculated(self, sign: str, left: Function, right: Function) -> Function:
        calculate = ARITHMETIC[sign]
        return lambda values: calculate(left(values), right(values))

    def gathered(self, word: str, numbers: Sequence[Function]) -> Function:
        gather = _GATHERED[word]
        return lambda values: gather([number(values) for number in numbers])

    def negated(self, operand: Function) -> Function:
        return lambda values: not operand(values)

    def joined(self, word: str, operands: Sequence[Function]) -> Function:
        decide = all if word == "all" else any
        return lambda values: decide(operand(values) for operand in operands)

    def quantified(self, word: str, parts: Sequence[tuple[Binding, Function]]) -> Function:
        return self.joined(word, [part for _, part in parts])

    def compared(
        self, node: parse.Comparison, sides: Sequence[Function], binding: Binding | None
    ) -> Function:
        pairs = [
            (COMPARISONS[sign], left, right)
            for sign, left, right in zip(node.operators, sides, sides[1:], strict=False)
        ]
        return lambda values: all(
            compare(left(values), right(values)) for compare, left, right in pairs
        )


_GATHERED: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {
    "min": min,
    "max": max,
    "mean": fmean,
}


@dataclass
class _Bars:
    """The numbers that the criteria compare each metric with.

    ``only_bars``: nothing but a metric is ever compared with a number, so that only the order of a
    value and the bars matters.
    """

    by_metric: dict[str, set[float]]
    only_bars: bool = True

    @classmethod
    def of(cls, expressions: Sequence[Expression]) -> _Bars:
        bars = cls({})
        for expression in expressions:
            for node in parse.walk(expression.node):
                if isinstance(node, parse.Comparison):
                    for left, right in zip(node.operands, node.operands[1:], strict=False):
                        bars.add(left, right)
        return bars

    def add(self, left: Node, right: Node) -> None:
        for side, other in ((left, right), (right, left)):
            metric = _single(side)
            if metric is not None and isinstance(other, parse.Number):
                self.by_metric.setdefault(metric, set()).add(other.value)
                return
        self.only_bars = False
        parts = [*parse.walk(left), *parse.walk(right)]
        numbers = {part.value for part in parts if isinstance(part, parse.Number)}
        for part in parts:
            if isinstance(part, parse.Name):
                self.by_metric.setdefault(part.metric, set()).update(numbers)

    def worth_trying(self, metric: Metric, sample_tokens: int) -> list[float]:
        """Return values at, between and around the bars, as the metric's definition allows."""
        bars = sorted(self.by_metric.get(metric.name, ()))
        high = min(metric.high, sample_tokens) if metric.needs == "sample" else metric.high
        if not self.only_bars:
            bars = sorted({bar * factor for bar in bars for factor in (0.5, 0.9, 1, 1.1, 2)})
            bars += [1.0, 2.0, 10.0]
        if metric.whole:
            found = {
                float(value)
                for bar in bars
                for value in range(math.floor(bar) - 1, math.ceil(bar) + 2)
            }
        else:
            found = set(bars)
            ends = sorted({*bars, *(end for end in (metric.low, high) if math.isfinite(end))})
            found.update((low + up) / 2 for low, up in pairwise(ends))
            if ends:
                found.update((ends[0] - abs(ends[0]) - 1, ends[-1] + abs(ends[-1]) + 1))
        found.update(end for end in (metric.low, high) if math.isfinite(end))
        allowed = [value for value in sorted(found) if metric.low <= value <= high]
        return allowed or [1.0]


def _single(node: Node) -> str | None:
    """Return the metric of a side that is a metric or its ``min`` or ``max``, or None for any other side."""
    if isinstance(node, parse.Quantifier) and node.word in ("min", "max"):
        node = node.operand
    return node.metric if isinstance(node, parse.Name) else None
