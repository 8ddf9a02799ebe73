"""Results of unchanged bets, kept from run to run."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.atomic_write import write_whole
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.measurement.cache_key import identity
from pytest_layerguard.measurement.results import BetResult

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.environment.conditions import Conditions
    from pytest_layerguard.interventions.registry import Registry
    from pytest_layerguard.measurement.laboratory import Laboratory

_FORMAT: Final = 1


class ResultCache:
    """A folder of results, each under the digest of what decides it.

    An entry that is damaged, or was put under another digest, is as good as none: it is measured again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: str) -> BetResult | None:
        """The result kept under a digest, marked as cached, or None."""
        try:
            entry = json.loads(self._path(key).read_text(encoding="utf-8"))
            if (entry["format"], entry["key"]) != (_FORMAT, key):
                return None
            if entry["digest"] != _digest(key, entry["result"]):
                return None
            return replace(BetResult.from_json(entry["result"]), cached=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def keep(self, key: str, result: BetResult) -> None:
        """Keeps a result, whole or not at all; a folder that cannot be written keeps none."""
        plain = result.to_json()
        entry = {"format": _FORMAT, "key": key, "digest": _digest(key, plain), "result": plain}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_whole(self._path(key), json.dumps(entry, sort_keys=True))
        except OSError:
            # A cache is a convenience: a full disk must not turn a sound measurement into an error.
            return

    def _path(self, key: str) -> Path:
        return self._folder / f"{key.removeprefix('sha256:')}.json"


class CachingLaboratory:
    """Measures what is not remembered; opens the laboratory, and with it torch, only for that.

    Args:
        conditions: Where results are kept and whether they count, device, allowed roots and the like.
        registry: The kinds of interventions.
    """

    def __init__(self, conditions: Conditions, registry: Registry) -> None:
        self._kept = ResultCache(conditions.cache) if conditions.cache is not None else None
        self._conditions = conditions
        self._registry = registry
        self._opened: Laboratory | None = None
        self._expected: list[tuple[BetDocument, Path]] | None = None

    def expect(self, documents: Iterable[tuple[BetDocument, Path]]) -> None:
        """Says which bets will be measured in this process."""
        self._expected = list(documents)

    def measure(self, document: BetDocument, *, bets: Path) -> BetResult:
        """Returns the bet's result, remembered or measured.

        Raises:
            MeasurementError: If no honest measurement can be made.
            UnavailableError: If the machine or the hub lacks what the bet needs.
        """
        if self._kept is None:
            return self._laboratory().measure(document, bets=bets)
        key = identity(document, bets, self._conditions, self._registry)
        found = self._find(key)
        if found is not None:
            return found
        result = self._laboratory().measure(document, bets=bets)
        if key is not None:
            self._kept.keep(key, result)
        return result

    def _find(self, key: str | None) -> BetResult | None:
        if self._kept is None or key is None or self._conditions.fresh:
            return None
        return self._kept.find(key)

    def _remembers(self, document: BetDocument, bets: Path) -> bool:
        try:
            return (
                self._find(identity(document, bets, self._conditions, self._registry)) is not None
            )
        except MeasurementError:
            # BetReport when that bet itself is measured.
            return False

    def _laboratory(self) -> Laboratory:
        if self._opened is None:
            from pytest_layerguard.measurement.laboratory import Laboratory

            self._opened = Laboratory(self._conditions, self._registry)
            if self._expected is not None:
                # A bet that is remembered must not be swept along with those that are not.
                self._opened.expect(each for each in self._expected if not self._remembers(*each))
        return self._opened


def _digest(key: str, result: Any) -> str:
    return file_digests.of_text(json.dumps([key, result], sort_keys=True))
