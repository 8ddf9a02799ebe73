"""Keep the results of unchanged bets from run to run, by a digest of everything that decides them.

The digest is known without loading a model or importing torch.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest_layerguard
from pytest_layerguard import reference
from pytest_layerguard.bet.arguments import CandidateArguments
from pytest_layerguard.bet.criteria.metrics import METRICS
from pytest_layerguard.bet.digest import criteria, measured
from pytest_layerguard.bet.task_sources import LmEvalTask, ReferenceQuestions
from pytest_layerguard.bet.text_sources import UNPINNED, DatasetText, ReferenceText
from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.allowed_paths import AllowedPaths, quoted
from pytest_layerguard.environment.atomic_write import write_if_possible
from pytest_layerguard.environment.devices import nvidia_cards
from pytest_layerguard.environment.garbage_collection import no_garbage_collection
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.environment.versions import versions
from pytest_layerguard.measurement.results import FIRST_CRITERIA, BetResult
from pytest_layerguard.models.loading import model_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pytest_layerguard.bet.bet import Bet
    from pytest_layerguard.bet.model_source import ModelSource
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.bet.task_sources import QuestionFile, TaskSource
    from pytest_layerguard.bet.text_sources import FileText, LocalDatasetText, TextSource
    from pytest_layerguard.environment.conditions import Conditions
    from pytest_layerguard.interventions.registry import Registry
    from pytest_layerguard.measurement.measurer import LocalMeasurer

_FORMAT: Final = 2

_DECIDES_NO_NUMBER: Final = ("catalogue", "cli", "pytest_plugin", "report")
"""Folders of this package whose code measures nothing."""


class CachingMeasurer:
    """Returns results from the cache and measures the others; only measuring imports the measurer and torch.

    Args:
        conditions: The cache folder, whether its results are used, device and allowed roots.
        registry: The kinds of interventions.
    """

    def __init__(self, conditions: Conditions, registry: Registry) -> None:
        self._cache = ResultCache(conditions.cache) if conditions.cache is not None else None
        self._conditions = conditions
        self._registry = registry
        self._opened: LocalMeasurer | None = None
        self._expected: list[tuple[BetDocument, Path]] = []

    def expect(self, documents: Iterable[tuple[BetDocument, Path]]) -> None:
        """Announce the bets that this process will measure."""
        self._expected = list(documents)
        if self._opened is not None:
            self._announce(self._opened)

    def measure(self, document: BetDocument, *, bets: Path) -> BetResult:
        """Return the bet's result, from the cache or measured.

        Raises:
            MeasurementError: If no honest measurement can be made.
            UnavailableError: If the machine or the hub lacks what the bet needs.
        """
        if self._cache is None:
            return self._measurer().measure(document, bets=bets)
        key = identity(document, bets, self._conditions, self._registry)
        if key is None:
            return self._measurer().measure(document, bets=bets)
        now = criteria(document.bet)
        kept = self._cache.criteria(key)
        first = now if kept is None else kept
        result = self._find(key, document.bet)
        if result is None:
            result = self._measurer().measure(document, bets=bets)
            self._cache.keep(key, result, first, on_request(document.bet))
        if first == now:
            return result
        return replace(result, diagnostics={**result.diagnostics, FIRST_CRITERIA: first})

    def _find(self, key: str | None, bet: Bet) -> BetResult | None:
        if self._cache is None or key is None or self._conditions.fresh:
            return None
        return self._cache.find(key, on_request(bet))

    def _is_cached(self, document: BetDocument, bets: Path) -> bool:
        try:
            key = identity(document, bets, self._conditions, self._registry)
        except (MeasurementError, UnavailableError):
            # Reported when that bet itself is measured.
            return False
        return self._find(key, document.bet) is not None

    def _measurer(self) -> LocalMeasurer:
        if self._opened is None:
            with no_garbage_collection():
                from pytest_layerguard.measurement.measurer import LocalMeasurer

            self._opened = LocalMeasurer(self._conditions, self._registry)
            self._announce(self._opened)
        return self._opened

    def _announce(self, measurer: LocalMeasurer) -> None:
        # A cached bet must not join the sweep of those that are not.
        measurer.expect(each for each in self._expected if not self._is_cached(*each))


class ResultCache:
    """A folder of results, each under the digest of what decides it, with the criteria it was first judged by.

    An entry that is damaged, or was put under another digest, counts as none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: str, requested: frozenset[str] = frozenset()) -> BetResult | None:
        """Return the result kept under a digest, marked as cached, or None.

        None too where a metric that is measured on request was not.
        """
        entry = self._entry(key)
        if entry is None or not requested <= frozenset(entry["requested"]):
            return None
        try:
            return replace(BetResult.from_json(entry["result"]), cached=True)
        except (ValueError, KeyError, RecursionError):
            return None

    def criteria(self, key: str) -> dict[str, str] | None:
        """Return the criteria that the result kept under a digest was first judged by, or None."""
        entry = self._entry(key)
        return None if entry is None else dict(entry["criteria"])

    def _entry(self, key: str) -> dict[str, Any] | None:
        try:
            entry: dict[str, Any] = json.loads(self._path(key).read_text(encoding="utf-8"))
            content = {
                name: entry[name] for name in ("format", "key", "criteria", "requested", "result")
            }
            sound = entry["digest"] == _checksum(content)
            return entry if sound and (entry["format"], entry["key"]) == (_FORMAT, key) else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def keep(
        self,
        key: str,
        result: BetResult,
        judged_by: dict[str, str],
        requested: frozenset[str] = frozenset(),
    ) -> None:
        """Write a result, whole or not at all; nothing in a folder that cannot be written."""
        content = {
            "format": _FORMAT,
            "key": key,
            "criteria": judged_by,
            "requested": sorted(requested),
            "result": result.to_json(),
        }
        entry = {**content, "digest": _checksum(content)}
        write_if_possible(self._path(key), json.dumps(entry, sort_keys=True))

    def _path(self, key: str) -> Path:
        return self._folder / f"{key.removeprefix('sha256:')}.json"


