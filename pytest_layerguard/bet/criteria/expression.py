"""The base of expressions in a bet: parsed from text, compared by tree, written in one spelling."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic_core import CoreSchema, core_schema

from pytest_layerguard.bet.criteria import parse
from pytest_layerguard.bet.criteria.parse import CriterionError, Node
from pytest_layerguard.bet.validation import refusal, shown

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler


class Parsed(ABC):
    """An expression with its text and its tree. Two spellings of one tree are equal."""

    example: ClassVar[str]
    """A correct expression, for error messages."""

    def __init__(self, text: str, node: Node) -> None:
        self.text = text
        self.node = node

    @classmethod
    @abstractmethod
    def parse(cls, text: str) -> Self:
        """Return the expression. Raises CriterionError with the column of the error."""

    @property
    def canonical(self) -> str:
        """The canonical spelling of the tree."""
        return parse.written(self.node)

    def __eq__(self, other: object) -> bool:
        """Return whether the trees are equal."""
        return isinstance(other, type(self)) and self.node == other.node

    def __hash__(self) -> int:
        """Return the hash of the tree."""
        return hash(self.node)

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
            raise refusal(f"must be an expression such as '{cls.example}', not {shown(value)}")
        try:
            return cls.parse(value)
        except CriterionError as error:
            raise refusal(error.message, offset=error.column) from None
