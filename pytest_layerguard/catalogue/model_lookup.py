"""Seeing which model a bet is about, by its configuration alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_layerguard.bet.bet import INIT, REFERENCE_NAMES
from pytest_layerguard.bet.criteria.interval import Truth
from pytest_layerguard.bet.text_sources import UNPINNED
from pytest_layerguard.catalogue import model_facts
from pytest_layerguard.catalogue.model_facts import Shape, ShapeError
from pytest_layerguard.environment.allowed_paths import AllowedPaths
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.models.hub import Repository
from pytest_layerguard.models.model_folder import CONFIG, read_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pytest_layerguard.bet.bet import ModelSource
    from pytest_layerguard.bet.criteria.scope import Fact, ModelScope
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.environment.conditions import Conditions


@dataclass(frozen=True)
class Sighting:
    """What is known of one checkpoint.

    Attributes:
        name: What a scope's `name` is compared with; None for a folder, whose name proves nothing.
        shown: What people call it.
        shape: What its configuration says.
        missing: Why not all of the shape is known, or None.
        absent: Whether that is because the configuration cannot be had here.
    """

    name: str | None
    shown: str
    shape: Shape = field(default_factory=Shape)
    missing: str | None = None
    absent: bool = False

    def facts(self, *, name: str | None = None) -> Iterator[Mapping[str, Fact]]:
        """Yield the facts that a scope is asked with, once for each family that the model is of."""
        for family in self.shape.families or (None,):
            yield {
                "parameters": self.shape.parameters,
                "layers": self.shape.layers,
                "experts": self.shape.experts,
                "hidden_size": self.shape.hidden_size,
                "family": family,
                "name": self.name or name,
            }

    def inside(self, scope: ModelScope, *, name: str | None = None) -> Truth:
        """Return whether a scope covers the model; whichever family covers it counts."""
        return Truth.any(scope.covers(facts) for facts in self.facts(name=name))

    def plain(self) -> Mapping[str, Fact]:
        """Return the facts for a record."""
        return {**next(self.facts()), "name": self.shown}


@dataclass
class ModelLookup:
    """Looks at models without loading them; what it saw it does not look at twice."""

    conditions: Conditions
    offline: bool = False
    _seen: dict[tuple[object, ...], Sighting] = field(default_factory=dict)

    def look(self, document: BetDocument, bets: Path) -> Mapping[str | None, Sighting]:
        """Return what is known of every checkpoint of a bet.

        Raises MeasurementError for a model that does not exist, is damaged or out of the bet's reach: it
        cannot be measured either.
        """
        reach = AllowedPaths.of(document.path, bets, self.conditions)
        return {
            name: self.source(source, reach)
            for name, source in document.bet.model.checkpoints().items()
        }

    def source(self, source: ModelSource, reach: AllowedPaths) -> Sighting:
        """Return what is known of one checkpoint; raises MeasurementError as `look`."""
        match source.kind:
            case "reference":
                return self._once(("reference", source.name), partial(_reference, source.name))
            case "path":
                return self.folder(reach.directory(source.name, "model.path"), source.name, reach)
            case _:
                return self._hub(source.name, source.revision)

    def folder(self, path: Path, shown: str, reach: AllowedPaths) -> Sighting:
        """Return what is known of a model folder."""
        file = reach.file(str(path / CONFIG), "model.path")

        def look() -> Sighting:
            return self._shaped(None, shown, read_json({CONFIG: file}, CONFIG, f"model {shown}"))

        return self._once(("path", file), look)

    def named(self, name: str, revision: str | None = None) -> Sighting:
        """Return what is known of a reference model, or of a model on the hub, if there is one."""
        if name in REFERENCE_NAMES:
            return self._once(("reference", name), partial(_reference, name))
        try:
            return self._hub(name, revision)
        except MeasurementError as error:
            return Sighting(name, name, missing=str(error), absent=True)

    def _hub(self, name: str, revision: str | None) -> Sighting:
        pinned = None if revision == UNPINNED else revision
        repository = Repository("model", name, pinned)
        return self._once(("hub", name, pinned), partial(self._fetched, repository))

    def _fetched(self, repository: Repository) -> Sighting:
        """Read config.json from the hub's cache, or else from the hub, which is asked only once."""
        name = repository.name
        # The cache first: a pinned file cannot have changed, and asking takes seconds.
        path = repository.cached(CONFIG)
        if path is None and self.offline:
            return Sighting(name, name, missing=f"{repository}: not in the cache", absent=True)
        try:
            if path is None:
                commit, _ = repository.listing()
                path = repository.fetch(CONFIG, commit)
        except UnavailableError as error:
            return Sighting(name, name, missing=str(error), absent=True)
        return self._shaped(name, name, read_json({CONFIG: path}, CONFIG, str(repository)))

    def _once(self, key: tuple[object, ...], look: Callable[[], Sighting]) -> Sighting:
        if key not in self._seen:
            self._seen[key] = look()
        return self._seen[key]

    def _shaped(self, name: str | None, shown: str, config: Mapping[str, Any]) -> Sighting:
        try:
            # Measuring afresh is to trust nothing that an earlier run, or somebody, has left there.
            kept = None if self.conditions.fresh else self.conditions.cache
            return Sighting(name, shown, model_facts.of_config(config, kept))
        except ShapeError as error:
            return Sighting(name, shown, missing=str(error))


def _reference(name: str) -> Sighting:
    return Sighting(name, name, model_facts.of_reference(name.removesuffix(INIT)))
