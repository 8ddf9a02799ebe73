"""The one walk over a parsed expression. What its parts stand for is up to each subclass."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from pytest_layerguard.bet import syntax

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

N = TypeVar("N")
"""What a number stands for."""

T = TypeVar("T")
"""What something true or false stands for."""

B = TypeVar("B")
"""What a name is looked up in."""

ARITHMETIC: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


class Walker(ABC, Generic[N, T, B]):
    """Walk an expression from its leaves up, with a subclass to combine what they stand for."""

    def truth(self, node: syntax.Node, binding: B) -> T:
        """Return what a node that is true or false stands for."""
        match node:
            case syntax.Negation():
                return self.negated(self.truth(node.operand, binding))
            case syntax.Junction():
                word = "all" if node.word == "and" else "any"
                return self.joined(word, [self.truth(each, binding) for each in node.operands])
            case syntax.Comparison():
                sides = [self.number(each, binding) for each in node.operands]
                return self.compared(node, sides, binding)
            case _:
                raise AssertionError(f"not a truth: {node}")

    def number(self, node: syntax.Node, binding: B) -> N:
        """Return what a node that is a number stands for."""
        match node:
            case syntax.Number():
                return self.constant(node.value)
            case syntax.Name():
                return self.named(node, binding)
            case syntax.Negative():
                return self.negative(self.number(node.operand, binding))
            case syntax.Arithmetic():
                left, right = self.number(node.left, binding), self.number(node.right, binding)
                return self.calculated(node.operator, left, right)
            case _:
                raise AssertionError(f"not a number: {node}")

    @abstractmethod
    def constant(self, value: float) -> N:
        """Return what a number that is written out stands for."""

    @abstractmethod
    def named(self, name: syntax.Name, binding: B) -> N:
        """Return what a name stands for."""

    @abstractmethod
    def negative(self, operand: N) -> N:
        """Return ``-operand``."""

    @abstractmethod
    def calculated(self, sign: str, left: N, right: N) -> N:
        """Return ``left + right`` and its like."""

    @abstractmethod
    def negated(self, operand: T) -> T:
        """Return ``not operand``."""

    @abstractmethod
    def joined(self, word: str, operands: Sequence[T]) -> T:
        """Return ``all`` or ``any`` of the operands."""

    @abstractmethod
    def compared(self, node: syntax.Comparison, sides: Sequence[N], binding: B) -> T:
        """Return what a comparison of these sides stands for."""
