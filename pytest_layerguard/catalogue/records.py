"""Records: what was measured, bound to the very text of the bet, in `bets/records/<id>.json`."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import PlainSerializer, PlainValidator, TypeAdapter, ValidationError

from pytest_layerguard.bet.bet import SLUG
from pytest_layerguard.bet.criteria.evaluate import Criteria
from pytest_layerguard.bet.criteria.interval import Truth
from pytest_layerguard.bet.criteria.parse import CriterionError
from pytest_layerguard.bet.digest import canonical, differences, digest, unplaced
from pytest_layerguard.bet.errors import printable
from pytest_layerguard.bet.text_sources import UNPINNED
from pytest_layerguard.bet.verdict import Judgement, Verdict, judge
from pytest_layerguard.catalogue.staleness import (
    candidates_known,
    digests_of,
    measured_on,
    trained_on,
)
from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.atomic_write import write_whole
from pytest_layerguard.measurement.results import BetResult

if TYPE_CHECKING:
    from pathlib import Path, PurePath

    from pytest_layerguard.bet.bet import Bet
    from pytest_layerguard.bet.criteria.scope import Fact

SCHEMA: Final = 1
FOLDER: Final = "records"
_WIDTH: Final = 100
"""The widest line of a record, if it can be broken."""
_WANTED: Final = {"string_type": "text is wanted", "mapping_type": "a mapping is wanted"}
_LARGEST: Final = 256 * 1024 * 1024
_LONGEST_VALUE: Final = 300


class RecordError(Exception):
    """A record that cannot be read or written; the text names the file and what to do."""


@dataclass(frozen=True)
class Amendment:
    """A change of a bet after its result: the digest and verdict before it, and why."""

    digest: str
    because: str
    verdict: str


@dataclass(frozen=True)
class Record:
    """What was measured of a bet.

    The fields are the keys of its file, in their order.

    Attributes:
        id: The bet's id.
        digest: The digest of the bet as it was measured.
        status: The bet's status when it was measured.
        verdict: What its own criteria say.
        challenged: Of each falsification that it challenged, whether it met its bar; of each that it
            acknowledged, whether it stayed clear of its catastrophe.
        amended: Every amendment so far, the first one first.
        closes: The door that it closed, if it did: `interventions` and `models`.
        bet: The parts that the digest covers: claim, model, intervention, measure and criteria.
        facts: The facts of each checkpoint's configuration, by name; `""` for the only one.
        result: All that was measured, with intervals, samples, profiles, digests and versions.
    """

    id: str
    digest: str
    status: str
    verdict: Verdict
    challenged: Mapping[str, Truth]
    amended: tuple[Amendment, ...]
    closes: Mapping[str, Any] | None
    bet: Mapping[str, Any]
    facts: Mapping[str, Mapping[str, Any]]
    result: Annotated[
        BetResult,
        PlainValidator(lambda data: BetResult.from_json(_mapping(data))),
        PlainSerializer(BetResult.to_json),
    ]

    @classmethod
    def of(
        cls,
        bet: Bet,
        verdict: Verdict,
        result: BetResult,
        *,
        bars: Mapping[str, Truth],
        facts: Mapping[str, Mapping[str, Fact]],
        before: Record | None,
    ) -> Record:
        """Return the record of a bet that was just measured; `before` is the one it follows."""
        amended = before.amended if before is not None else ()
        if before is not None and (amendment := before.amendment(bet)) is not None:
            amended = (*amended, amendment)
        return cls(
            id=bet.id,
            digest=digest(bet),
            bet=json.loads(canonical(bet)),
            status=bet.status,
            closes=closes_of(bet),
            verdict=verdict,
            challenged={
                name: bars[name] for name in (*bet.challenges, *bet.acknowledges) if name in bars
            },
            amended=amended,
            facts=facts,
            result=result,
        )

    @property
    def bar(self) -> Truth:
        """Whether it met the bar of everything that it challenged."""
        return Truth.all(self.challenged.values())

    @property
    def judgement(self) -> Judgement:
        """The criteria, evaluated again on the recorded numbers."""
        return judge(Criteria.model_validate(self.bet["criteria"]), self.result.rows())

    def is_of(self, bet: Bet) -> bool:
        """Return whether it is of the bet as it now stands, wherever its files now lie."""
        return self.digest == digest(bet) or not self._differences(bet)

    def amendment(self, bet: Bet) -> Amendment | None:
        """Return the bet's reason for a change after this record, or None; each reason serves once."""
        if bet.amends is None or bet.amends.digest != self.digest:
            return None
        made = Amendment(self.digest, printable(bet.amends.because), str(self.verdict))
        last = self.amended[-1] if self.amended else None
        spent = last is not None and (last.digest, last.because) == (made.digest, made.because)
        return None if spent else made

    def _differences(self, bet: Bet) -> list[tuple[str, Any, Any]]:
        before, now = dict(self.bet), json.loads(canonical(bet))
        if measured_on(self.result):
            known = {
                "trained_on": trained_on(self.result),
                "candidates": candidates_known(self.result),
            }
            before, now = (unplaced(each, **known) for each in (before, now))
        return differences(json.dumps(before), json.dumps(now))

    def changes(self, bet: Bet) -> tuple[str, ...]:
        """Return what is otherwise in the bet than it was when it was measured: ``key: old -> new``."""
        found = self._differences(bet)
        return tuple(
            f"{printable(key)}: {describe_value(old)} -> {describe_value(new)}"
            for key, old, new in found
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"schema": SCHEMA, **_adapter().dump_python(self, mode="json")}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Record:
        """Read what `to_json` returned; raises KeyError, TypeError or ValueError for anything else."""
        if data["schema"] != SCHEMA:
            raise ValueError(
                f"has schema {data['schema']!r}; this version of pytest-layerguard reads {SCHEMA}"
            )
        record = _adapter().validate_python(data)
        record._check()
        return record

    def _check(self) -> None:
        """Refuse a record that contradicts itself, after an edit by hand or a bad merge."""
        if digest_of(self.bet) != self.digest:
            raise ValueError("has a digest that is not that of the bet in it; it was edited")
        verdict = self.judgement.verdict
        if verdict is not self.verdict:
            raise ValueError(
                f"says {self.verdict}, but its numbers come to {verdict}; it was edited"
            )
        # What was measured on is compared later, and must have the form of digests.
        digests_of(self.result.provenance)

    def same_result(self, other: Record) -> bool:
        """Return whether two records are equal, apart from how long measuring took and whether it was cached."""
        return self._lasting() == other._lasting()

    def _lasting(self) -> dict[str, Any]:
        return replace(self, result=replace(self.result, seconds=0, cached=False)).to_json()


