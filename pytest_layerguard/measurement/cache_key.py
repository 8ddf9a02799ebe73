"""What decides the numbers of a bet, known without loading a model or importing torch."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest_layerguard
from pytest_layerguard import reference
from pytest_layerguard.bet.digest import digest
from pytest_layerguard.bet.text_sources import UNPINNED, DatasetText, ReferenceText
from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.allowed_paths import AllowedPaths
from pytest_layerguard.environment.versions import versions
from pytest_layerguard.models.loading import model_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pytest_layerguard.bet.bet import Bet
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.bet.text_sources import TextSource
    from pytest_layerguard.environment.conditions import Conditions
    from pytest_layerguard.interventions.registry import Registry

ROOMS: Final = (
    "bet",
    "environment",
    "interventions",
    "measurement",
    "models",
    "reference",
    "texts",
)
"""The folders whose code decides numbers."""

_NVIDIA: Final = Path("/proc/driver/nvidia/gpus")


def identity(
    document: BetDocument, bets: Path, conditions: Conditions, registry: Registry
) -> str | None:
    """A digest of everything that decides a bet's numbers.

    Weights, tokenizer, texts, the bet itself, versions, the code that measures, the kind of device.

    Returns:
        The digest, or None where something that decides cannot be known beforehand: a revision that is
        not pinned, an intervention or a metric of another package whose code may change under one version.

    Raises:
        MeasurementError: If something the bet names is not there.
    """
    bet = document.bet
    if not _known_kinds(bet, registry) or registry.own_metrics(bet.criteria):
        return None
    models = [
        model_key(bet.model, source, bet_file=document.path, bets=bets, conditions=conditions)
        for source in bet.model.checkpoints().values()
    ]
    reach = AllowedPaths.of(document.path, bets, conditions)
    texts = [_text(text, reach, conditions) for text in _texts(bet)]
    if None in models or None in texts:
        return None
    content = {
        "bet": digest(bet),
        # Shown, not judged, and so not of the digest.
        "speak": bet.measure.speak and bet.measure.speak.model_dump(mode="json"),
        "models": models,
        "texts": texts,
        "versions": dict(versions()),
        "machine": [platform.machine(), platform.system(), device_kind(conditions)],
        "code": code(),
    }
    return file_digests.of_text(json.dumps(content, sort_keys=True))


def device_kind(conditions: Conditions) -> str:
    """What numbers may depend on of the device: which kind it is, not which of several alike."""
    if conditions.device != "cpu" and _NVIDIA.is_dir():
        cards = sorted(
            line.partition(":")[2].strip()
            for file in _NVIDIA.glob("*/information")
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
            if line.startswith("Model:")
        )
        return f"{conditions.device} {cards}"
    # A device that was asked for by name and is not here must not be answered with another's numbers.
    return "cpu" if conditions.device == "auto" and sys.platform != "darwin" else conditions.device


@cache
def code() -> str:
    """A digest of the code that measures: a cached number is that of the code that would measure it now."""
    package = Path(pytest_layerguard.__file__).parent
    hashed = hashlib.sha256()
    for room in ROOMS:
        for file in sorted((package / room).rglob("*.py")):
            hashed.update(file.relative_to(package).as_posix().encode())
            hashed.update(file.read_bytes())
    return hashed.hexdigest()


def _known_kinds(bet: Bet, registry: Registry) -> bool:
    return all(
        registry[each.kind].implementation.startswith("pytest_layerguard.")
        for interventions in bet.arm_interventions.values()
        for each in interventions
    )


def _texts(bet: Bet) -> Iterator[TextSource]:
    yield from bet.measure.named_texts.values()
    for interventions in bet.arm_interventions.values():
        for each in interventions:
            yield from getattr(each.arguments, "text", ())


def _text(text: TextSource, reach: AllowedPaths, conditions: Conditions) -> Any:
    told = text.model_dump(mode="json")
    if isinstance(text, ReferenceText):
        return [told, reference.manifest()["heldout"]["sha256"]]
    if isinstance(text, DatasetText):
        return None if text.revision == UNPINNED else told
    path = reach.file(text.file, "file", largest=conditions.budget.text_bytes)
    return [told, file_digests.of_file(path)]
