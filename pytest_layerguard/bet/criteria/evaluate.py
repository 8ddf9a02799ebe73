"""Criteria: expressions over metrics that are true, false or undecided on measured intervals."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from pydantic import Field

from pytest_layerguard.bet.criteria import interval as arithmetic
from pytest_layerguard.bet.criteria import parse
from pytest_layerguard.bet.criteria.expression import ARITHMETIC, N, Parsed, T, Walker
from pytest_layerguard.bet.criteria.interval import Interval, Truth
from pytest_layerguard.bet.criteria.metrics import METRICS
from pytest_layerguard.bet.criteria.parse import CriterionError, Name, Node, names
from pytest_layerguard.bet.criteria.straddle import Straddle
from pytest_layerguard.bet.validation import BetPart

_DIMENSIONS: Final = ("arm", "text", "checkpoint")
_MOST_FILLED: Final = 4
_LONGEST_FILLED: Final = 800
_LARGEST_JOIN: Final = 200_000
_GATHERED: Final[Mapping[str, Callable[[Sequence[Interval]], Interval]]] = {
    "min": arithmetic.least,
    "max": arithmetic.greatest,
    "mean": arithmetic.mean,
}

_SETTLES: Final = {"all": Truth.FALSE, "any": Truth.TRUE}
"""The truth of one part that is the truth of the whole."""
_AMONG: Final = {"min": "least", "max": "greatest", "mean": "mean"}


@dataclass(frozen=True)
class Row:
    """The measured metrics of one variant on one text and checkpoint; a task's are named ``task.metric``."""

    variant: str
    target: str
    arm: str | None
    text: str | None
    checkpoint: str | None
    metrics: Mapping[str, Interval]

    @property
    def label(self) -> str:
        """The variant's name, with arm, text and checkpoint if they have names."""
        names = [name for name in (self.arm, self.text, self.checkpoint) if name is not None]
        return ".".join([*names, self.variant])

    def key(self, named: Name) -> str:
        """Return the name by which the row has a metric: with its task, where the prefix names one."""
        of_tasks = (f"{name}.{named.metric}" for name in named.prefix)
        return next((key for key in of_tasks if key in self.metrics), named.metric)

    def carries(self, name: str) -> bool:
        """Return whether a name of a prefix is that of the row's arm, text or checkpoint, or of one of its tasks."""
        return name in (self.arm, self.text, self.checkpoint) or any(
            key.startswith(f"{name}.") for key in self.metrics
        )


@dataclass(frozen=True)
class Decider:
    """The one comparison that a truth rests on: ``skip-3``, ``best of 4``, 3.93 against ``<= 3``.

    Attributes:
        variant: The variant whose number was compared, or the prefix that names it; empty without one.
        among: Of how many it is the best, the worst, the least, the greatest or the mean; empty of one.
        metric: What was compared, as written.
        interval: The measured number.
        bar: The sign and the number that it was compared with, with its interval where that was measured too.
        margin: The distance from number to bar over what is uncertain between them; infinite where nothing is.
    """

    variant: str
    among: str
    metric: str
    interval: Interval
    bar: str
    margin: float = math.inf


@dataclass(frozen=True)
class Evaluation:
    """The truth of an expression, and its text with the measured numbers filled in."""

    truth: Truth
    filled: str
    deciders: tuple[Decider, ...]
    """The comparisons that would all have to turn for the truth to turn, or the first of those of which one would."""
    straddling: tuple[Straddle, ...] = ()

    @property
    def decider(self) -> Decider:
        """The first of them."""
        return self.deciders[0]


class Expression(Parsed):
    """A criterion."""

    example = "perplexity_ratio <= 3"

    @classmethod
    def parse(cls, text: str) -> Expression:
        """Return the criterion. Raises CriterionError with the column of the error."""
        node = parse.parse(text, quantifiers=True, texts=False)
        expression = cls(text.strip(), node)
        if not expression.references:
            raise CriterionError("names no metric, so nothing measured could change it", 0)
        return expression

    @cached_property
    def references(self) -> frozenset[Name]:
        """Every metric in the criterion, with its prefix."""
        return frozenset(names(self.node))

    def evaluate(self, rows: Sequence[Row]) -> Evaluation:
        """Evaluate the criterion on measured rows.

        Raises CriterionError if a metric is missing or ambiguous, or if the arms do not line up.
        """
        finding = _Evaluator(rows).truth(self.node, None)
        filled = f"{self}  ->  {finding.filled}"
        if len(filled) > _LONGEST_FILLED:
            filled = f"{filled[: _LONGEST_FILLED - 4]} ..."
        return Evaluation(finding.truth, filled, finding.deciders, finding.straddling)