@cache
def _adapter() -> TypeAdapter[Record]:
    return TypeAdapter(Record)


def digest_of(bet: Mapping[str, Any]) -> str:
    """Return the digest of a bet's canonical data, as `bet.digest` makes it of a bet."""
    text = json.dumps(bet, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return file_digests.of_text(text)


def closes_of(bet: Bet) -> dict[str, Any] | None:
    """Return the door that a bet closes, as plain data with one spelling for each meaning."""
    if bet.closes is None:
        return None
    return {
        "interventions": sorted(bet.closes.interventions),
        "models": bet.closes.models.canonical,
    }


def path_of(bets: Path, id_: str) -> Path:
    """Return where the record of a bet lies."""
    return bets / FOLDER / f"{id_}.json"


def read_record(path: Path) -> Record:
    """Return a record; raises RecordError."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise RecordError(f"{_shown(path)}: is not a plain file; a record is committed as one")
        if status.st_size > _LARGEST:
            raise RecordError(f"{_shown(path)}: has more than {_LARGEST:,} bytes")
        return parse_record(path.read_bytes(), path)
    except OSError as error:
        raise RecordError(f"{_shown(path)}: cannot be read: {error.strerror}") from None


def parse_record(data: bytes, path: PurePath) -> Record:
    """Return the record that a file at the path holds; raises RecordError."""
    try:
        record = Record.from_json(_mapping(read_strictly(data.decode("utf-8"))))
    except KeyError as error:
        raise RecordError(f"{_shown(path)}: is no record: {error} is missing; {_ANEW}") from None
    except (ValueError, TypeError, AttributeError, CriterionError) as error:
        reason = printable(_reason(error))[:300]
        raise RecordError(f"{_shown(path)}: {reason}; {_ANEW}") from None
    if record.id != path.stem:
        raise RecordError(f"{_shown(path)}: is the record of {printable(record.id)!r}; {_ANEW}")
    return record


_LINK: Final = "is a link; records stay in the bet folder"
_ANEW: Final = "take it from the history, or delete it and run with --layerguard-record"


@dataclass(frozen=True)
class Records:
    """All records of a bet folder by id, and what is wrong with those that cannot be read.

    `refused` says why none is read at all.
    """

    found: Mapping[str, Record] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    refused: tuple[str, ...] = ()


def load_records(bets: Path) -> Records:
    """Return the records of a bet folder; a broken one hides no other."""
    folder = bets / FOLDER
    found: dict[str, Record] = {}
    broken: dict[str, str] = {}
    if folder.is_symlink():
        return Records(refused=(f"{_shown(folder)}: {_LINK}",))
    if not folder.is_dir():
        return Records()
    for path in sorted(folder.glob("*.json")):
        if path.name.startswith("."):
            continue
        try:
            found[path.stem] = read_record(path)
        except RecordError as error:
            broken[path.stem] = str(error)
    return Records(found, broken)


def write_record(bets: Path, record: Record) -> Path:
    """Write a record whole or not at all; leave an existing one with the same result.

    Raises RecordError where it cannot be written, or must not be: nothing leaves the folder, and a
    model or text that is not pinned cannot be measured a second time.
    """
    if not re.fullmatch(SLUG, record.id):
        raise RecordError(f"{printable(record.id)!r} is not the id of a bet")
    if _unpinned(record.bet):
        raise RecordError(
            f"{record.id}: cannot be recorded: a revision is {UNPINNED}, so nobody could measure "
            "the same again; write the full commit hash"
        )
    path = path_of(bets, record.id)
    if path.parent.is_symlink():
        raise RecordError(f"{_shown(path.parent)}: {_LINK}")
    try:
        if read_record(path).same_result(record):
            return path
    except RecordError:
        pass
    data = replace(record, result=replace(record.result, cached=False)).to_json()
    try:
        path.parent.mkdir(exist_ok=True)
        write_whole(path, laid_out(data))
    except OSError as error:
        raise RecordError(f"{_shown(path)}: cannot be written: {error.strerror}") from None
    return path


def describe_value(value: Any) -> str:
    """Return a value of a bet in a message: on one line and not too long."""
    if value is None:
        return "(not there)"
    text = printable(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."


def _unpinned(value: Any) -> bool:
    if isinstance(value, list):
        return any(_unpinned(each) for each in value)
    if not isinstance(value, Mapping):
        return False
    revisions = [value.get("revision"), *dict(value.get("revisions") or {}).values()]
    return UNPINNED in revisions or any(_unpinned(each) for each in value.values())


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("is no record: a mapping is wanted where something else stands")
    return value


def _reason(error: Exception) -> str:
    """Return the first line of an error, or the first key that is not as it must be."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "missing":
            return f"is no record: {key!r} is missing"
        return f"is no record: {key}: {_WANTED.get(first['type'], first['msg'])}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _shown(path: PurePath) -> str:
    return printable(str(path))


def laid_out(value: object) -> str:
    """Return the value as JSON with a line break at the end.

    Short values and lists of plain values take one line each, so that a diff shows a metric and not
    its braces. Raises ValueError for NaN and infinity.
    """
    return _laid_out(value, 0, 0) + "\n"


def _laid_out(value: object, indent: int, taken: int) -> str:
    line = json.dumps(value, allow_nan=False)
    if not isinstance(value, Mapping | list | tuple) or not value:
        return line
    if indent and (indent + taken + len(line) < _WIDTH or _is_plain(value)):
        return line
    deeper = indent + 1
    if isinstance(value, Mapping):
        keys = [f"{json.dumps(str(key))}: " for key in value]
        parts = [
            f"{key}{_laid_out(each, deeper, len(key))}"
            for key, each in zip(keys, value.values(), strict=True)
        ]
        opening, closing = "{", "}"
    else:
        parts = [_laid_out(each, deeper, 0) for each in value]
        opening, closing = "[", "]"
    inner = f",\n{' ' * deeper}".join(parts)
    return f"{opening}\n{' ' * deeper}{inner}\n{' ' * indent}{closing}"


def _is_plain(value: Mapping[Any, Any] | Sequence[Any]) -> bool:
    return isinstance(value, list | tuple) and not any(
        isinstance(each, Mapping | list | tuple) for each in value
    )


def read_strictly(text: str) -> Any:
    """Parse JSON; raises ValueError for duplicate keys, NaN, infinity and deep nesting."""
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_refused)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"has the key {twice!r} twice")
    return found


def _refused(constant: str) -> Any:
    raise ValueError(f"has the number {constant}, which JSON lacks")