def _checksum(content: Mapping[str, Any]) -> str:
    return file_digests.of_text(json.dumps(content, sort_keys=True))


def identity(
    document: BetDocument, bets: Path, conditions: Conditions, registry: Registry
) -> str | None:
    """Return a digest of everything that decides a bet's numbers.

    Weights, tokenizer, texts, what the bet measures, versions, the code that measures, the kind of
    device. Claim, status and criteria decide no number, but for those of `on_request`.

    Returns:
        The digest, or None where something that decides cannot be known beforehand: a revision that is
        not pinned, an intervention or a metric of another package whose code may change under one version.

    Raises:
        MeasurementError: If something that the bet names does not exist.
    """
    bet = document.bet
    if not _is_builtin(bet, registry) or registry.own_metrics(bet.criteria):
        return None
    if bet.results is not None:
        # Files are read as fast as digested.
        return None
    models = [
        model_key(bet.model, source, bet_file=document.path, bets=bets, conditions=conditions)
        for source in bet.model.checkpoints().values()
    ]
    models += [
        model_key(bet.model, source, bet_file=document.path, bets=bets, conditions=conditions)
        for source in _candidates(bet)
    ]
    reach = AllowedPaths.of(document.path, bets, conditions)
    texts = [_text_key(text, reach, conditions) for text in _texts(bet)]
    tasks = [
        _task_key(task, f"measure.tasks.{name}", reach, conditions)
        for name, task in (bet.measure.tasks or {}).items()
    ]
    if None in models or None in texts or None in tasks:
        return None
    content = {
        "bet": measured(bet),
        "models": models,
        "texts": texts,
        "tasks": tasks,
        "versions": dict(versions()),
        "machine": [platform.machine(), platform.system(), device_kind(conditions)],
        "code": code_digest(),
    }
    return file_digests.of_text(json.dumps(content, sort_keys=True))


def on_request(bet: Bet) -> frozenset[str]:
    """Return the metrics that are measured only because a criterion names them."""
    return frozenset(
        name
        for name in bet.criteria.metrics
        if name in METRICS and METRICS[name].needs == "criterion"
    )


def device_kind(conditions: Conditions) -> str:
    """Return the kind of the device, on which numbers may depend; equal GPUs are one kind."""
    if conditions.device != "cpu" and (cards := nvidia_cards()) is not None:
        return f"{conditions.device} {sorted(cards)}"
    # A named device that is missing must not get the numbers of another.
    return "cpu" if conditions.device == "auto" and sys.platform != "darwin" else conditions.device


@cache
def code_digest() -> str:
    """Return a digest of the code that measures, so that changed code measures again."""
    package = Path(pytest_layerguard.__file__).parent
    hashed = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        place = file.relative_to(package)
        if place.parts[0] not in _DECIDES_NO_NUMBER:
            hashed.update(place.as_posix().encode())
            hashed.update(file.read_bytes())
    return hashed.hexdigest()


def _is_builtin(bet: Bet, registry: Registry) -> bool:
    return all(
        registry[each.kind].implementation.startswith("pytest_layerguard.")
        for each in bet.interventions
    )


def _candidates(bet: Bet) -> Iterator[ModelSource]:
    for each in bet.interventions:
        if isinstance(each.arguments, CandidateArguments) and each.arguments.source is not None:
            yield each.arguments.source


def _texts(bet: Bet) -> Iterator[TextSource]:
    yield from bet.measure.named_texts.values()
    for each in bet.interventions:
        yield from each.arguments.texts


def _task_key(task: TaskSource, key: str, reach: AllowedPaths, conditions: Conditions) -> Any:
    plain = task.model_dump(mode="json")
    if isinstance(task, ReferenceQuestions):
        return [plain, reference.manifest()["questions"]["sha256"]]
    if isinstance(task, LmEvalTask):
        if not task.is_pinned or task.path is None:
            return plain if task.is_pinned else None
        folder = reach.directory(task.path, f"{key}.path")
        files = {each.relative_to(folder).as_posix(): each for each in sorted(folder.rglob("*"))}
        content = {
            name: file_digests.of_file(file) for name, file in files.items() if file.is_file()
        }
        return [{**plain, "path": None}, content]
    return _file_key(task, f"{key}.file", reach, conditions)


def _text_key(text: TextSource, reach: AllowedPaths, conditions: Conditions) -> Any:
    plain = text.model_dump(mode="json")
    if isinstance(text, ReferenceText):
        return [plain, reference.manifest()["heldout"]["sha256"]]
    if isinstance(text, DatasetText):
        return None if text.revision == UNPINNED else plain
    return _file_key(text, "file", reach, conditions)


def _file_key(
    source: FileText | LocalDatasetText | QuestionFile,
    key: str,
    reach: AllowedPaths,
    conditions: Conditions,
) -> Any:
    """Return what a local file decides: where it lies decides nothing."""
    path = reach.file(source.file, key, largest=conditions.budget.text_bytes)
    digest = file_digests.of_file(path)
    file_digests.check(digest, source.sha256, f"{key}: {quoted(source.file)}")
    return [{**source.model_dump(mode="json"), "file": None, "sha256": None}, digest]
