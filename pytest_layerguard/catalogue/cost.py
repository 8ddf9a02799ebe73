"""What measuring a bet costs, roughly, from what its checkout says of it and nothing else.

Every machine must come to the same number, so no hub is asked and no cache looked at: the shape of a model
on a hub is guessed from its name. A wrong guess costs time and changes no result.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.arguments import Train, variants
from pytest_layerguard.bet.bet import INIT
from pytest_layerguard.bet.targets import TargetError
from pytest_layerguard.catalogue import model_facts
from pytest_layerguard.environment.allowed_paths import AllowedPaths
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.models.model_folder import CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pytest_layerguard.bet.arguments import Intervention
    from pytest_layerguard.bet.bet import Bet, ModelSource
    from pytest_layerguard.bet.reader import BetDocument

_SIZE: Final = re.compile(r"(?<![a-z0-9])(\d+(?:\.\d+)?)([mbt])(?![a-z0-9])")
"""How a model's name tells its parameters: Qwen3-8B, pythia-160m."""
_UNITS: Final = {"m": 1e6, "b": 1e9, "t": 1e12}
_LARGEST_CONFIG: Final = 1_000_000
_TOKENS: Final = 250_000
"""About as many as the test split of WikiText-2 has, for contracts that score all of a text."""
_WINDOW: Final = 512
_LOADING: Final = 1_000.0
"""Loading a model costs about what so many tokens through all of its layers do."""


@dataclass(frozen=True)
class _Size:
    parameters: float
    layers: int


_UNKNOWN: Final = _Size(1e9, 24)


def cost(document: BetDocument, bets: Path) -> float:
    """Return tokens times parameters that are gone through, loading included.

    `bets` is the bet folder; a model outside the tree that holds it may lie on one machine only.
    """
    bet = document.bet
    reach = AllowedPaths.of(document.path, bets, Conditions())
    return sum(
        (_LOADING + _tokens(bet, size.layers)) * size.parameters
        for size in (_size(source, bet, reach) for source in bet.model.checkpoints().values())
    )


def _tokens(bet: Bet, layers: int) -> float:
    """Return how many tokens go through all layers, or as many layers as make up for that."""
    scored = (bet.measure.tokens or _TOKENS) * len(bet.measure.named_texts)
    ran = layers  # the base
    trained = 0.0
    for interventions in bet.arm_interventions.values():
        try:
            found = variants(interventions, layers)
        except TargetError:
            # BetReport when the bet is measured; the guess of the depth may be what is wrong.
            continue
        ran += sum(_evaluations(each.interventions, each.target, layers) for each in found)
        trained += sum(map(_training, (each.interventions for each in found)))
    return scored * ran / layers + trained


def _evaluations(interventions: Iterable[Intervention], target: str, layers: int) -> int:
    """Return layer evaluations of a variant, which shares with the base what lies before its target."""
    touched = [int(number) for number in re.findall(r"\d+", target)]
    directions = 2 if any(each.kind == "replace_layers" for each in interventions) else 1
    return (layers - min(touched, default=0)) * directions


def _training(interventions: Iterable[Intervention]) -> float:
    """Return tokens that a variant is trained on, counted thrice for the way back."""
    arguments = (each.arguments for each in interventions)
    return sum(
        3.0 * each.steps * each.batch * _WINDOW for each in arguments if isinstance(each, Train)
    )


def _size(source: ModelSource, bet: Bet, reach: AllowedPaths) -> _Size:
    if source.kind == "reference":
        shape = model_facts.facts_of_reference(source.name.removesuffix(INIT))
        return _Size(float(shape.parameters or 0), shape.layers or 1)
    if source.kind == "path":
        return _of_folder(source.name, reach) or _by_name(source.name, bet)
    return _by_name(source.name, bet)


def _by_name(name: str, bet: Bet) -> _Size:
    found = _SIZE.findall(name.lower())
    if found:
        return _Size(max(float(count) * _UNITS[unit] for count, unit in found), _UNKNOWN.layers)
    needs = bet.needs
    room = (needs.gpu or needs.memory) if needs is not None else None
    return _Size(room / 2, _UNKNOWN.layers) if room else _UNKNOWN


def _of_folder(name: str, reach: AllowedPaths) -> _Size | None:
    """Return the size by a folder's config.json, as far as its usual keys tell."""
    try:
        path = reach.file(f"{name}/{CONFIG}", "model.path", largest=_LARGEST_CONFIG)
        config: Any = json.loads(path.read_text(encoding="utf-8"))
        layers = int(config.get("num_hidden_layers") or config["n_layer"])
        width = int(config.get("hidden_size") or config["n_embd"])
        inner = int(
            config.get("moe_intermediate_size") or config.get("intermediate_size") or 4 * width
        )
        experts = int(config.get("num_experts") or config.get("num_local_experts") or 1)
        vocabulary = int(config["vocab_size"])
    except (
        MeasurementError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
    ):
        return None
    if min(layers, width, inner, experts, vocabulary) < 1:
        return None
    weights = layers * (4 * width**2 + 3 * width * inner * experts) + vocabulary * width
    return _Size(float(weights), layers)
