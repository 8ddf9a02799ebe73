"""The canonical form of the parts of a bet that its record fixes, its digest, and differences."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pytest_layerguard.bet.bet import Bet


def canonical(bet: Bet) -> str:
    """Return the canonical JSON of claim, model, intervention or arms, measure and criteria.

    Values that equal their default are left out, so that a key added by a later release changes no digest.
    For the same reason a default of format 1 can never change. Layers and pairs are written in one order,
    criteria in one spelling, numbers in their shortest form.
    """
    data: dict[str, Any] = {
        "claim": bet.claim_line,
        "model": bet.model.model_dump(exclude_defaults=True),
        "measure": _measure(bet),
        "criteria": bet.criteria.model_dump(exclude_defaults=True),
    }
    for name in ("intervention", "arms"):
        if getattr(bet, name) is not None:
            data[name] = bet.model_dump(include={name})[name]
    return json.dumps(_plain(data), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(bet: Bet) -> str:
    """Return ``sha256:`` and the digest of the canonical form."""
    return f"sha256:{hashlib.sha256(canonical(bet).encode()).hexdigest()}"


def measured(bet: Bet) -> dict[str, Any]:
    """Return the canonical data of what is measured, wherever texts lie: no claim and no criteria."""
    return measured_of(json.loads(canonical(bet)))


def measured_of(bet: Mapping[str, Any]) -> dict[str, Any]:
    """Return `measured` of a bet's canonical data."""
    data = {key: value for key, value in bet.items() if key not in ("claim", "criteria")}
    return {**_without_files(data), "model": data["model"]}


def canonical_model(bet: Bet) -> dict[str, Any]:
    """Return the model's part of a bet's canonical data."""
    return dict(json.loads(canonical(bet))["model"])


def criteria(bet: Bet) -> dict[str, str]:
    """Return the criteria in their canonical spelling, by name."""
    return dict(json.loads(canonical(bet))["criteria"])


def differences(old: str, new: str) -> list[tuple[str, Any, Any]]:
    """Return ``(key path, old, new)`` for each difference between two canonical forms.

    A missing value is None.
    """
    return list(_differences(json.loads(old), json.loads(new), ""))


def unplaced(
    bet: Mapping[str, Any], *, trained_on: bool = True, candidates: bool = True
) -> dict[str, Any]:
    """Return a bet's canonical data without where its files lie and what their digests must be.

    A record has the digests of what was measured, so that the same files in another place are the
    same bet. ``trained_on`` says whether that holds for the texts of a training too, ``candidates``
    whether it does for the files of candidates.
    """
    data = {**bet, "model": _without_paths(bet["model"]), "measure": _without_files(bet["measure"])}
    done = {key: bet[key] for key in ("intervention", "arms") if key in bet}
    if trained_on:
        done = _without_files(done)
    if candidates:
        done = _without_candidates(done)
    return data | done


def _without_paths(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model or a candidate without where it lies, and without the digest of a GGUF file."""
    paths = {
        **dict.fromkeys(("path", "gguf", "adapter"), ""),
        "paths": dict.fromkeys(model.get("paths", ()), ""),
    }
    return {key: paths.get(key, value) for key, value in model.items() if key != "sha256"}


def _without_candidates(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_candidates(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _without_paths(each) if key == "load_checkpoint" else _without_candidates(each)
        for key, each in value.items()
    }


def _without_files(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_files(each) for each in value]
    if not isinstance(value, dict):
        return value
    # An arm or a text may be called "file".
    if isinstance(value.get("file"), str):
        return {**{key: value[key] for key in value if key != "sha256"}, "file": ""}
    if "lm_eval" in value and "path" in value:
        return {**value, "path": ""}
    return {key: _without_files(each) for key, each in value.items()}


def _measure(bet: Bet) -> dict[str, Any]:
    measure: dict[str, Any] = bet.measure.model_dump(exclude_defaults=True)
    if measure.get("stride") == measure.get("window"):
        # The default of a stride is the window.
        measure.pop("stride", None)
    return measure


def _plain(value: Any) -> Any:
    """Return JSON data with one spelling for each number."""
    match value:
        case dict():
            return {str(key): _plain(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_plain(inner) for inner in value]
        case float() if value.is_integer() and abs(value) < 2**53:
            return int(value)
        case _:
            return value


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            inner = f"{path}.{key}" if path else key
            yield from _differences(old.get(key), new.get(key), inner)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _differences(before, after, f"{path}[{place}]")
    elif old != new:
        yield path, old, new
