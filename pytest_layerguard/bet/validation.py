"""The base of every mapping in a bet file, and validation errors in plain words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ModelWrapValidatorHandler,
    Strict,
    ValidationError,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from pytest_layerguard.bet.errors import closest, printable, suggestion

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

Location = tuple[str | int, ...]

KEY: Final = "[key]"
"""The last step of a location if the message is about the key, not its value."""

_QUOTED = re.compile(r"'([^']*)'")
_LONGEST_SHOWN: Final = 60


def shown(value: object) -> str:
    """Return a value for use in a message: short, on one line, by its YAML name."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    text = printable(str(value))
    return f"'{text[:_LONGEST_SHOWN]}...'" if len(text) > _LONGEST_SHOWN else f"'{text}'"


def refusal(
    complaints: Iterable[tuple[Location, str]] | str, *loc: str | int, offset: int | None = None
) -> ValidationError:
    """Return an error with one message at ``loc``, or with several ``(location, message)``.

    ``offset`` is the character of the text at ``loc`` that the message is about.
    """
    pairs = [(loc, complaints)] if isinstance(complaints, str) else complaints
    return ValidationError.from_exception_data(
        "bet",
        [
            InitErrorDetails(type=_complaint(message, offset), loc=place, input=None)
            for place, message in pairs
        ],
    )


def prefixed(error: ValidationError, *prefix: str | int) -> ValidationError:
    """Return a reworded error with ``prefix`` before every location."""
    return ValidationError.from_exception_data(
        "bet",
        [
            InitErrorDetails(
                type=_complaint(detail["ctx"]["message"], detail["ctx"].get("offset")),
                loc=(*prefix, *detail["loc"]),
                input=None,
            )
            for detail in error.errors()
        ],
    )


def gathered(errors: Iterable[ValidationError]) -> ValidationError:
    """Join several reworded errors into one."""
    return ValidationError.from_exception_data(
        "bet",
        [
            InitErrorDetails(
                type=_complaint(detail["ctx"]["message"], detail["ctx"].get("offset")),
                loc=detail["loc"],
                input=None,
            )
            for error in errors
            for detail in error.errors()
        ],
    )


def _complaint(message: str, offset: int | None) -> PydanticCustomError:
    context: dict[str, Any] = {"message": message}
    if offset is not None:
        context["offset"] = offset
    return PydanticCustomError("bet", "{message}", context)


def whole(value: object) -> object:
    """Return ``1e3`` as 1000, as JSON Schema does for whole numbers, and other values as they are."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, Strict(), BeforeValidator(whole)]
"""A whole number. ``1e3`` is one, ``true`` and ``"3"`` are not."""


class BetPart(BaseModel):
    """A mapping in a bet file: frozen, without unknown keys, without silent conversion."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )

    @model_validator(mode="wrap")
    @classmethod
    def _errors_for_people(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            raise reworded(error, cls.model_fields) from None


def reworded(error: ValidationError, fields: Mapping[str, FieldInfo]) -> ValidationError:
    """Return pydantic's errors for a mapping with these fields in plain words."""
    details = error.errors(include_url=False)
    inner = {detail["loc"][:-1] for detail in details}
    misspelt = {
        key
        for detail in details
        if detail["type"] == "extra_forbidden"
        for key in closest(detail["loc"][-1], fields)
    }
    return ValidationError.from_exception_data(
        "bet",
        [
            InitErrorDetails(type=_reworded(detail, fields), loc=_place(detail), input=None)
            for detail in details
            # A list that is too short only because its items are wrong is not too short.
            if not (detail["type"] == "too_short" and _holds(detail["loc"], inner))
            # A key that is only misspelt is not missing as well.
            and not (detail["type"] == "missing" and detail["loc"][-1] in misspelt)
        ],
    )


def _holds(loc: Location, inner: Iterable[Location]) -> bool:
    return any(place[: len(loc)] == loc and place for place in inner)


def _place(detail: ErrorDetails) -> Location:
    return (*detail["loc"], KEY) if detail["type"] == "extra_forbidden" else detail["loc"]


def _reworded(detail: ErrorDetails, fields: Mapping[str, FieldInfo]) -> PydanticCustomError:
    context = detail.get("ctx", {})
    if detail["type"] == "bet":
        return _complaint(context["message"], context.get("offset"))
    loc = detail["loc"]
    field = fields.get(str(loc[0])) if loc else None
    return _complaint(_message(detail, context, fields, field), None)


def _message(
    detail: ErrorDetails,
    context: Mapping[str, Any],
    fields: Mapping[str, FieldInfo],
    field: FieldInfo | None,
) -> str:
    value = detail["input"]
    meaning = f"; {field.description}" if field is not None and field.description else ""
    match detail["type"]:
        case "extra_forbidden":
            key = detail["loc"][-1]
            if key == "<<":
                return "merge keys ('<<') are not part of YAML 1.2; write the keys out"
            return f"unknown key{suggestion(key, fields) or ';'} allowed: {', '.join(fields)}"
        case "missing":
            return f"is missing{meaning}"
        case "model_type" | "model_attributes_type" | "dict_type":
            keys = "" if detail["loc"] else f" with the keys {', '.join(fields)}"
            return f"must be a mapping{keys}, not {shown(value)}{meaning}"
        case "literal_error":
            allowed = _QUOTED.findall(context["expected"])
            close = suggestion(value, allowed) or ";"
            return f"must not be {shown(value)}{close} allowed: {', '.join(allowed)}"
        case "string_pattern_mismatch":
            return f"must not be {shown(value)}{meaning}"
        case kind if kind in _WORDS:
            wanted = _WORDS[kind].format_map({key: shown(bound) for key, bound in context.items()})
            return f"must be {wanted}, not {shown(value)}{meaning}"
        case _:
            return f"{detail['msg'][0].lower()}{detail['msg'][1:]}{meaning}"


_WORDS: Final[Mapping[str, str]] = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text (in quotes where YAML would read it otherwise)",
    "string_too_short": "text of at least {min_length} character(s)",
    "string_too_long": "text of at most {max_length} characters",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "too_short": "a list with at least {min_length} item(s)",
    "too_long": "a list with at most {max_length} items",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}
