"""Find what will prevent a bet from being measured, from its local files and its model's depth.

Nothing is loaded, no tokenizer run and torch not imported, so more may still go wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_layerguard.bet.arguments import (
    AverageExperts,
    DropExperts,
    LoadCheckpoint,
    MergeExperts,
)
from pytest_layerguard.bet.targets import TargetError
from pytest_layerguard.checkpoints.facts import STATED_EXPERTS
from pytest_layerguard.environment.allowed_paths import AllowedPaths
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.models.layer_parts import RouterChoice
from pytest_layerguard.models.loading import locate, locate_candidate
from pytest_layerguard.texts.sources import Texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from pytest_layerguard.bet.arguments import Intervention
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.bet.text_sources import TextSource
    from pytest_layerguard.environment.conditions import Conditions

Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Obstacle:
    """A reason why a bet cannot be measured, and the key of the bet that it is about."""

    key: Key
    message: str


def obstacles(
    document: BetDocument,
    bets: Path,
    conditions: Conditions,
    depths: Iterable[int],
    *,
    dense: bool,
) -> Iterator[Obstacle]:
    """Yield what would make a bet's outcome ERROR.

    Args:
        document: The bet.
        bets: The bet folder that it belongs to.
        conditions: What the user allows.
        depths: How many layers each checkpoint has, as far as that is known.
        dense: Whether a checkpoint is known to have no experts.
    """
    if document.bet.results is not None:
        yield from _of_results(document, bets, conditions)
        return
    yield from _of_models(document, bets, conditions)
    texts = Texts(conditions, document.path, bets)
    # A preset takes what there is; the bet's own contract takes just so many tokens.
    measure = document.bet.measure
    tokens = measure.tokens if measure.preset is None else None
    for key, source in _measured_on(document):
        yield from _of_text(texts, key, source, tokens)
    for key, intervention in _done(document):
        arguments = intervention.arguments
        for place, source in enumerate(arguments.texts):
            yield from _of_text(texts, (*key, "text", place), source, None)
        if isinstance(arguments, LoadCheckpoint) and arguments.source.is_local:
            yield from _of_candidate(
                (*key, arguments.source.kind), document, bets, arguments, conditions
            )
        yield from _of_targets(key, intervention, depths)
        if isinstance(arguments, DropExperts):
            for model, experts, choice in _routers(document, bets, conditions):
                if problem := choice.problem(experts, arguments.count):
                    yield Obstacle(
                        (*key, "count"), f"{intervention.kind}: model {model}: {problem}"
                    )
        if dense and isinstance(arguments, AverageExperts | DropExperts | MergeExperts):
            yield Obstacle(key, f"{intervention.kind}: the model has no experts")


def _of_results(document: BetDocument, bets: Path, conditions: Conditions) -> Iterator[Obstacle]:
    # It imports numpy, which is missing where pull requests are commented on.
    from pytest_layerguard.measurement.tasks.results_elsewhere import read_results

    try:
        read_results(document, AllowedPaths.of(document.path, bets, conditions), conditions)
    except MeasurementError as error:
        key = str(error).partition(":")[0]
        yield Obstacle(tuple(key.split(".")), str(error))


def _of_models(document: BetDocument, bets: Path, conditions: Conditions) -> Iterator[Obstacle]:
    reach = AllowedPaths.of(document.path, bets, conditions)
    for name, source in document.bet.model.checkpoints().items():
        if not source.is_local:
            continue
        try:
            # The headers show whether a file is cut off.
            _ = locate(source, reach, conditions).tensors
        except UnavailableError:
            # Reported as a skip when the bet is run.
            continue
        except (MeasurementError, OSError) as error:
            key = ("model", source.kind) if name is None else ("model", "paths", name)
            yield Obstacle(key, str(error))


def _of_candidate(
    key: Key,
    document: BetDocument,
    bets: Path,
    arguments: LoadCheckpoint,
    conditions: Conditions,
) -> Iterator[Obstacle]:
    for base in document.bet.model.checkpoints().values():
        try:
            _ = locate_candidate(
                arguments, base, bet_file=document.path, bets=bets, conditions=conditions
            ).checkpoint
        except UnavailableError:
            # Reported as a skip when the bet is run.
            return
        except (MeasurementError, OSError) as error:
            yield Obstacle(key, str(error))
            return


def _routers(
    document: BetDocument, bets: Path, conditions: Conditions
) -> Iterator[tuple[str, int, RouterChoice]]:
    """Yield the name, the number of experts and the choice of each router that a local model's config.json states."""
    reach = AllowedPaths.of(document.path, bets, conditions)
    for source in document.bet.model.checkpoints().values():
        if source.kind == "hub":
            continue
        try:
            config = locate(source, reach, conditions).config
        except (MeasurementError, UnavailableError, OSError):
            continue
        for stated in (config, config.get("text_config") or {}):
            experts = next((n for key in STATED_EXPERTS if (n := stated.get(key))), None)
            if isinstance(experts, int):
                yield source.name, experts, RouterChoice.stated([stated])


def _measured_on(document: BetDocument) -> Iterator[tuple[Key, TextSource]]:
    for name, source in document.bet.measure.named_texts.items():
        yield ("measure", *(("text",) if name is None else ("texts", name))), source


def _of_text(texts: Texts, key: Key, source: TextSource, tokens: int | None) -> Iterator[Obstacle]:
    try:
        texts.check(source, tokens)
    except (MeasurementError, OSError) as error:
        yield Obstacle((*key, "file"), str(error))


def _of_targets(key: Key, intervention: Intervention, depths: Iterable[int]) -> Iterator[Obstacle]:
    for layers in dict.fromkeys(depths):
        try:
            intervention.arguments.variants(layers)
        except TargetError as error:
            target = "layers" if getattr(intervention.arguments, "layers", None) else "pairs"
            yield Obstacle((*key, target), f"{intervention.kind}: {error}")
        except Exception:  # an intervention of another package may want more of a model
            continue


def _done(document: BetDocument) -> Iterator[tuple[Key, Intervention]]:
    """Yield every intervention with its key: by itself, or in a list."""
    for arm, interventions in document.bet.arm_interventions.items():
        key: Key = ("intervention",) if arm is None else ("arms", arm)
        for place, each in enumerate(interventions):
            listed = (*key, place) in document.places
            yield (*key, *((place,) if listed else ()), each.kind), each
