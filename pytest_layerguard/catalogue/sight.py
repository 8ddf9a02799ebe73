"""Seeing which model a bet is about, by its configuration alone."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard import reference
from pytest_layerguard.bet.interval import Truth
from pytest_layerguard.bet.texts import UNPINNED
from pytest_layerguard.catalogue import shapes
from pytest_layerguard.catalogue.shapes import Shape, ShapeError
from pytest_layerguard.lab.model_folder import CONFIG, read_json
from pytest_layerguard.lab.paths import Reach

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from pytest_layerguard.bet.model import ModelSource
    from pytest_layerguard.bet.reading import BetDocument
    from pytest_layerguard.bet.scope import Fact, ModelScope
    from pytest_layerguard.lab.conditions import Conditions

_INIT: Final = "@init"
_PATIENCE: Final = 10.0
"""Seconds that the hub has to answer for a file of a few kilobytes."""


class NotHadError(Exception):
    """A configuration that cannot be had here; the text says why."""


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
class Scout:
    """Looks at models without loading them; what it saw it does not look at twice."""

    conditions: Conditions
    offline: bool = False
    _seen: dict[tuple[object, ...], Sighting] = field(default_factory=dict)

    def look(self, document: BetDocument, bets: Path) -> Mapping[str | None, Sighting]:
        """Return what is known of every checkpoint of a bet.

        Raises LabError for a folder that is missing, damaged or out of the bet's reach: it cannot
        be measured either.
        """
        reach = Reach.of(document.path, bets, self.conditions)
        return {
            name: self.source(source, reach)
            for name, source in document.bet.model.checkpoints().items()
        }

    def source(self, source: ModelSource, reach: Reach | None) -> Sighting:
        """Return what is known of one checkpoint; without a reach no folder is looked at."""
        match source.kind:
            case "reference":
                return self._once(("reference", source.name), partial(_reference, source.name))
            case "path":
                if reach is None:
                    return Sighting(None, source.name, missing="not looked at", absent=True)
                return self.folder(reach.directory(source.name, "model.path"), source.name, reach)
            case _:
                return self.hub(source.name, source.revision)

    def folder(self, path: Path, shown: str, reach: Reach) -> Sighting:
        """Return what is known of a model folder."""
        file = reach.file(str(path / CONFIG), "model.path")

        def look() -> Sighting:
            return self._shaped(None, shown, read_json({CONFIG: file}, CONFIG, f"model {shown}"))

        return self._once(("path", file), look)

    def named(self, name: str) -> Sighting:
        """Return what is known of a reference model, or of a model on the hub in any revision."""
        if name in reference_names():
            return self._once(("reference", name), partial(_reference, name))
        return self.hub(name)

    def hub(self, name: str, revision: str | None = None) -> Sighting:
        """Return what is known of a model on the hub; without a revision, of any that is at hand."""
        return self._once(("hub", name, revision), partial(self._hub, name, revision))

    def _once(self, key: tuple[object, ...], look: Callable[[], Sighting]) -> Sighting:
        if key not in self._seen:
            self._seen[key] = look()
        return self._seen[key]

    def _hub(self, name: str, revision: str | None) -> Sighting:
        try:
            config = _hub_config(name, revision, offline=self.offline)
        except NotHadError as error:
            return Sighting(name, name, missing=str(error), absent=True)
        return self._shaped(name, name, config)

    def _shaped(self, name: str | None, shown: str, config: Mapping[str, Any]) -> Sighting:
        try:
            return Sighting(name, shown, shapes.of_config(config, self.conditions.cache))
        except ShapeError as error:
            return Sighting(name, shown, missing=str(error))


def _reference(name: str) -> Sighting:
    return Sighting(name, name, shapes.of_reference(name.removesuffix(_INIT)))


def reference_names() -> tuple[str, ...]:
    """Return every name of an embedded model."""
    return (*reference.NAMES, *(f"{name}{_INIT}" for name in reference.NAMES))


def _why(problem: Exception | None, *, offline: bool) -> str:
    """Return why the hub gave no configuration; never its own words, which name addresses."""
    kind = type(problem).__name__
    if kind in ("RepositoryNotFoundError", "GatedRepoError"):
        return "the hub has no such model, or not for everybody"
    if kind in ("RevisionNotFoundError", "EntryNotFoundError", "RemoteEntryNotFoundError"):
        return "the hub has no config.json of this revision"
    if kind == "HFValidationError":
        return "that is no name of a model on the hub"
    where = "" if offline else f", and the hub did not answer ({kind})"
    return f"it is not in the local cache{where}"


def _hub_config(name: str, revision: str | None, *, offline: bool) -> Mapping[str, Any]:
    """Return a model's config.json from the hub's cache or the hub; raises NotHadError."""
    from huggingface_hub import hf_hub_download

    from pytest_layerguard.lab.quiet import first_line

    pinned = None if revision == UNPINNED else revision
    path: str | None = None
    problem: Exception | None = None
    # The cache first: a pinned file cannot have changed, and asking costs seconds.
    for local in (True,) if offline else (True, False):
        try:
            path = hf_hub_download(
                name,
                CONFIG,
                revision=pinned,
                local_files_only=local,
                etag_timeout=_PATIENCE,
            )
            break
        except Exception as error:  # whatever a network, proxy or disk can come up with
            problem = error
    if path is None:
        raise NotHadError(_why(problem, offline=offline))
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - the hub's cache names files as text
            config = json.loads(file.read(1_000_001))
    except (OSError, ValueError, RecursionError) as error:
        raise NotHadError(f"its config.json cannot be read: {first_line(error)}") from None
    if not isinstance(config, dict):
        raise NotHadError("its config.json is not a JSON mapping")
    return config
