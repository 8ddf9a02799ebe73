"""What the catalogue knows of an idea, before anybody has written a bet or loaded a weight."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.bet import REFERENCE_NAMES
from pytest_layerguard.bet.criteria.interval import Truth, short
from pytest_layerguard.bet.errors import printable, suggestion
from pytest_layerguard.catalogue.bet_folders import Catalogue, Entry, shown
from pytest_layerguard.catalogue.doors import bars_of, challenging, covers
from pytest_layerguard.catalogue.equal_effect import kinds_like
from pytest_layerguard.catalogue.model_facts import Shape
from pytest_layerguard.catalogue.model_lookup import ModelLookup, Sighting
from pytest_layerguard.catalogue.wording import cut, describe_closes, describe_numbers
from pytest_layerguard.environment.allowed_paths import AllowedPaths
from pytest_layerguard.environment.measurement_errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

FORM: Final = (
    "INTERVENTION on MODEL, such as 'skip_layers on reference', "
    "'average_experts + train on ORG/NAME', 'skip_layers on ./folder' or "
    "'ternary_weights on parameters=3e7 experts=16'"
)
_IDEA: Final = re.compile(r"\s*(?P<done>.+?)\s+on\s+(?P<model>\S.*?)\s*", re.DOTALL)
_BETWEEN: Final = re.compile(r"\s*(?:\+|,|\bthen\b|\band\b)\s*")
_FACT: Final = re.compile(r"(parameters|layers|experts|hidden_size|family|name)\s*==?\s*(\S+)")
_SIZE: Final = re.compile(r"(?i)(?<![\w.])(?P<count>\d+(?:\.\d+)?)\s*(?P<unit>[KMBT])(?![\w.])")
_UNITS: Final = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}
_HUB: Final = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[0-9a-f]{40}))?")


class AskError(ValueError):
    """A question that cannot be understood; the text says what is allowed."""


@dataclass(frozen=True)
class Idea:
    """Kinds of interventions and what is known of a model; `hinted` says that it is from words."""

    kinds: tuple[str, ...]
    sighting: Sighting
    hinted: bool = False


def read_idea(text: str, kinds: Iterable[str], scout: ModelLookup, start: Path) -> Idea:
    """Return what a question is about; folders are looked for from `start`.

    Raises AskError for words that mean nothing, with what was probably meant.
    """
    match = _IDEA.fullmatch(text)
    if match is None:
        raise AskError(f"{printable(text)!r} is not a question; allowed: {FORM}")
    done = tuple(_kind(word, tuple(kinds)) for word in _BETWEEN.split(match["done"]))
    return _model(done, match["model"], scout, start)


def _kind(word: str, kinds: tuple[str, ...]) -> str:
    name = re.sub(r"[\s-]+", "_", word.strip().lower())
    if name not in kinds:
        close = suggestion(name, kinds) or ";"
        raise AskError(f"{printable(word)!r} is no intervention{close} allowed: {', '.join(kinds)}")
    return name


def _model(kinds: tuple[str, ...], text: str, scout: ModelLookup, start: Path) -> Idea:
    if text in REFERENCE_NAMES:
        return Idea(kinds, scout.named(text))
    if facts := _FACT.findall(text):
        if rest := _FACT.sub("", text).strip(" ,"):
            raise AskError(f"{printable(rest)!r} is no fact; allowed: parameters=3e7 experts=16")
        return Idea(kinds, _from_facts(dict(facts), text))
    if text.startswith((".", "/")) or (start / text).is_dir():
        reach = AllowedPaths(start, (start.resolve(), (start / text).resolve()))
        try:
            return Idea(kinds, scout.folder(reach.directory(text, "model"), text, reach))
        except MeasurementError as error:
            raise AskError(str(error)) from None
    if (hub := _HUB.fullmatch(text)) is not None:
        sighting = scout.named(hub["name"], hub["revision"])
        if sighting.shape.parameters is None:
            hinted = replace(sighting.shape, parameters=_size(text))
            return Idea(kinds, replace(sighting, shape=hinted), hinted=_size(text) is not None)
        return Idea(kinds, sighting)
    if (size := _size(text)) is not None:
        return Idea(
            kinds,
            Sighting(None, text, Shape(parameters=size), missing="only its size is known"),
            hinted=True,
        )
    close = suggestion(text, REFERENCE_NAMES) or ";"
    raise AskError(
        f"{printable(text)!r} is no model{close} allowed: {', '.join(REFERENCE_NAMES)}, "
        "./FOLDER, ORG/NAME, or facts such as parameters=3e7 experts=16"
    )


def _from_facts(facts: dict[str, str], text: str) -> Sighting:
    def number(key: str) -> int | None:
        if key not in facts:
            return None
        size = _size(facts[key])
        try:
            return size if size is not None else int(float(facts[key].rstrip(",")))
        except (ValueError, OverflowError):
            raise AskError(f"{key}={printable(facts[key])} is no number") from None

    family, name = facts.get("family"), facts.get("name")
    shape = Shape(
        number("parameters"),
        number("layers"),
        number("experts"),
        number("hidden_size"),
        () if family is None else (family.strip("\"',"),),
    )
    return Sighting(name and name.strip("\"',"), text, shape, missing="it was not asked about")


def _size(text: str) -> int | None:
    """Return the parameters that a name such as ``Qwen3-0.6B`` or ``a 30M mixture`` speaks of."""
    found = _SIZE.search(re.sub(r"[-_/]", " ", text))
    return None if found is None else round(float(found["count"]) * _UNITS[found["unit"].lower()])


def answer(idea: Idea, catalogue: Catalogue, scout: ModelLookup, root: Path) -> Iterator[str]:
    """Yield lines with all that is known: who closed the door, or what was tried near it."""
    sighting = idea.sighting
    yield f"{' + '.join(idea.kinds)} on {cut(sighting.shown)}{_described(idea)}"
    if sighting.missing is not None and not sighting.shape.families:
        yield f"  its configuration was not read: {cut(sighting.missing)}"
    yield from (f"  not read, and may close more: {each}" for each in catalogue.unreadable)
    concerned = [entry for entry in catalogue.doors if _reasons(entry, idea)]
    truths = [(entry, covers(entry, sighting, scout)) for entry in concerned]
    closed = [entry for entry, truth in truths if truth is Truth.TRUE]
    maybe = [entry for entry, truth in truths if truth is Truth.UNDECIDED]
    for entry in closed:
        yield ""
        yield f"CLOSED by {entry.id}{' (by the size in its name)' if idea.hinted else ''}"
        yield from _door(entry, idea, root)
    for entry in maybe:
        yield ""
        yield f"PERHAPS CLOSED by {entry.id}: {_unknown(entry, sighting)}"
        yield from _door(entry, idea, root)
    if not closed and not maybe:
        yield ""
        by_name = ", if the size in its name is right" if idea.hinted and concerned else ""
        yield f"OPEN: no falsification of the catalogue rules this out{by_name}"
    yield from _near(idea, catalogue, [*closed, *maybe], root)
    yield ""
    if closed:
        bars = dict.fromkeys(f"'{cut(str(each))}'" for entry in closed for each in bars_of(entry))
        yield (
            f"To bet against it all the same: a bet with {challenging(each.id for each in closed)}, "
            f"which must also meet {' and '.join(bars)}."
        )
    else:
        yield "To find out: a bet with 'status: proposed'; write its criteria before you measure."


def _described(idea: Idea) -> str:
    shape = idea.sighting.shape
    told = [
        f"{name} {short(value)}"
        for name, value in (
            ("parameters", shape.parameters),
            ("layers", shape.layers),
            ("experts", shape.experts),
            ("hidden_size", shape.hidden_size),
        )
        if value is not None
    ]
    told += [f"family {printable(family)}" for family in shape.families]
    about = "by its name: " if idea.hinted else ""
    return f" ({about}{', '.join(told)})" if told else ""


def _reasons(entry: Entry, idea: Idea) -> list[str]:
    """Return why a door is closed to the idea, a line for each of its interventions."""
    assert entry.closes is not None
    reasons = []
    for kind in idea.kinds:
        like = kinds_like(kind)
        # Its own name first: to say that it is the same as another would only confuse.
        hits = [each for each in (kind, *like) if each in entry.closes.interventions]
        if hits:
            hit = hits[0]
            reasons.append(kind if hit == kind else f"{kind} is {hit} in effect: {like[hit]}")
    return reasons


def _door(entry: Entry, idea: Idea, root: Path) -> Iterator[str]:
    document, closes = entry.document, entry.closes
    assert closes is not None
    yield f"  {cut(document.bet.title)}, {shown(document.path, root)}:{document.line}"
    yield f"  claim that failed: {cut(document.bet.claim_line)}"
    yield f"  it closes: {describe_closes(closes)}"
    yield from (f"  {reason}" for reason in _reasons(entry, idea) if " " in reason)
    yield from (f"  {line}" for line in describe_numbers(entry))


def _unknown(entry: Entry, sighting: Sighting) -> str:
    assert entry.closes is not None
    facts = next(sighting.facts())
    lacking = sorted(name for name in entry.closes.models.facts if facts[name] is None)
    return f"that depends on its {' and '.join(lacking)}, which cannot be told here"


def _near(idea: Idea, catalogue: Catalogue, told: list[Entry], root: Path) -> Iterator[str]:
    """Yield what was tried with the same interventions, on this model or on others."""
    like = {each for kind in idea.kinds for each in kinds_like(kind)}
    near = [
        entry
        for entry in catalogue.entries
        if entry not in told
        and any(
            part.kind in like
            for done in entry.document.bet.arm_interventions.values()
            for part in done
        )
    ]
    if near:
        yield ""
        yield "Tried near it:"
    for entry in near:
        bet = entry.document.bet
        place = f"{shown(entry.document.path, root)}:{entry.document.line}"
        yield f"  {bet.id} ({cut(bet.title)}), {bet.status}, on {cut(bet.model.name)}, {place}"
        yield from (f"    {line}" for line in describe_numbers(entry))
