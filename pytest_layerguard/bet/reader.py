"""Read the bets of a file, or report every error in it."""

from __future__ import annotations

import re
import stat
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

from pydantic import ValidationError

from pytest_layerguard.bet.arguments import BUILTIN_KINDS, Kinds
from pytest_layerguard.bet.bet import Bet
from pytest_layerguard.bet.criteria.metrics import METRICS, Metric
from pytest_layerguard.bet.errors import BetFileError, Problem, excerpt
from pytest_layerguard.bet.validation import KEY, LIMITS, Location
from pytest_layerguard.bet.yaml import Document, Fault, read_documents, split_lines

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

_ORDER = ("line", "column", "key", "message")
_BETWEEN = re.compile(r"<[a-z]+>|\[key\]")


@dataclass(frozen=True)
class BetDocument:
    """A bet with its place: the file, the line of its first key, and the position of each key."""

    bet: Bet
    path: Path
    line: int
    places: Mapping[Location, tuple[int, int]] = field(repr=False, compare=False)
    column: int = 1

    @property
    def model_identity(self) -> str:
        """The key by which bets share a loaded model. Local paths are relative to the bet file."""
        model = self.bet.model
        local = any(source.is_local for source in model.checkpoints().values())
        return f"{model!r} {self.path.parent}" if local else repr(model)

    def position(self, *key: str | int) -> tuple[int, int]:
        """Return line and column (from 1) of a key, or of the nearest key that contains it."""
        for length in range(len(key), 0, -1):
            if key[:length] in self.places:
                return self.places[key[:length]]
        return self.line, self.column


def read_bets(
    path: Path,
    *,
    kinds: Kinds | None = None,
    metrics: Mapping[str, Metric] | None = None,
) -> tuple[BetDocument, ...]:
    """Return the bets of a file. Raises BetFileError with every error in it."""
    try:
        # Reading a pipe or a device may block for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise BetFileError([_at_start(path, "cannot be read: not a regular file")])
        with path.open("rb") as file:
            content = file.read(LIMITS.file_bytes + 1)
    except OSError as error:
        raise BetFileError([_at_start(path, f"cannot be read: {error.strerror}")]) from None
    return parse_bets(content, path, kinds=kinds, metrics=metrics)


def parse_bets(
    text: str | bytes,
    path: Path,
    *,
    kinds: Kinds | None = None,
    metrics: Mapping[str, Metric] | None = None,
    form: type[Bet] = Bet,
) -> tuple[BetDocument, ...]:
    """Return the bets of a text. ``path`` is used in messages only.

    ``kinds`` and ``metrics`` replace the built-in ones, so pass the built-in ones along with your own. ``form`` is
    what each document is read as.
    Raises BetFileError with every error in the text.
    """
    content = _decoded(text, path)
    context = {"kinds": kinds or BUILTIN_KINDS, "metrics": metrics or METRICS}
    documents, fault = read_documents(content)
    collector = _ErrorCollector(path, split_lines(content))
    found: list[BetDocument] = []
    for document in documents:
        collector.faults(document.faults)
        try:
            bet = form.model_validate(document.data, context=context)
        except ValidationError as error:
            collector.errors(error, document)
            continue
        places = {**document.values, **document.keys}
        found.append(BetDocument(bet, path, document.line, places, document.column))
    if fault is not None:
        collector.faults([fault])
    elif not documents:
        collector.add(1, 1, "", "is empty; a bet starts with 'id:'")
    collector.problems.extend(duplicate_ids(found, collector.lines))
    if collector.problems:
        raise BetFileError(sorted(set(collector.problems), key=attrgetter(*_ORDER)))
    return tuple(found)


def one_bet(documents: Sequence[BetDocument], path: Path, id_: str | None) -> BetDocument:
    """Return the bet of an id, or the only one of a file. Raises ValueError if there is none, or several."""
    found = [each for each in documents if id_ in (None, each.bet.id)]
    there = ", ".join(each.bet.id for each in documents)
    if not found:
        raise ValueError(f"{path} has no bet {id_!r}; its bets: {there}")
    if len(found) > 1:
        raise ValueError(f"{path} has {len(found)} bets; say which one by its id: {there}")
    return found[0]


def duplicate_ids(
    documents: Iterable[BetDocument], lines: list[str] | None = None
) -> list[Problem]:
    """Return a problem for each bet with the id of an earlier one, in one file or several."""
    first: dict[str, BetDocument] = {}
    problems = []
    for document in documents:
        earlier = first.setdefault(document.bet.id, document)
        if earlier is document:
            continue
        line, column = document.position("id")
        message = (
            f"'{document.bet.id}' is already the id of the bet at {earlier.path}:{earlier.line}; "
            "give one of the two another"
        )
        shown = _excerpt(lines, line, column) if lines is not None else _excerpt_of(document)
        problems.append(Problem(document.path, line, column, "id", message, shown))
    return problems