class Criteria(BetPart):
    """When the claim holds, and when it fails beyond doubt."""

    strict: Expression | None = Field(default=None, description="when it holds with room to spare")
    lenient: Expression = Field(description="when it holds, such as 'perplexity_ratio <= 3'")
    catastrophic: Expression | None = Field(default=None, description="when it fails beyond doubt")

    @property
    def metrics(self) -> frozenset[str]:
        """The metrics that a criterion names."""
        given = (self.strict, self.lenient, self.catastrophic)
        return frozenset(each.metric for one in given if one is not None for each in one.references)


class NoCriteria(Criteria):
    """The criteria of a bet that only explores: it is not judged, and what is measured on request is measured."""

    lenient: Expression | None = None  # type: ignore[assignment]

    @property
    def metrics(self) -> frozenset[str]:
        """The built-in metrics that are measured on request."""
        return frozenset(name for name, metric in METRICS.items() if metric.needs == "criterion")


def _spans_arms(name: Name) -> bool:
    known = METRICS.get(name.metric)
    return known is not None and known.spans_arms


@dataclass(frozen=True)
class _Finding:
    truth: Truth
    filled: str
    deciders: tuple[Decider, ...]
    straddling: tuple[Straddle, ...] = ()
    distance: float = math.inf


Binding = Mapping[Name, Row]
"""The row that each metric inside a quantifier is read from."""


