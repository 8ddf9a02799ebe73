"""Answer what the catalogue knows of an idea, before a bet is written or a weight loaded."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.bet import REFERENCE_NAMES
from pytest_layerguard.bet.criteria.interval import Truth
from pytest_layerguard.bet.errors import listed, printable, suggestion
from pytest_layerguard.catalogue.crossing.doors import challenging, closed_to, covers, kinds_like
from pytest_layerguard.catalogue.model_facts import (
    NUMBERS,
    KnownModel,
    ModelFacts,
    ModelLookup,
    parameters_in_name,
)
from pytest_layerguard.catalogue.wording import (
    cut,
    describe_closes,
    describe_door,
    describe_facts,
    describe_numbers,
)
from pytest_layerguard.environment.allowed_paths import AllowedPaths
from pytest_layerguard.environment.measurement_errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from pytest_layerguard.bet.criteria.scope import Fact
    from pytest_layerguard.catalogue.bet_folders import Catalogue, Entry

FORM: Final = (
    "INTERVENTION on MODEL, such as 'skip_layers on reference', "
    "'average_experts + train on ORG/NAME', 'skip_layers on ./folder' or "
    "'ternary_weights on parameters=3e7 experts=16'"
)
_IDEA: Final = re.compile(r"\s*(?P<done>.+?)\s+on\s+(?P<model>\S.*?)\s*", re.DOTALL)
_BETWEEN: Final = re.compile(r"\s*(?:\+|,|\bthen\b|\band\b)\s*")
_FACT: Final = re.compile(r"(parameters|layers|experts|hidden_size|family|name)\s*==?\s*(\S+)")
_WORD: Final = re.compile(r"[a-z]+|\d+(?:[.:]\d+)*")
_ENDING: Final = re.compile(r"(?<=..)(?:i[sz](?:ation|ing|e[ds]?)|ing|e?[ds]|e)$")
_COMMON: Final = frozenset(
    (
        "a",
        "an",
        "and",
        "at",
        "by",
        "does",
        "for",
        "how",
        "in",
        "is",
        "of",
        "on",
        "the",
        "to",
        "with",
    )
)
_HUB: Final = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[0-9a-f]{40}))?")

_NEAREST: Final = 5
"""How many bets are listed that have only some of the words."""


class AskError(ValueError):
    """A question that cannot be understood; the text says what is allowed."""


class NoIdeaError(AskError):
    """A question that names no intervention; it may consist of the words of bets."""


@dataclass(frozen=True)
class Idea:
    """Kinds of interventions on a model; `hinted` if its size was read from its name."""

    kinds: tuple[str, ...]
    model: KnownModel
    hinted: bool = False


def read_idea(text: str, kinds: Iterable[str], lookup: ModelLookup, start: Path) -> Idea:
    """Return what a question is about; folders are relative to `start`.

    Raises AskError for a question that cannot be understood, with a suggestion.
    """
    match = _IDEA.fullmatch(text)
    if match is None:
        raise NoIdeaError(f"{printable(text)!r} is not a question; allowed: {FORM}")
    done = tuple(_kind(word, tuple(kinds)) for word in _BETWEEN.split(match["done"]))
    return _model(done, match["model"], lookup, start)


def _kind(word: str, kinds: tuple[str, ...]) -> str:
    name = re.sub(r"[\s-]+", "_", word.strip().lower())
    if name not in kinds:
        close = suggestion(name, kinds)
        error = AskError if close else NoIdeaError
        raise error(
            f"{printable(word)!r} is no intervention{close or ';'} allowed: {', '.join(kinds)}"
        )
    return name


def _model(kinds: tuple[str, ...], text: str, lookup: ModelLookup, start: Path) -> Idea:
    if text in REFERENCE_NAMES:
        return Idea(kinds, lookup.named(text))
    if facts := _FACT.findall(text):
        if rest := _FACT.sub("", text).strip(" ,"):
            raise AskError(f"{printable(rest)!r} is no fact; allowed: parameters=3e7 experts=16")
        return Idea(kinds, _from_facts(dict(facts), text))
    if text.startswith((".", "/")) or (start / text).is_dir():
        reach = AllowedPaths(start, (start.resolve(), (start / text).resolve()))
        try:
            return Idea(kinds, lookup.folder(reach.directory(text, "model"), text, reach))
        except MeasurementError as error:
            raise AskError(str(error)) from None
    size = parameters_in_name(text)
    if (hub := _HUB.fullmatch(text)) is not None:
        known = lookup.named(hub["name"], hub["revision"])
        if known.facts.parameters is not None or size is None:
            return Idea(kinds, known)
        hinted = replace(known, facts=replace(known.facts, parameters=size))
        return Idea(kinds, hinted, hinted=True)
    if size is not None:
        model = KnownModel(
            None, text, ModelFacts(parameters=size), missing="only its size is known"
        )
        return Idea(kinds, model, hinted=True)
    close = suggestion(text, REFERENCE_NAMES) or ";"
    raise AskError(
        f"{printable(text)!r} is no model{close} allowed: {', '.join(REFERENCE_NAMES)}, "
        "./FOLDER, ORG/NAME, or facts such as parameters=3e7 experts=16"
    )


def _from_facts(facts: dict[str, str], text: str) -> KnownModel:
    facts = {key: value.strip("\"',") for key, value in facts.items()}
    known: dict[str, Fact] = {key: _number(key, facts[key]) for key in NUMBERS if key in facts}
    found = ModelFacts.of({**known, "family": facts.get("family")})
    return KnownModel(facts.get("name"), text, found, missing="only these facts are known")


def _number(key: str, text: str) -> int:
    size = parameters_in_name(text)
    try:
        return int(float(text)) if size is None else size
    except (ValueError, OverflowError):
        raise AskError(f"{key}={printable(text)} is no number") from None


def answer(idea: Idea, catalogue: Catalogue, lookup: ModelLookup, root: Path) -> Iterator[str]:
    """Yield lines with the doors that are closed to an idea, and with bets that are close to it."""
    model = idea.model
    yield f"{' + '.join(idea.kinds)} on {cut(model.shown)}{_described(idea)}"
    if model.missing is not None and not model.facts.families:
        yield f"  its configuration was not read: {cut(model.missing)}"
    yield from (f"  not read, and may close more: {each}" for each in catalogue.unreadable)
    concerned = [entry for entry in catalogue.doors if _reasons(entry, idea)]
    truths = [(entry, covers(entry, model, lookup)) for entry in concerned]
    closed = [entry for entry, truth in truths if truth is Truth.TRUE]
    maybe = [entry for entry, truth in truths if truth is Truth.UNDECIDED]
    for entry in closed:
        yield ""
        yield f"CLOSED by {entry.id}{' (by the size in its name)' if idea.hinted else ''}"
        yield from _door(entry, idea, root)
    for entry in maybe:
        yield ""
        yield f"PERHAPS CLOSED by {entry.id}: {_unknown(entry, model)}"
        yield from _door(entry, idea, root)
    if not closed and not maybe:
        yield ""
        by_name = ", if the size in its name is right" if idea.hinted and concerned else ""
        yield f"OPEN: no falsification of the catalogue rules this out{by_name}"
    yield from _near(idea, catalogue, [*closed, *maybe], lookup, root)
    yield ""
    if closed:
        bars = dict.fromkeys(f"'{cut(str(each))}'" for entry in closed for each in entry.bars)
        yield (
            f"To bet against it all the same: a bet with {challenging(each.id for each in closed)}, "
            f"which must also meet {' and '.join(bars)}."
        )
    else:
        yield "To find out: a bet with 'status: proposed'; write its criteria before you measure."


def _described(idea: Idea) -> str:
    facts: dict[str, Fact] = {
        name: value for name, value in idea.model.facts.numbers.items() if value is not None
    }
    if idea.model.facts.families:
        facts["family"] = " or ".join(idea.model.facts.families)
    about = "by its name: " if idea.hinted else ""
    return f" ({about}{describe_facts(facts)})" if facts else ""


def _reasons(entry: Entry, idea: Idea) -> list[str]:
    """Return why a door is closed to the idea, a line for each of its interventions."""
    assert entry.closes is not None
    closed = entry.closes.interventions
    reasons = (closed_to(closed, kind, kinds_like(kind)) for kind in idea.kinds)
    return [reason for reason in reasons if reason is not None]


def _door(entry: Entry, idea: Idea, root: Path) -> Iterator[str]:
    yield f"  {cut(entry.document.bet.title)}, {entry.place(root)}"
    yield from (f"  {line}" for line in describe_door(entry))
    yield from (f"  {reason}" for reason in _reasons(entry, idea) if " " in reason)


def _unknown(entry: Entry, model: KnownModel) -> str:
    assert entry.closes is not None
    facts = next(model.scope_facts())
    lacking = sorted(name for name in entry.closes.models.facts if facts[name] is None)
    return f"that depends on its {' and '.join(lacking)}, which is not known here"


def _near(
    idea: Idea,
    catalogue: Catalogue,
    shown_already: list[Entry],
    lookup: ModelLookup,
    root: Path,
) -> Iterator[str]:
    """Yield bets with the same interventions, on this model or on others, the nearest first."""
    like = {each for kind in idea.kinds for each in kinds_like(kind)}
    near = [
        entry
        for entry in catalogue.entries
        if entry not in shown_already and not like.isdisjoint(_kinds(entry))
    ]
    near.sort(key=lambda entry: _distance(entry, idea, lookup))
    if near:
        yield ""
        yield "Tried near it:"
    for entry in near:
        yield f"  {_heading(entry, root)}"
        yield from (f"    {line}" for line in describe_numbers(entry))


def _heading(entry: Entry, root: Path) -> str:
    bet = entry.document.bet
    return (
        f"{bet.id} ({cut(bet.title)}), {bet.status}, on {cut(bet.model.name)}, {entry.place(root)}"
    )


def _kinds(entry: Entry) -> set[str]:
    return {each.kind for each in entry.document.bet.interventions}


def _distance(entry: Entry, idea: Idea, lookup: ModelLookup) -> tuple[int, int, float]:
    """Return how far a bet is from an idea: by interventions, by words of the model's family, by its size."""
    name = entry.document.bet.model.name
    by_name = ModelFacts(parameters=parameters_in_name(name))
    facts = lookup.named(name).facts if name in REFERENCE_NAMES else by_name
    alike = _family_words(name, facts) & _family_words(idea.model.shown, idea.model.facts)
    sizes = (facts.parameters, idea.model.facts.parameters)
    apart = abs(math.log(sizes[0] / sizes[1])) if sizes[0] and sizes[1] else math.inf
    return -len(_kinds(entry) & set(idea.kinds)), -len(alike), apart


