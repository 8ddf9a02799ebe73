"""What a bet's candidates are, from configurations and files, before anything is loaded or measured."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard import reference
from pytest_layerguard.bet.arguments import LoadCheckpoint
from pytest_layerguard.bet.bet import INIT
from pytest_layerguard.checkpoints.checkpoint import open_checkpoint
from pytest_layerguard.checkpoints.facts import CheckpointFacts
from pytest_layerguard.checkpoints.files import CONFIG, read_json
from pytest_layerguard.checkpoints.recognition import recognise_configs, recognise_once
from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.atomic_write import write_if_possible
from pytest_layerguard.environment.measurement_errors import UnavailableError
from pytest_layerguard.models.hub import Repository, whole_in_cache

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_layerguard.bet.bet import Bet
    from pytest_layerguard.bet.model_source import ModelSource
    from pytest_layerguard.environment.allowed_paths import AllowedPaths
    from pytest_layerguard.measurement.results import BetResult

_FORM: Final = 4
"""Counts the changes of what is remembered."""


@dataclass(frozen=True)
class RecognisedCandidate:
    """What one candidate is and what was done to the base to get it.

    Attributes:
        facts: What the file is, a line each; none where it cannot be read here.
        findings: Each thing that was done: the kind and a sentence.
    """

    facts: tuple[str, ...] = ()
    findings: tuple[tuple[str, str], ...] = ()


Recognised = dict[str | None, RecognisedCandidate]
"""The candidates of a bet by their arms."""


def recognised(
    bet: Bet,
    reach: AllowedPaths,
    cache: Path | None,
    known: dict[tuple[Path, Path], RecognisedCandidate],
) -> Recognised:
    """Return what every candidate of a bet is.

    Args:
        bet: The bet.
        reach: What it may read.
        cache: A folder that keeps what was found, or None.
        known: What was found in this process, by base and candidate.

    Raises:
        MeasurementError: If files are damaged, or base and candidate are no two forms of one model.
    """
    found: Recognised = {}
    for arm, interventions in bet.arm_interventions.items():
        for each in interventions:
            if isinstance(each.arguments, LoadCheckpoint):
                ways = [
                    _of_pair(base, each.arguments.source, reach, cache, known)
                    for base in bet.model.checkpoints().values()
                    if not base.name.endswith(INIT)
                ]
                findings = dict.fromkeys(one for way in ways for one in way.findings)
                facts = ways[0].facts if ways else ()
                found[arm] = RecognisedCandidate(facts, tuple(findings))
    return found


def recorded(bet: Bet, result: BetResult) -> Recognised:
    """Return what a result says of every candidate of its bet."""
    found: Recognised = {}
    for each in result.candidates():
        if each["arm"] in bet.arm_interventions:
            findings = ((one["kind"], one["sentence"]) for one in each.get("recognised", ()))
            found[each["arm"]] = RecognisedCandidate(tuple(each.get("facts", ())), tuple(findings))
    return found


def _of_pair(
    base: ModelSource,
    candidate: ModelSource,
    reach: AllowedPaths,
    cache: Path | None,
    known: dict[tuple[Path, Path], RecognisedCandidate],
) -> RecognisedCandidate:
    """Return what is recognised from files, else from configurations, else nothing."""
    one, other = _found(base, reach, "model"), _found(candidate, reach, "load_checkpoint")
    if one is None or other is None:
        return RecognisedCandidate()
    if (one, other) in known:
        return known[one, other]
    kept = None if cache is None else cache / "recognised" / f"{_key(one, other)}.json"
    made = _remembered(kept) if kept is not None else None
    if made is None:
        try:
            ours, theirs = open_checkpoint(one, base.name), open_checkpoint(other, candidate.name)
            findings = recognise_once(ours, theirs).findings
            facts = tuple(CheckpointFacts.of(theirs).lines())
        except UnavailableError:
            # Without the library that reads the weights, what the configurations say.
            if one.is_file() or other.is_file() or not (other / CONFIG).exists():
                return RecognisedCandidate()
            configs = (read_json(each / CONFIG, each.name) for each in (one, other))
            findings, facts = recognise_configs(*configs).findings, ()
        made = RecognisedCandidate(facts, tuple((each.kind, each.sentence) for each in findings))
        if kept is not None and facts:
            write_if_possible(kept, json.dumps(asdict(made)))
    known[one, other] = made
    return made


def _found(source: ModelSource, reach: AllowedPaths, key: str) -> Path | None:
    """Return the folder or file of a checkpoint, or None for one that is not on this machine."""
    match source.kind:
        case "reference":
            return reference.folder(source.name)
        case "path" | "adapter":
            return reach.directory(source.name, f"{key}.{source.kind}")
        case "gguf":
            return reach.file(source.name, f"{key}.gguf")
        case _:
            return whole_in_cache(Repository("model", source.name, source.revision))


def _key(one: Path, other: Path) -> str:
    digests = [
        file_digests.of_file(file)
        for path in (one, other)
        for file in ([path] if path.is_file() else sorted(path.iterdir()))
        if file.is_file()
    ]
    return file_digests.of_text(json.dumps([_FORM, digests])).removeprefix("sha256:")


def _remembered(path: Path) -> RecognisedCandidate | None:
    try:
        data: Mapping[str, list[list[str]]] = json.loads(path.read_text(encoding="utf-8"))
        findings = tuple((kind, sentence) for kind, sentence in data["findings"])
        return RecognisedCandidate(tuple(map(str, data["facts"])), findings)
    except (OSError, ValueError, TypeError, KeyError):
        return None
