"""Evaluate a parsed expression. Subclasses define the values and how they combine."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from pytest_layerguard.bet.criteria import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

N = TypeVar("N")
"""The type of a number's value."""

T = TypeVar("T")
"""The type of the value of something true or false."""

B = TypeVar("B")
"""The type of what a name is looked up in."""

ARITHMETIC: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


class Walker(ABC, Generic[N, T, B]):
    """Evaluate an expression from its leaves up."""

    def truth(self, node: parse.Node, binding: B) -> T:
        """Return the value of a node that is true or false."""
        match node:
            case parse.Negation():
                return self.negated(self.truth(node.operand, binding))
            case parse.Junction():
                word = "all" if node.word == "and" else "any"
                return self.joined(word, [self.truth(each, binding) for each in node.operands])
            case parse.Comparison():
                sides = [self.number(each, binding) for each in node.operands]
                return self.compared(node, sides, binding)
            case _:
                raise AssertionError(f"not a truth: {node}")

    def number(self, node: parse.Node, binding: B) -> N:
        """Return the value of a node that is a number."""
        match node:
            case parse.Number():
                return self.constant(node.value)
            case parse.Name():
                return self.named(node, binding)
            case parse.Negative():
                return self.negative(self.number(node.operand, binding))
            case parse.Arithmetic():
                left, right = self.number(node.left, binding), self.number(node.right, binding)
                return self.calculated(node.operator, left, right)
            case _:
                raise AssertionError(f"not a number: {node}")

    @abstractmethod
    def constant(self, value: float) -> N:
        """Return the value of a literal number."""

    @abstractmethod
    def named(self, name: parse.Name, binding: B) -> N:
        """Return the value of a name."""

    @abstractmethod
    def negative(self, operand: N) -> N:
        """Return ``-operand``."""

    @abstractmethod
    def calculated(self, sign: str, left: N, right: N) -> N:
        """Return ``left + right``, or another operation by its sign."""

    @abstractmethod
    def negated(self, operand: T) -> T:
        """Return ``not operand``."""

    @abstractmethod
    def joined(self, word: str, operands: Sequence[T]) -> T:
        """Return ``all`` or ``any`` of the operands."""

    @abstractmethod
    def compared(self, node: parse.Comparison, sides: Sequence[N], binding: B) -> T:
        """Return the value of a comparison of these sides."""