class RowWalker(Walker[N, T, Binding | None]):
    """Walk a criterion over measured rows, with one binding per variant inside a quantifier."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def truth(self, node: Node, binding: Binding | None) -> T:
        """Return the value of a node that is true or false."""
        if isinstance(node, parse.Quantifier):
            bindings = self.bindings(node.operand)
            parts = [(each, self.truth(node.operand, each)) for each in bindings]
            return self.quantified(node.word, parts)
        return super().truth(node, binding)

    def number(self, node: Node, binding: Binding | None) -> N:
        """Return the value of a node that is a number."""
        if isinstance(node, parse.Quantifier):
            bindings = self.bindings(node.operand)
            return self.gathered(node.word, [self.number(node.operand, each) for each in bindings])
        return super().number(node, binding)

    def named(self, name: parse.Name, binding: Binding | None) -> N:
        """Return the value of a metric, from its binding or from the only row that has it."""
        row = binding[name] if binding is not None else self.only(name)
        return self.measured(row.key(name), row)

    @abstractmethod
    def measured(self, metric: str, row: Row) -> N:
        """Return the value of a metric of a row."""

    @abstractmethod
    def gathered(self, word: str, numbers: Sequence[N]) -> N:
        """Return the ``min``, ``max`` or ``mean`` over the variants."""

    @abstractmethod
    def quantified(self, word: str, parts: Sequence[tuple[Binding, T]]) -> T:
        """Return ``all`` or ``any`` over the variants."""

    def only(self, named: Name) -> Row:
        """Return the one row of a reference. Raises CriterionError if there are none or several."""
        rows = self._selected(named)
        if len(rows) > 1:
            labels = ", ".join(row.label for row in rows[:3])
            raise CriterionError(
                f"'{named}' means {len(rows)} measurements ({labels}, ...); name one by a "
                "prefix, or range over them with any, all, min, max or mean",
                named.column,
            )
        return rows[0]

    def _selected(self, named: Name) -> list[Row]:
        """Return the rows that a reference ranges over. Raises CriterionError if there are none."""
        rows = [row for row in self.rows if all(row.carries(name) for name in named.prefix)]
        having = [row for row in rows if row.key(named) in row.metrics]
        if _spans_arms(named):
            # One value for a pair of arms: whichever arm's rows carry it, it counts once.
            having = list({(row.target, row.text, row.checkpoint): row for row in having}.values())
        elif len(having) != len(rows):
            missing = next(row for row in rows if row.key(named) not in row.metrics)
            raise CriterionError(f"'{named}' was not measured for {missing.label}", named.column)
        if not having:
            raise CriterionError(f"'{named}' was not measured", named.column)
        return having

    def bindings(self, node: Node) -> list[Binding]:
        """Return the bindings that a quantifier ranges over.

        References with different prefixes are joined by the target and by every dimension that
        neither prefix names. A reference with a single target is joined with all targets of the others.
        """
        groups: dict[tuple[tuple[str, ...], bool], list[Name]] = {}
        for name in names(node):
            key = tuple(sorted(name.prefix)), _spans_arms(name)
            groups.setdefault(key, []).append(name)
        joined: list[_Match] | None = None
        keyed: set[str] = set()
        for references in groups.values():
            rows = self._selected(references[0])
            for other in references[1:]:
                self._selected(other)
            free = self._free(references[0], rows)
            found = [_Match.of(row, free, references) for row in rows]
            if joined is not None:
                found = _natural_join(joined, found, sorted(keyed & free), references[0])
            joined = found
            keyed |= free
        return [match.binding for match in joined or ()]

    def _free(self, named: Name, rows: Sequence[Row]) -> set[str]:
        """Return the dimensions in which the rows of a reference differ."""
        free = {
            dimension
            for dimension in _DIMENSIONS
            if not any(getattr(row, dimension) in named.prefix for row in rows)
        }
        if _spans_arms(named):
            free.discard("arm")
        if len({row.target for row in rows}) > 1:
            free.add("target")
        return free


class _Evaluator(RowWalker[Interval, _Finding]):
    def constant(self, value: float) -> Interval:
        return Interval.point(value)

    def measured(self, metric: str, row: Row) -> Interval:
        return row.metrics[metric]

    def negative(self, operand: Interval) -> Interval:
        return -operand

    def calculated(self, sign: str, left: Interval, right: Interval) -> Interval:
        result: Interval = ARITHMETIC[sign](left, right)
        return result

    def gathered(self, word: str, numbers: Sequence[Interval]) -> Interval:
        return _GATHERED[word](numbers)

    def negated(self, operand: _Finding) -> _Finding:
        return replace(operand, truth=~operand.truth)

    def joined(self, word: str, operands: Sequence[_Finding]) -> _Finding:
        decide = Truth.all if word == "all" else Truth.any
        finding = _joined(decide(each.truth for each in operands), operands)
        if finding.truth is _SETTLES[word]:
            deciding = [each for each in operands if each.truth is finding.truth]
            every = tuple(decider for each in deciding for decider in each.deciders)
            finding = replace(finding, deciders=every)
        return finding

    def quantified(self, word: str, parts: Sequence[tuple[Binding, _Finding]]) -> _Finding:
        labelled = [
            replace(part, filled=f"{_label(binding)}: {part.filled}") for binding, part in parts
        ]
        finding = self.joined(word, labelled)
        deciding = [part for part in labelled if part.truth is finding.truth]
        # The best of those that met the bar lies farthest from it, the best of those that missed it closest.
        farthest = finding.truth is _SETTLES[word]
        deciders = (max if farthest else min)(deciding, key=lambda part: part.distance).deciders
        if len(parts) > 1:
            which = "best" if word == "any" else "worst"
            deciders = tuple(replace(each, among=f"{which} of {len(parts)}") for each in deciders)
        return replace(finding, deciders=deciders)

    def compared(
        self, node: parse.Comparison, sides: Sequence[Interval], binding: Binding | None
    ) -> _Finding:
        truths, straddling, distance = [], [], math.inf
        for place, sign in enumerate(node.operators):
            left, right = sides[place], sides[place + 1]
            truths.append(left.compare(sign, right))
            distance = min(distance, abs(left.value - right.value))
            if truths[-1] is Truth.UNDECIDED:
                straddling.append(self._straddle(node, place, left, right, binding))
        truth = Truth.all(truths)
        filled = self._filled(node.operands[0], sides[0], binding)
        for sign, operand, side in zip(node.operators, node.operands[1:], sides[1:], strict=True):
            filled = f"{filled} {sign} {self._filled(operand, side, binding)}"
        undecided = tuple(straddling) if truth is Truth.UNDECIDED else ()
        decider = self._decider(node, truths.index(truth), sides, binding)
        return _Finding(truth, f"{filled} is {truth.value}", (decider,), undecided, distance)

    def _decider(
        self,
        node: parse.Comparison,
        place: int,
        sides: Sequence[Interval],
        binding: Binding | None,
    ) -> Decider:
        operand, sign, side, bar = (
            node.operands[place],
            node.operators[place],
            sides[place],
            sides[place + 1],
        )
        if not any(names(operand)):
            operand, side, bar = node.operands[place + 1], bar, side
            sign = parse.MIRRORED[sign]
        variant, among, metric = self._compared(operand, binding)
        # A bar that was measured itself is no number that its author chose.
        number = (
            arithmetic.short(bar.value)
            if bar.is_point
            else f"{bar.value:.3g} [{bar.low:.3g}, {bar.high:.3g}]"
        )
        return Decider(variant, among, metric, side, f"{sign} {number}", _margin(side, bar))

    def _compared(self, node: Node, binding: Binding | None) -> tuple[str, str, str]:
        """Return the variant that a number is of, among how many, and the number's name."""
        if binding is not None:
            return _label(binding), "", parse.written(node)
        if isinstance(node, parse.Name):
            row = self.only(node)
            key = row.key(node)
            prefix = [name for name in node.prefix if not key.startswith(f"{name}.")]
            return ".".join(prefix) or row.label, "", key
        if isinstance(node, parse.Quantifier):
            count = len(self.bindings(node.operand))
            among = f"{_AMONG[node.word]} of {count}" if count > 1 else ""
            return self._extreme(node) or "", among, parse.written(node.operand)
        return "", "", parse.written(node)

    def _straddle(
        self,
        node: parse.Comparison,
        place: int,
        left: Interval,
        right: Interval,
        binding: Binding | None,
    ) -> Straddle:
        operands, sides = node.operands[place : place + 2], (left, right)
        if not any(names(operands[0])):
            operands, sides = operands[::-1], sides[::-1]
        if binding is not None:
            variant = _label(binding)
        else:
            found = [self._extreme(part) for part in parse.walk(operands[0])]
            variant = next((label for label in found if label), "")
        one = parse.Comparison(node.operands[place : place + 2], node.operators[place : place + 1])
        return Straddle(parse.written(operands[0]), variant, *sides, parse.written(one))

    def _extreme(self, node: Node) -> str | None:
        """Return the variant that a ``min``, a ``max`` or a name takes its value from, or None if there are several."""
        if isinstance(node, parse.Name):
            try:
                return self.only(node).label
            except CriterionError:
                return None
        if not isinstance(node, parse.Quantifier) or node.word not in ("min", "max"):
            return None
        choose = min if node.word == "min" else max
        bindings = self.bindings(node.operand)
        return _label(choose(bindings, key=lambda each: self.number(node.operand, each).value))

    def _filled(self, node: Node, side: Interval, binding: Binding | None) -> str:
        if isinstance(node, parse.Number):
            return parse.number(node.value)
        if isinstance(node, parse.Name):
            return str(side) if binding is not None and not node.prefix else f"{node} {side}"
        extreme = self._extreme(node) if isinstance(node, parse.Quantifier) else None
        at = f" ({extreme})" if extreme else ""
        return f"{parse.written(node)} = {side}{at}"


