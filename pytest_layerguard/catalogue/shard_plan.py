"""Divide bets among machines, and join their results."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_layerguard.bet.errors import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path


class ShardError(Exception):
    """Parts that do not make a whole; the text says which and what to do."""


@dataclass(frozen=True, order=True)
class BetCost:
    """A bet to be assigned to a part.

    Attributes:
        id: Its id.
        model: The same for bets on one model.
        cost: What measuring it costs.
    """

    id: str
    model: str
    cost: float


def divide(bets: Iterable[BetCost], count: int) -> list[list[BetCost]]:
    """Divide bets into `count` parts, the same whatever their order.

    The longest is assigned first, to the part with the least so far (R. L. Graham, Bounds on Multiprocessing
    Timing Anomalies, 1969: at most 4/3 - 1/(3n) of the best). Bets on one model stay together
    unless they cost more than one part's fair share.
    """
    bets = sorted(bets)
    fair = sum(bet.cost for bet in bets) / count
    models: dict[str, list[BetCost]] = {}
    for bet in bets:
        models.setdefault(bet.model, []).append(bet)
    groups = [part for group in models.values() for part in _cut(group, fair)]
    return _longest_first(groups, count)


def _cut(group: list[BetCost], fair: float) -> list[list[BetCost]]:
    total = sum(bet.cost for bet in group)
    pieces = min(len(group), -int(-total // fair)) if fair > 0 else 1
    if pieces <= 1:
        return [group]
    return [part for part in _longest_first([[bet] for bet in group], pieces) if part]


def _longest_first(groups: list[list[BetCost]], count: int) -> list[list[BetCost]]:
    parts: list[list[BetCost]] = [[] for _ in range(count)]
    loads = [0.0] * count
    costed = sorted((-sum(bet.cost for bet in group), group) for group in groups)
    for cost, group in costed:
        least = min(range(count), key=loads.__getitem__)
        parts[least].extend(group)
        loads[least] -= cost
    return parts


@dataclass(frozen=True)
class Shard:
    """One part, as its JSON report has it.

    Attributes:
        path: The JSON report.
        index: Which part it is, from 1.
        count: Of how many.
        reports: pytest's reports of its bets, each as JSON, by node id.
    """

    path: Path
    index: int
    count: int
    reports: Mapping[str, list[str]]


def read_shards(folder: Path) -> list[Shard]:
    """Read all parts in a folder and the folders in it, as artifacts are unpacked; raises ShardError."""
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        raise ShardError(
            f"{folder}: has no JSON reports; each part writes one by --layerguard-json"
        )
    return [_read(path) for path in paths]


def _read(path: Path) -> Shard:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if "shard" not in data:
            raise ShardError(
                f"{path}: is no report of a part: it was written without --layerguard-shard"
            )
        reports: dict[str, list[str]] = {}
        for text in data["shard"]["reports"]:
            reports.setdefault(json.loads(text)["nodeid"], []).append(text)
        return Shard(path, int(data["shard"]["index"]), int(data["shard"]["of"]), reports)
    except OSError as error:
        raise ShardError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        reason = printable(f"{type(error).__name__}: {error}"[:200])
        raise ShardError(f"{path}: is damaged ({reason}); run this part again") from None


def join(shards: Sequence[Shard]) -> dict[str, list[str]]:
    """Return the reports of all parts, by node id.

    Raises:
        ShardError: If the parts are of different divisions, if one is missing or there twice, or if two
            have judged one bet.
    """
    first = shards[0]
    parts: dict[int, Shard] = {}
    reports: dict[str, list[str]] = {}
    for shard in shards:
        if shard.count != first.count:
            raise ShardError(
                f"{first.path} and {shard.path}: are parts of different divisions, "
                f"{first.index}/{first.count} and {shard.index}/{shard.count}"
            )
        other = parts.setdefault(shard.index, shard)
        if other is not shard:
            raise ShardError(
                f"part {shard.index} of {shard.count} is there twice: {other.path}, {shard.path}"
            )
        if doubled := sorted(reports.keys() & shard.reports.keys()):
            raise ShardError(
                f"{shard.path}: another part has judged {doubled[0]} too; run all parts at one commit, "
                "with the same arguments"
            )
        reports |= shard.reports
    for index in range(1, first.count + 1):
        if index not in parts:
            raise ShardError(f"part {index} of {first.count} is missing; there is {sorted(parts)}")
    return reports
