"""A catalogue measured in parts on several machines, and put together again without a model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.problems import printable
from pytest_layerguard.lab.answers import Answer, given
from pytest_layerguard.lab.errors import LabError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from pytest_layerguard.bet.reading import BetDocument
    from pytest_layerguard.lab.results import BetResult

FORMAT: Final = 1
UNMEASURED: Final[Answer] = {"unmeasured": True}
"""The answer for a bet that was told on without measuring it: one that is CROSSED, say."""
_LARGEST: Final = 2**31
_MOST_NAMED: Final = 5


class ShardError(Exception):
    """Parts that do not make a whole; the text says which and what to do."""


@dataclass(frozen=True, order=True)
class Share:
    """A bet of the catalogue.

    Attributes:
        file: Where it stands, from the project's folder.
        id: Its id.
        digest: Its digest.
        model: What tells its model from others.
        cost: What measuring it costs.
        shard: Which part measures it, from 1; 0 before that is decided.
    """

    file: str
    id: str
    digest: str
    model: str
    cost: float
    shard: int = 0


def divide(shares: Iterable[Share], count: int) -> tuple[Share, ...]:
    """Deal bets out to so many parts; equal bets are dealt equally, in whatever order they come.

    The longest first, to the part that has least so far (R. L. Graham, Bounds on Multiprocessing Timing
    Anomalies, 1969: at most 4/3 - 1/(3n) of the best). Bets on one model stay together, as far as they do
    not make more than one part's fair share.
    """
    shares = sorted(shares)
    fair = sum(share.cost for share in shares) / count
    models: dict[str, list[Share]] = {}
    for share in shares:
        models.setdefault(share.model, []).append(share)
    groups = [part for group in models.values() for part in _cut(group, fair)]
    dealt: list[Share] = []
    for part, held in enumerate(_longest_first(groups, count), 1):
        dealt += [replace(share, shard=part) for group in held for share in group]
    return tuple(sorted(dealt))


def _cut(group: list[Share], fair: float) -> list[list[Share]]:
    total = sum(share.cost for share in group)
    pieces = min(len(group), -int(-total // fair)) if fair > 0 else 1
    if pieces <= 1:
        return [group]
    dealt = _longest_first([[share] for share in group], pieces)
    return [[share for single in part for share in single] for part in dealt if part]


def _longest_first(groups: list[list[Share]], count: int) -> list[list[list[Share]]]:
    parts: list[list[list[Share]]] = [[] for _ in range(count)]
    loads = [0.0] * count
    costs = [sum(share.cost for share in group) for group in groups]
    for place in sorted(range(len(groups)), key=lambda place: (-costs[place], groups[place])):
        least = min(range(count), key=loads.__getitem__)
        parts[least].append(groups[place])
        loads[least] += costs[place]
    return parts


@dataclass(frozen=True)
class Shard:
    """One part, as its JSON report has it.

    Attributes:
        index: Which it is, from 1.
        count: Of how many.
        plan: All bets of the catalogue, each with the part that measures it.
        made_by: Versions, and the digest of the code that measured.
        answers: What was said of each of its own bets, by id.
        path: The file it was read from.
    """

    index: int
    count: int
    plan: tuple[Share, ...]
    made_by: Mapping[str, str]
    answers: Mapping[str, Answer]
    path: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "format": FORMAT,
            "index": self.index,
            "of": self.count,
            "made_by": dict(self.made_by),
            "plan": [asdict(share) for share in self.plan],
            "answers": dict(self.answers),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], path: Path) -> Shard:
        """Return what `to_json` wrote; raises KeyError, TypeError or ValueError for what is not."""
        if data["format"] != FORMAT:
            raise ValueError(f"has format {data['format']!r}, not {FORMAT}")
        return cls(
            int(data["index"]),
            int(data["of"]),
            tuple(Share(**share) for share in data["plan"]),
            dict(data["made_by"]),
            {str(id_): dict(answer) for id_, answer in data["answers"].items()},
            path,
        )


def read_shards(folder: Path) -> list[Shard]:
    """Return all parts in a folder and the folders in it, as artifacts are unpacked; raises ShardError."""
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        raise ShardError(
            f"{folder}: has no JSON reports; each part writes one by --layerguard-json"
        )
    return [_read(path) for path in paths]


def _read(path: Path) -> Shard:
    try:
        if path.stat().st_size > _LARGEST:
            raise ShardError(f"{path}: has more than {_LARGEST:,} bytes")
        data = json.loads(path.read_text(encoding="utf-8"))
        if "shard" not in data:
            raise ShardError(
                f"{path}: is no report of a part: it was written without --layerguard-shard"
            )
        return Shard.from_json(data["shard"], path)
    except OSError as error:
        raise ShardError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = printable(f"{type(error).__name__}: {error}"[:200])
        raise ShardError(f"{path}: is damaged ({reason}); measure this part again") from None


def merged(
    shards: Sequence[Shard], made_by: Mapping[str, str], here: Mapping[str, Share]
) -> Mapping[str, Answer]:
    """Return what all parts together say of each bet.

    Args:
        shards: The parts.
        made_by: What measures here; of it, what a machine that only judges has.
        here: The bets of this checkout, by id.

    Raises:
        ShardError: If a part is missing or there twice, if the parts were made of different bets or by
            different versions, or of other bets than those here.
    """
    first = shards[0]
    for shard in shards[1:]:
        _refuse_stranger(first, shard)
    _refuse_other_code(first, made_by)
    _refuse_missing([shard.index for shard in shards], first.count, shards)
    _refuse_other_bets(first, here)
    answers: dict[str, Answer] = {}
    for shard in shards:
        own = {share.id for share in shard.plan if share.shard == shard.index}
        if missing := sorted(own - set(shard.answers)):
            raise ShardError(
                f"{shard.path}: part {shard.index} of {shard.count} ended before it had measured "
                f"{_named(missing)}; measure this part again"
            )
        answers |= {id_: shard.answers[id_] for id_ in own}
    return answers


def _refuse_stranger(first: Shard, other: Shard) -> None:
    between = f"{first.path} and {other.path}"
    if other.count != first.count:
        raise ShardError(
            f"{between}: are parts of different wholes, of {first.count} and of {other.count} parts"
        )
    if other.made_by != first.made_by:
        differ = sorted(
            name
            for name in {*first.made_by, *other.made_by}
            if first.made_by.get(name) != other.made_by.get(name)
        )
        told = ", ".join(
            f"{name} {first.made_by.get(name)} and {other.made_by.get(name)}" for name in differ
        )
        raise ShardError(printable(f"{between}: were measured by different versions: {told}"))
    if other.plan != first.plan:
        differing = {share.id for share in set(first.plan) ^ set(other.plan)}
        raise ShardError(
            f"{between}: were made of different bets ({_named(sorted(differing))}); "
            "measure all parts of one commit, with the same arguments"
        )


def _refuse_other_code(first: Shard, made_by: Mapping[str, str]) -> None:
    for name, version in made_by.items():
        if first.made_by.get(name) != version:
            raise ShardError(
                printable(
                    f"{first.path}: was measured by {name} {first.made_by.get(name)}; here is "
                    f"{version}, which may judge otherwise"
                )
            )


def _refuse_missing(indices: Sequence[int], count: int, shards: Sequence[Shard]) -> None:
    for index in range(1, count + 1):
        there = [str(shard.path) for shard in shards if shard.index == index]
        if not there:
            raise ShardError(f"part {index} of {count} is missing; there is {sorted(indices)}")
        if len(there) > 1:
            raise ShardError(f"part {index} of {count} is there twice: {', '.join(there)}")
    if strange := sorted(set(indices) - set(range(1, count + 1))):
        raise ShardError(f"there is a part {strange[0]} of {count}")


def _refuse_other_bets(first: Shard, here: Mapping[str, Share]) -> None:
    planned = {share.id: share for share in first.plan}
    if unknown := sorted(set(planned) - set(here)):
        raise ShardError(
            f"{first.path}: the parts were made of bets that are not here: {_named(unknown)}; merge at "
            "the commit that was measured, with the same arguments"
        )
    changed = [id_ for id_, share in planned.items() if share.digest != here[id_].digest]
    if changed:
        raise ShardError(
            f"{first.path}: other bets were measured under these ids: {_named(sorted(changed))}; merge "
            "at the commit that was measured"
        )


def _named(ids: Sequence[str]) -> str:
    named = ", ".join(ids[:_MOST_NAMED])
    return f"{named} and {len(ids) - _MOST_NAMED} more" if len(ids) > _MOST_NAMED else named


class MergedLaboratory:
    """Says of each bet what the laboratory of its part said; has no model."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = answers

    def expect(self, documents: Iterable[tuple[BetDocument, Path]]) -> None:
        """Needs no notice."""

    def measure(self, document: BetDocument, *, bets: Path) -> BetResult:
        """Return the bet's result.

        Raises:
            LabError: What its part raised, or that it did not measure the bet.
            UnavailableError: What its part raised.
        """
        answer = self._answers.get(document.bet.id, UNMEASURED)
        if answer == UNMEASURED:
            raise LabError(
                "no part has measured this bet, though the catalogue here would have it measured; "
                "merge at the commit that was measured, with its records"
            )
        return given(answer)