def _margin(side: Interval, bar: Interval) -> float:
    below, above = sorted((side, bar), key=lambda each: each.value)
    distance = above.value - below.value
    uncertain = below.high - below.value + above.value - above.low
    return distance / uncertain if uncertain > 0 and math.isfinite(distance) else math.inf


@dataclass(frozen=True)
class _Match:
    """A binding, and the values of the dimensions that it is joined by."""

    key: Mapping[str, object]
    binding: Binding

    @classmethod
    def of(cls, row: Row, free: Iterable[str], references: Iterable[Name]) -> _Match:
        return cls({name: getattr(row, name) for name in free}, dict.fromkeys(references, row))

    def at(self, names: Iterable[str]) -> tuple[object, ...]:
        return tuple(self.key[name] for name in names)

    def __or__(self, other: _Match) -> _Match:
        return _Match({**self.key, **other.key}, {**self.binding, **other.binding})


def _natural_join(
    left: Sequence[_Match], right: Sequence[_Match], common: Sequence[str], named: Name
) -> list[_Match]:
    """Return every pair that agrees in the common dimensions. Raises CriterionError if one has no partner."""
    partners: dict[tuple[object, ...], list[_Match]] = {}
    for match in right:
        partners.setdefault(match.at(common), []).append(match)
    lonely = {match.at(common): match for match in left if match.at(common) not in partners}
    known = {match.at(common) for match in left}
    lonely.update({at: found[0] for at, found in partners.items() if at not in known})
    if lonely:
        alone = _label(next(iter(lonely.values())).binding)
        raise CriterionError(
            f"around '{named}' the two sides do not line up: there is nothing beside {alone}; "
            "use the same layers or pairs in both",
            named.column,
        )
    joined: list[_Match] = []
    for match in left:
        joined.extend(match | partner for partner in partners[match.at(common)])
        if len(joined) > _LARGEST_JOIN:
            raise CriterionError("ranges over too many combinations", named.column)
    return joined


def _label(binding: Binding) -> str:
    return " / ".join(dict.fromkeys(row.label for row in binding.values()))


def _joined(truth: Truth, parts: Sequence[_Finding]) -> _Finding:
    """Return the finding of several parts, with the deciding parts as text, the closest first."""
    deciding = [part for part in parts if part.truth is truth]
    deciding.sort(key=lambda part: part.distance)
    filled = [part.filled for part in deciding[:_MOST_FILLED]]
    if len(deciding) > _MOST_FILLED:
        filled.append(f"and {len(deciding) - _MOST_FILLED} more")
    straddling = tuple(straddle for part in deciding for straddle in part.straddling)
    deciders = next(part.deciders for part in parts if part.truth is truth)
    return _Finding(truth, "; ".join(filled), deciders, straddling, deciding[0].distance)
