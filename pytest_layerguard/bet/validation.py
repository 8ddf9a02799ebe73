"""The base of every mapping in a bet file, and validation errors in plain words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
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


@dataclass(frozen=True)
class Limits:
    """The largest sizes of a bet, which is untrusted text and must not exhaust a machine.

    ``nodes`` counts YAML nodes of a whole file with every alias expanded, ``depth`` their nesting,
    ``scalar`` the characters of one text. ``targets`` bounds a list of layers or pairs.
    """

    file_bytes: int = 262_144
    documents: int = 200
    nodes: int = 20_000
    depth: int = 32
    scalar: int = 20_000
    tokens: int = 10_000_000
    sample_tokens: int = 4_096
    prompts: int = 64
    steps: int = 100_000
    batch: int = 4_096
    arms: int = 16
    texts: int = 16
    tasks: int = 16
    questions: int = 1_000_000
    checkpoints: int = 256
    interventions: int = 16
    targets: int = 4_096


LIMITS: Final = Limits()

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


def invalid(
    problems: Iterable[tuple[Location, str]] | str, *loc: str | int, offset: int | None = None
) -> ValidationError:
    """Return an error with one message at ``loc``, or with several ``(location, message)``.

    ``offset`` is the character of the text at ``loc`` that the message is about.
    """
    pairs = [(loc, problems)] if isinstance(problems, str) else problems
    return _error((_problem(message, offset), place) for place, message in pairs)


def gathered(errors: Iterable[ValidationError], *prefix: str | int) -> ValidationError:
    """Join reworded errors into one, with ``prefix`` before every location."""
    return _error(
        (_problem(**detail["ctx"]), (*prefix, *detail["loc"]))
        for error in errors
        for detail in error.errors()
    )


def _problem(message: str, offset: int | None = None) -> PydanticCustomError:
    context: dict[str, Any] = {"message": message}
    if offset is not None:
        context["offset"] = offset
    return PydanticCustomError("bet", "{message}", context)


def _error(problems: Iterable[tuple[PydanticCustomError, Location]]) -> ValidationError:
    details = [InitErrorDetails(type=type_, loc=loc, input=None) for type_, loc in problems]
    return ValidationError.from_exception_data("bet", details)


def whole(value: object) -> object:
    """Return ``1e3`` as 1000, as JSON Schema does for whole numbers, and other values as they are."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, Strict(), BeforeValidator(whole)]
"""A whole number. ``1e3`` is one, ``true`` and ``"3"`` are not."""


def _plain(path: str) -> str:
    if any(ord(character) < 32 for character in path):
        raise invalid("must be one line without control characters; a path")
    if "\\" in path or PureWindowsPath(path).drive:
        raise invalid("must be written with '/', without a drive")
    if path.startswith("~"):
        raise invalid("must not start with '~'; a path relative to the bet file")
    # One spelling for one place, so that './a//b' and 'a/b' have one digest.
    return str(PurePosixPath(path))


RelativePath = Annotated[str, Field(min_length=1, max_length=1_000), AfterValidator(_plain)]
"""A path relative to the bet file. Whether it may be read is decided when it is opened."""


class BetPart(BaseModel):
    """A mapping in a bet file: frozen, without unknown keys, without silent conversion."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        serialize_by_alias=True,
    )

    @model_validator(mode="wrap")
    @classmethod
    def _plain_errors(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(value)
        except ValidationError as error:
            fields = {field.alias or name: field for name, field in cls.model_fields.items()}
            raise reworded(error, fields) from None


def reworded(error: ValidationError, fields: Mapping[str, FieldInfo]) -> ValidationError:
    """Return pydantic's errors for a mapping with these fields in plain words."""
    details = error.errors(include_url=False)
    wrong = [detail["loc"] for detail in details]
    misspelt = {
        key
        for detail in details
        if detail["type"] == "extra_forbidden"
        for key in closest(detail["loc"][-1], fields)
    }
    return _error(
        (_reworded(detail, fields), _place(detail))
        for detail in details
        # A list that is too short only because its items are wrong is not too short.
        if not (detail["type"] == "too_short" and _inside(detail["loc"], wrong))
        # A key that is only misspelt is not missing as well.
        and not (detail["type"] == "missing" and detail["loc"][-1] in misspelt)
    )


def _inside(loc: Location, places: Iterable[Location]) -> bool:
    return any(place[: len(loc)] == loc != place for place in places)


def _place(detail: ErrorDetails) -> Location:
    return (*detail["loc"], KEY) if detail["type"] == "extra_forbidden" else detail["loc"]


def _reworded(detail: ErrorDetails, fields: Mapping[str, FieldInfo]) -> PydanticCustomError:
    context = detail.get("ctx", {})
    if detail["type"] == "bet":
        return _problem(**context)
    loc = detail["loc"]
    field = fields.get(str(loc[0])) if loc else None
    return _problem(_message(detail, context, fields, field))


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
        case "too_short":
            return f"must not be empty{meaning}"
        case "too_long":
            return f"must have at most {context['max_length']} entries{meaning}"
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
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
}
