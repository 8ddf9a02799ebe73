"""The models that a falsification closes, as an expression over facts of a configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from pytest_layerguard.bet.criteria import parse
from pytest_layerguard.bet.criteria.expression import ARITHMETIC, Parsed, Walker
from pytest_layerguard.bet.criteria.interval import Interval, Truth
from pytest_layerguard.bet.criteria.parse import CriterionError, Node
from pytest_layerguard.bet.errors import suggestion

FACTS: Final[Mapping[str, type]] = MappingProxyType(
    {
        "parameters": float,
        "layers": float,
        "experts": float,
        "hidden_size": float,
        "family": str,
        "name": str,
    }
)
"""The names in an expression over models, and whether each is a number or text."""

Fact = float | str | None


class ModelScope(Parsed):
    """``models:`` of a falsification."""

    example = "parameters <= 1e8"

    @classmethod
    def parse(cls, text: str) -> ModelScope:
        """Return the scope. Raises CriterionError with the column of the error."""
        node = parse.parse(text, quantifiers=False, texts=True)
        for name in parse.names(node):
            _check_name(name)
        for part in parse.walk(node):
            _check(part)
        return cls(text.strip(), node)

    @property
    def facts(self) -> frozenset[str]:
        """The facts that the expression names."""
        return frozenset(map(str, parse.names(self.node)))

    def covers(self, facts: Mapping[str, Fact]) -> Truth:
        """Return whether a model with these facts is inside, undecided if a fact that counts is unknown."""
        return _Evaluator().truth(self.node, facts)


def _check_name(node: parse.Name) -> None:
    if str(node) not in FACTS:
        close = suggestion(str(node), FACTS) or ";"
        raise CriterionError(
            f"'{node}' is not known of a model{close} allowed: {', '.join(FACTS)}", node.column
        )


def _check(node: Node) -> None:
    match node:
        case parse.Comparison():
            texts = [_is_text(operand) for operand in node.operands]
            if any(texts) and not all(texts):
                raise CriterionError(
                    "compares text with a number; family and name are text in quotes, "
                    "the others are numbers",
                    node.column,
                )
            if any(texts) and set(node.operators) - {"==", "!="}:
                raise CriterionError("text can only be compared with == or !=", node.column)
        case parse.Arithmetic() | parse.Negative():
            for part in parse.parts_of(node):
                if _is_text(part):
                    raise CriterionError("is text where a number is wanted", part.column)


def _is_text(node: Node) -> bool:
    return isinstance(node, parse.Text) or (
        isinstance(node, parse.Name) and FACTS[str(node)] is str
    )


class _Evaluator(Walker["Interval | str | None", Truth, Mapping[str, Fact]]):
    """Evaluate a scope. A number or text is None if the fact is unknown."""

    def number(self, node: Node, binding: Mapping[str, Fact]) -> Interval | str | None:
        if isinstance(node, parse.Text):
            return node.value
        return super().number(node, binding)

    def constant(self, value: float) -> Interval:
        return Interval.point(value)

    def named(self, name: parse.Name, binding: Mapping[str, Fact]) -> Interval | str | None:
        fact = binding.get(str(name))
        return fact if fact is None or isinstance(fact, str) else Interval.point(float(fact))

    def negative(self, operand: Interval | str | None) -> Interval | None:
        return -operand if isinstance(operand, Interval) else None

    def calculated(
        self, sign: str, left: Interval | str | None, right: Interval | str | None
    ) -> Interval | None:
        if not isinstance(left, Interval) or not isinstance(right, Interval):
            return None
        result: Interval = ARITHMETIC[sign](left, right)
        return result

    def negated(self, operand: Truth) -> Truth:
        return ~operand

    def joined(self, word: str, operands: Sequence[Truth]) -> Truth:
        return Truth.all(operands) if word == "all" else Truth.any(operands)

    def compared(
        self,
        node: parse.Comparison,
        sides: Sequence[Interval | str | None],
        binding: Mapping[str, Fact],
    ) -> Truth:
        return Truth.all(map(_compared, node.operators, sides, sides[1:]))


def _compared(sign: str, left: Interval | str | None, right: Interval | str | None) -> Truth:
    if isinstance(left, Interval) and isinstance(right, Interval):
        return left.compare(sign, right)
    if isinstance(left, str) and isinstance(right, str):
        return Truth.of((left == right) == (sign == "=="))
    return Truth.UNDECIDED
