"""Read untrusted YAML 1.2: core scalars, the place of every key, and a bound on everything.

PyYAML implements YAML 1.1: it reads ``1e-5`` as text, ``on`` as true, ``012`` as ten, lets the last of
two equal keys win and builds Python objects for tags. Only its parser is used here. Scalars are
resolved below.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from pytest_layerguard.bet.validation import LIMITS, Location, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

_TAG: Final = "tag:yaml.org,2002:"
_TEXT: Final = f"{_TAG}str"
_PLAIN: Final = "?"
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
# Nothing that a terminal obeys, that hides, or that turns the direction of writing.
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
_LOOKS_LIKE_A_SPACE: Final = "[\xa0\u1680\u2000-\u200b\u202f\u205f\u3000]"
# Where a plain space belongs: as indentation, or after the '-' of a list or the ':' of a key.
_MISPLACED = re.compile(rf"(?m)^ *(?:- *)*(?:[^\s:#'\"]+:)?({_LOOKS_LIKE_A_SPACE})")
_SPACE_IN_KEY = re.compile(f"^{_LOOKS_LIKE_A_SPACE}|:{_LOOKS_LIKE_A_SPACE}")
_LONGEST_NUMBER: Final = 40
_LARGEST_INTEGER: Final = 2**63

_NULL = re.compile(r"(?:null|Null|NULL|~|)\Z")
_BOOL = re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")
_INT = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z")


@dataclass(frozen=True)
class Fault:
    """An error in the YAML itself. Line and column count from 1.

    ``spoils`` means that the value at ``key`` is lost, so that no other error is reported for it.
    """

    line: int
    column: int
    key: Location
    message: str
    spoils: bool = False


@dataclass
class Document:
    """One document as plain data, with the place of every key and value (from 1)."""

    line: int
    column: int
    data: Any = None
    keys: dict[Location, tuple[int, int]] = field(default_factory=dict)
    values: dict[Location, tuple[int, int]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def split_lines(text: str) -> list[str]:
    """Return the lines as YAML counts them."""
    return _LINE_BREAK.split(text)


def read_documents(text: str) -> tuple[list[Document], Fault | None]:
    """Return the documents of a text, up to the fault that ends the reading, and that fault or None."""
    documents: list[Document] = []
    reader = _Reader()
    try:
        for node in _nodes(text):
            if len(documents) == LIMITS.documents:
                message = f"has more than {LIMITS.documents} documents; split the file"
                return documents, Fault(*_place(node.start_mark), (), message)
            documents.append(reader.document(node))
            if reader.exhausted:
                break
    except _BoundError as bound:
        return documents, bound.fault
    except yaml.MarkedYAMLError as error:
        return documents, _marked(error, text)
    except yaml.reader.ReaderError as error:
        return documents, _unreadable(error, text)
    except (ValueError, OverflowError, IndexError, RecursionError) as error:
        # PyYAML raises these for escapes such as "\UFFFFFFFF" and directives such as %YAML.
        return documents, Fault(1, 1, (), f"is not YAML that can be read: {error}")
    return documents, None


class _BoundError(Exception):
    def __init__(self, message: str, mark: yaml.Mark) -> None:
        super().__init__(message)
        self.fault = Fault(*_place(mark), (), message)


class _Loader(yaml.SafeLoader):
    """Compose nodes within bounds, without resolving scalars."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own name and type
    depth: int = 0
    count: int = 0

    def compose_scalar_node(self, anchor: dict[Any, Node]) -> ScalarNode:
        event = self.get_event()  # type: ignore[no-untyped-call]
        plain = event.tag is None and event.style is None
        tag = _PLAIN if plain else _TEXT if event.tag in (None, "!") else event.tag
        node = ScalarNode(tag, event.value, event.start_mark, event.end_mark, style=event.style)
        if anchor is not None:
            self.anchors[anchor] = node
        return node

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self.count += 1
        if self.count > LIMITS.nodes:
            raise _BoundError(f"has more than {LIMITS.nodes} entries", event.start_mark)
        if self.depth >= LIMITS.depth:
            raise _BoundError(f"is nested more than {LIMITS.depth} deep", event.start_mark)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _nodes(text: str) -> Iterator[Node]:
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                yield node
    finally:
        loader.dispose()