def _decoded(text: str | bytes, path: Path) -> str:
    if isinstance(text, str):
        text = text.encode("utf-8", "surrogatepass")
    if len(text) > LIMITS.file_bytes:
        size = LIMITS.file_bytes // 1024
        raise BetFileError([_at_start(path, f"is larger than {size} KiB, too large for bets")])
    if text.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in text[:4]:
        raise BetFileError([_at_start(path, "is UTF-16 or UTF-32; save it as UTF-8")])
    if b"\0" in text:
        raise BetFileError([_at_start(path, "is binary; a bet file is UTF-8 text")])
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        good = split_lines(text[: error.start].decode("utf-8-sig", "replace"))
        message = f"is not UTF-8: byte 0x{text[error.start]:02x}; save it as UTF-8"
        raise BetFileError([Problem(path, len(good), len(good[-1]) + 1, "", message)]) from None


def _at_start(path: Path, message: str) -> Problem:
    return Problem(path, 1, 1, "", message)


class _ErrorCollector:
    """Collect the errors of one file, each with its place and line."""

    def __init__(self, path: Path, lines: list[str]) -> None:
        self.path = path
        self.lines = lines
        self.problems: list[Problem] = []

    def add(self, line: int, column: int, key: str, message: str) -> None:
        shown = _excerpt(self.lines, line, column)
        self.problems.append(Problem(self.path, line, column, key, message, shown))

    def faults(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            self.add(fault.line, fault.column, _dotted(fault.key), fault.message)

    def errors(self, error: ValidationError, document: Document) -> None:
        spoiled = {fault.key for fault in document.faults if fault.spoils}
        for detail in error.errors(include_url=False):
            context = detail.get("ctx", {})
            at = _written(detail["loc"], document)
            if any(at[: len(key)] == key for key in spoiled):
                # The YAML error is already reported.
                continue
            line, column = self._place(
                at, document, at_key=detail["loc"][-1:] == (KEY,), offset=context.get("offset")
            )
            message = context.get("message") or detail["msg"]
            if document.data is None:
                message = "is an empty document; take out the '---' or write a bet"
            self.add(line, column, _dotted(at), message)

    def _place(
        self, at: Location, document: Document, *, at_key: bool, offset: int | None
    ) -> tuple[int, int]:
        if at in document.values and not at_key:
            line, column = document.values[at]
            text = _value(at, document)
            if offset is None or not isinstance(text, str):
                return line, column
            return self._inside(line, column, offset, text)
        while at:
            if at in document.keys:
                return document.keys[at]
            at = at[:-1]
        return document.line, document.column

    def _inside(self, line: int, column: int, offset: int, text: str) -> tuple[int, int]:
        """Return the place of the character at ``offset`` of the scalar that starts at line and column."""
        written = self.lines[line - 1][column - 1 :]
        if written.startswith(text):
            return line, column + offset
        if written[:1] in ("'", '"') and written[1:].startswith(text):
            return line, column + 1 + offset
        if written[:1] not in ("|", ">"):
            return line, column
        found = 0
        for number, raw in enumerate(self.lines[line:], start=line + 1):
            piece = raw.strip()
            at = text.find(piece, found)
            if at < 0:
                break
            if offset <= at + len(piece):
                return number, raw.find(piece) + max(0, offset - at) + 1
            found = at + len(piece)
        return line, column


def key_of(loc: Location, document: Document, *above: str) -> str:
    """Return how messages name a location: ``intervention.quantize_weights.bits`` with ``above`` intervention."""
    return _dotted((*above, *_written(loc, document)))


def _written(loc: Location, document: Document) -> Location:
    """Return a location as in the file, without the steps that pydantic inserts."""
    at: list[str | int] = []
    current = document.data
    for step in loc:
        if _has(current, step):
            current = current[step]
        elif isinstance(step, int) or _BETWEEN.fullmatch(step):
            # One where several are allowed, or the form of a union.
            continue
        else:
            current = None
        at.append(step)
    return tuple(at)


def _has(data: object, step: str | int) -> bool:
    if isinstance(data, list):
        return isinstance(step, int) and step < len(data)
    return isinstance(data, dict) and step in data


def _value(at: Location, document: Document) -> object:
    current = document.data
    for step in at:
        current = current[step]
    return current


def _dotted(at: Location) -> str:
    dotted = ""
    for step in at:
        dotted += f"[{step}]" if isinstance(step, int) else f".{step}" if dotted else step
    return dotted


def _excerpt(lines: list[str], line: int, column: int) -> str:
    return excerpt(lines[line - 1], line, column) if line <= len(lines) else ""


def _excerpt_of(document: BetDocument) -> str:
    line, column = document.position("id")
    try:
        content = document.path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return ""
    return _excerpt(split_lines(content), line, column)
