"""What all expressions of a bet share: how they are read, compared and written, and how they are evaluated."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Self, TypeVar

from pydantic_core import CoreSchema, core_schema

from pytest_layerguard.bet.criteria import parse
from pytest_layerguard.bet.criteria.parse import CriterionError
from pytest_layerguard.bet.validation import invalid, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler


@dataclass(frozen=True, repr=False)
class Parsed(ABC):
    """An expression with its text and its tree. Two spellings of one tree are equal."""

    text: str = field(compare=False)
    node: parse.Node

    example: ClassVar[str]
    """A correct expression, for error messages."""

    @classmethod
    @abstractmethod
    def parse(cls, text: str) -> Self:
        """Return the expression. Raises CriterionError with the column of the error."""

    @property
    def canonical(self) -> str:
        """The canonical spelling of the tree."""
        return parse.written(self.node)

    def __str__(self) -> str:
        """Return the text on one line."""
        return " ".join(self.text.split())

    def __repr__(self) -> str:
        """Return the call that makes the expression."""
        return f"{type(self).__name__}.parse({str(self)!r})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls._validated,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda expression: expression.canonical
            ),
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": parse.LONGEST}

    @classmethod
    def _validated(cls, value: object) -> Self:
        if isinstance(value, cls):
            return value
        if not isinstance(value, str):
            raise invalid(f"must be an expression such as '{cls.example}', not {shown(value)}")
        try:
            return cls.parse(value)
        except CriterionError as error:
            raise invalid(error.message, offset=error.column) from None


COMPARISONS: Final[Mapping[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
ARITHMETIC: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
}


N = TypeVar("N")
"""The type of a number's value."""

T = TypeVar("T")
"""The type of the value of something true or false."""

B = TypeVar("B")
"""The type of what a name is looked up in."""


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