class _Reader:
    """Convert nodes to plain data. Count entries over all documents, with aliases expanded."""

    def __init__(self) -> None:
        self.count = 0
        self.exhausted = False
        self.current = Document(1, 1)

    def document(self, node: Node) -> Document:
        self.current = Document(*_place(node.start_mark))
        self.current.data = self._data(node, (), ())
        return self.current

    def _data(self, node: Node, at: Location, above: tuple[int, ...]) -> Any:
        self.count += 1
        self.current.values.setdefault(at, _place(node.start_mark))
        if self.exhausted:
            return None
        if self.count > LIMITS.nodes:
            self.exhausted = True
            self._fault(node, at, f"has more than {LIMITS.nodes} entries, aliases expanded")
            return None
        if id(node) in above:
            self._fault(node, at, "holds itself through an alias; write it out")
            return None
        if len(above) >= LIMITS.depth:
            self._fault(node, at, f"is nested more than {LIMITS.depth} deep")
            return None
        above = (*above, id(node))
        if isinstance(node, ScalarNode):
            return self._scalar(node, at)
        if isinstance(node, SequenceNode):
            self._check_tag(node, at, f"{_TAG}seq")
            return [self._data(item, (*at, place), above) for place, item in enumerate(node.value)]
        self._check_tag(node, at, f"{_TAG}map")
        return self._mapping(node, at, above) if isinstance(node, MappingNode) else None

    def _mapping(self, node: MappingNode, at: Location, above: tuple[int, ...]) -> dict[Any, Any]:
        data: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                message = "has a list or mapping as a key; a key is one word"
                self._fault(key_node, at, message, spoils=False)
                continue
            if key_node.tag == _PLAIN and (found := _SPACE_IN_KEY.search(key_node.value)):
                meant = re.sub(f"{_LOOKS_LIKE_A_SPACE}|:.*", "", key_node.value).strip()
                self._fault(key_node, (*at, meant), _no_space(found[0]))
                continue
            key = self._scalar(key_node, at, spoils=False)
            if not isinstance(key, str):
                if key is not None or _NULL.match(key_node.value):
                    message = f"has the key {shown(key)}, which is not text; put it in quotes"
                    self._fault(key_node, at, message, spoils=False)
                continue
            place = (*at, key)
            if key in data:
                message = f"is given twice, first in line {self.current.keys[place][0]}"
                self._fault(key_node, place, f"{message}; each key once", spoils=False)
                continue
            self.current.keys[place] = _place(key_node.start_mark)
            data[key] = self._data(value_node, place, above)
        return data

    def _scalar(self, node: ScalarNode, at: Location, *, spoils: bool = True) -> Any:
        try:
            return self._value(node)
        except ValueError as error:
            self._fault(node, at, str(error), spoils=spoils)
            return None

    def _value(self, node: ScalarNode) -> object:
        if len(node.value) > LIMITS.scalar:
            raise ValueError(f"is longer than {LIMITS.scalar} characters")
        hidden = _FORBIDDEN.search(node.value)
        if hidden is not None:
            raise ValueError(
                f"holds the character U+{ord(hidden[0]):04X}; control characters and marks that "
                "turn the direction of writing are not allowed"
            )
        if node.tag == _PLAIN and re.match(_LOOKS_LIKE_A_SPACE, node.value):
            raise ValueError(_no_space(node.value))
        return _value(node.tag, node.value)

    def _check_tag(self, node: Node, at: Location, wanted: str) -> None:
        if node.tag != wanted:
            self._fault(node, at, _unknown_tag(node.tag))

    def _fault(self, node: Node, at: Location, message: str, *, spoils: bool = True) -> None:
        self.current.faults.append(Fault(*_place(node.start_mark), at, message, spoils))


def _value(tag: str, text: str) -> object:
    """Return the value of a scalar. Raises ValueError with a message for the user."""
    if tag == _TEXT:
        return text
    patterns = {"null": _NULL, "bool": _BOOL, "int": _INT, "float": _FLOAT}
    if tag == _PLAIN:
        name = next((name for name, pattern in patterns.items() if pattern.match(text)), None)
        if name is None and not _NOT_FINITE.match(text):
            return text
    else:
        name = tag.removeprefix(_TAG)
        if name not in patterns or not tag.startswith(_TAG):
            raise ValueError(_unknown_tag(tag))
        if not patterns[name].match(text) and not (name == "float" and _INT.match(text)):
            raise ValueError(f"does not have the type of its tag !!{name}")
    match name:
        case "null":
            return None
        case "bool":
            return text.lower() == "true"
        case "int" | "float":
            return _number(text, whole=name == "int")
        case _:
            raise ValueError("must be a finite number; infinity and NaN are not allowed")


def _number(text: str, *, whole: bool) -> float:
    if len(text) > _LONGEST_NUMBER:
        raise ValueError(
            f"is a number with more than {_LONGEST_NUMBER} digits; in quotes it is text"
        )
    value = int(text, {"0o": 8, "0x": 16}.get(text[:2], 10)) if whole else float(text)
    if whole and abs(value) >= _LARGEST_INTEGER:
        raise ValueError("is a whole number beyond 2^63")
    if not math.isfinite(value):
        raise ValueError("must be a finite number; this one is too large")
    return value


def _unknown_tag(tag: str) -> str:
    return f"has the tag {shown(tag)}; a bet is plain YAML: text, numbers, true, false, lists, keys"


def _place(mark: yaml.Mark) -> tuple[int, int]:
    return mark.line + 1, mark.column + 1


def _no_space(text: str) -> str:
    """Return what is wrong with the first character of a text that only looks like a space."""
    found = re.search(_LOOKS_LIKE_A_SPACE, text)
    assert found is not None
    return f"holds U+{ord(found[0]):04X}, which looks like a space and is none; type a plain space"


def _marked(error: yaml.MarkedYAMLError, text: str) -> Fault:
    mark = error.problem_mark or error.context_mark
    message = " ".join(str(part) for part in (error.context, error.problem) if part)
    line, column = _place(mark) if mark else (1, 1)
    # The parser stumbles a line or more after what it took for text.
    for number, each in reversed(list(enumerate(split_lines(text)[:line], start=1))):
        if found := _MISPLACED.search(each):
            return Fault(number, found.start(1) + 1, (), _no_space(each))
    hint = next((hint for words, hint in _HINTS.items() if words in message), "")
    return Fault(line, column, (), f"is not YAML: {message}{hint}")


_HINTS: Final = {
    "found character '\\t'": "; indent with spaces, not with a tab",
    "mapping values are not allowed here": "; quote text that has ': ' in it; begin keys of a mapping in one column",
    "expected <block end>": "; this line is indented unlike those it belongs to",
    "found unexpected end of stream": "; a quote or a bracket is not closed",
}
"""Advice for the parser's most common messages."""


def _unreadable(error: yaml.reader.ReaderError, text: str) -> Fault:
    before = text[: error.position]
    lines = split_lines(before)
    message = f"holds the character U+{ord(text[error.position]):04X}, which YAML does not allow"
    return Fault(len(lines), len(lines[-1]) + 1, (), message)