def _family_words(name: str, facts: ModelFacts) -> set[str]:
    words = _words(" ".join((name, *facts.families)))
    return {word for word in words if word.isalpha() and len(word) > 1}


def by_words(text: str, catalogue: Catalogue, root: Path) -> Iterator[str]:
    """Yield lines with the bets that have every word of a question, or none where no bet has."""
    words = _words(text)
    found = [entry for entry in catalogue.entries if words and words <= _words(_text(entry))]
    if found:
        yield f"{cut(text)}: {'this bet has' if len(found) == 1 else 'these bets have'} the words"
    for entry in found:
        yield ""
        yield _heading(entry, root)
        yield f"  claim: {cut(entry.document.bet.claim_line)}"
        if entry.closes is not None:
            yield f"  it closes: {describe_closes(entry.closes)}"
        yield from (f"  {line}" for line in describe_numbers(entry))


def nearest(text: str, catalogue: Catalogue, root: Path) -> Iterator[str]:
    """Yield lines with the bets that have at least half of the words of a question, or none.

    The bets with most of them come first; of those with as many, the bets whose words fewer bets have.
    """
    words = _words(text)
    held = [(entry, words & _words(_text(entry))) for entry in catalogue.entries]
    bets_with = Counter(word for _, found in held for word in found)
    near = [(entry, found) for entry, found in held if found and 2 * len(found) >= len(words)]
    near.sort(key=lambda each: (-len(each[1]), sum(bets_with[word] for word in each[1])))
    if near:
        yield "no bet has all these words; nearest:"
    for entry, found in near[:_NEAREST]:
        lacking = listed(word for word in _WORD.findall(text.lower()) if _words(word) - found)
        yield f"  {_heading(entry, root)}, without {cut(lacking)}"
    if near:
        yield f"What else can be asked: {FORM}"


def _words(text: str) -> frozenset[str]:
    """Return the words of a text without their endings: prune, pruned and pruning are one."""
    words = _WORD.findall(text.lower())
    return frozenset(_ENDING.sub("", word) for word in words if word not in _COMMON)


def _text(entry: Entry) -> str:
    bet = entry.document.bet
    parts = [bet.id, bet.title, bet.claim, bet.model.name, bet.notes or ""]
    parts += [each.kind for each in bet.interventions]
    for each in bet.evidence:
        parts += [each.source, each.model or "", each.text or "", *(each.variants or {})]
    return " ".join(parts)
