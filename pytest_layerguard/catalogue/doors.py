"""Which closed doors a bet stands in, and what its challenges must meet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from pytest_layerguard.bet.criteria import parse
from pytest_layerguard.bet.criteria.evaluate import Expression
from pytest_layerguard.bet.criteria.interval import Truth, short
from pytest_layerguard.bet.criteria.metrics import METRICS
from pytest_layerguard.bet.criteria.parse import CriterionError
from pytest_layerguard.bet.errors import printable
from pytest_layerguard.catalogue.bet_folders import Catalogue, Entry, shown
from pytest_layerguard.catalogue.equal_effect import kinds_in_effect
from pytest_layerguard.catalogue.wording import cut, describe_closes, describe_numbers

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_layerguard.bet.arguments import Intervention
    from pytest_layerguard.bet.bet import Bet
    from pytest_layerguard.bet.criteria.evaluate import Row
    from pytest_layerguard.bet.criteria.scope import ModelScope
    from pytest_layerguard.bet.criteria.straddle import Straddle
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.catalogue.model_lookup import Sighting

Sightings = Mapping[str | None, "Sighting"]


@dataclass(frozen=True)
class Crossing:
    """A closed door that a bet stands in.

    Attributes:
        entry: The falsification that closed it.
        parts: What of the bet the door is closed to, in words.
        arms: The arms that stand in it.
        checkpoints: The checkpoints that stand in it.
        model: What the model is, as far as the door asks.
        doubt: Why that is not certain, or None; a door that cannot be excluded is closed.
        absent: Whether the doubt is only that the configuration cannot be had here.
    """

    entry: Entry
    parts: tuple[str, ...]
    arms: frozenset[str | None]
    checkpoints: frozenset[str | None]
    model: str
    doubt: str | None = None
    absent: bool = False

    @property
    def id(self) -> str:
        """The falsification's id."""
        return self.entry.id

    @property
    def bars(self) -> str:
        """The criteria that whoever challenges it must meet."""
        return " and ".join(f"'{cut(str(each))}'" for each in bars_of(self.entry))

    def lines(self, root: Path, *, challenge: Sequence[str] = ()) -> Iterator[str]:
        """Yield all that a reader needs: whose door, why, with which numbers, and what can be done.

        `challenge` has all that a challenge would have to name; without, none is suggested.
        """
        document = self.entry.document
        bet, closes = document.bet, self.entry.closes
        assert closes is not None
        yield f"{self.id} ({cut(bet.title)}), {shown(document.path, root)}:{document.line}"
        yield f"  claim that failed: {cut(bet.claim_line)}"
        yield f"  it closes: {describe_closes(closes)}"
        yield from (f"  {line}" for line in describe_numbers(self.entry))
        yield f"  you stand in it with: {'; '.join(self.parts)}"
        yield f"  on: {self.model}"
        if self.doubt is not None:
            yield f"  which cannot be excluded: {self.doubt}"
        yield f"  what you can do: {self.alternatives(challenge)}"

    def alternatives(self, challenge: Sequence[str] = ()) -> str:
        """Return what to do instead; a challenge only where `challenge` has the ids it must name."""
        assert self.entry.closes is not None
        instead = f"another intervention; a model outside '{cut(str(self.entry.closes.models))}'"
        if challenge:
            instead += (
                f"; or {challenging(challenge)}, which is measured and must also meet {self.bars}"
            )
        return instead


def challenging(ids: Iterable[str]) -> str:
    """Return the line of a bet that bets against falsifications."""
    return f"'challenges: [{', '.join(dict.fromkeys(ids))}]'"


class Looks(Protocol):
    """Whatever sees models without loading them; `sight.ModelLookup` is one."""

    def look(self, document: BetDocument, bets: Path) -> Sightings:
        """Return what is known of every checkpoint of a bet."""

    def named(self, name: str) -> Sighting:
        """Return what is known of a reference model or a model on the hub."""


def crossings(
    document: BetDocument, bets: Path, catalogue: Catalogue, scout: Looks
) -> tuple[Crossing, ...]:
    """Return every closed door that a bet stands in, whole or with a part, in catalogue order.

    The bet's model is looked at only where a door is closed to what the bet does. Raises MeasurementError
    for a model folder that is missing, damaged or out of the bet's reach.
    """
    found = []
    for entry in catalogue.doors:
        # Its own door is no obstacle; one of the same id in another folder is not its own.
        if (entry.bets, entry.id) == (bets, document.bet.id):
            continue
        parts = tuple(_parts(entry, document.bet))
        if not parts:
            continue
        standing = [
            (name, sighting, truth)
            for name, sighting in scout.look(document, bets).items()
            if (truth := covers(entry, sighting, scout)) is not Truth.FALSE
        ]
        if standing:
            found.append(_crossing(entry, parts, standing))
    return tuple(found)


def _crossing(
    entry: Entry,
    parts: Sequence[tuple[str | None, str]],
    standing: Sequence[tuple[str | None, Sighting, Truth]],
) -> Crossing:
    certain = any(truth is Truth.TRUE for _, _, truth in standing)
    doubts = [_doubt(entry, sighting) for _, sighting, _ in standing]
    assert entry.closes is not None
    return Crossing(
        entry,
        parts=tuple(dict.fromkeys(words for _, words in parts)),
        arms=frozenset(arm for arm, _ in parts),
        checkpoints=frozenset(name for name, _, _ in standing),
        model="; ".join(
            dict.fromkeys(known(sighting, entry.closes.models) for _, sighting, _ in standing)
        ),
        doubt=None if certain else "; ".join(dict.fromkeys(doubts)),
        absent=not certain and all(sighting.absent for _, sighting, _ in standing),
    )


def _parts(entry: Entry, bet: Bet) -> Iterator[tuple[str | None, str]]:
    """Yield each arm and part of a bet that a door is closed to."""
    closes = entry.closes
    assert closes is not None
    for arm, interventions in bet.arm_interventions.items():
        for intervention in interventions:
            words = _closed_to(closes.interventions, intervention)
            if words is not None:
                yield arm, words if arm is None else f"{words} (arm {arm})"


def _closed_to(kinds: Sequence[str], intervention: Intervention) -> str | None:
    effects = kinds_in_effect(intervention)
    if intervention.kind in kinds:
        return intervention.kind
    same = next((kind for kind in kinds if kind in effects), None)
    if same is None:
        return None
    return f"{intervention.kind}, which is {same} in effect: {effects[same]}"


def covers(entry: Entry, sighting: Sighting, scout: Looks) -> Truth:
    """Return whether the scope of a door covers a model.

    A folder's name proves nothing: a copy of a closed model can be called anything. So where only
    the name decides, a folder may be any model that the scope names, unless its body (layers,
    width, experts) is known to be another.
    """
    assert entry.closes is not None
    scope = entry.closes.models
    plain = sighting.inside(scope)
    if plain is not Truth.UNDECIDED or sighting.name is not None or "name" not in scope.facts:
        return plain
    own = sighting.shape.body
    for name in names_in(scope):
        if sighting.inside(scope, name=name) is Truth.FALSE:
            continue
        body = _body(entry, name, scout)
        if own is None or body is None or body == own:
            return Truth.UNDECIDED
    return sighting.inside(scope, name=_ANOTHER)


_ANOTHER: Final = "\n"
"""A name that no scope can quote: what a folder is called must not put it outside either."""


def _body(entry: Entry, name: str, scout: Looks) -> tuple[object, ...] | None:
    """Return the body of a model that a scope names, from the record where that has it."""
    for facts in entry.record.facts.values() if entry.record is not None else ():
        if facts.get("name") == name:
            body = tuple(facts.get(key) for key in ("layers", "hidden_size", "experts"))
            return None if None in body else body
    return scout.named(name).shape.body


def names_in(scope: ModelScope) -> tuple[str, ...]:
    """Return the words that a scope quotes, any of which may be a name."""
    return tuple(part.value for part in parse.walk(scope.node) if isinstance(part, parse.Text))


def known(sighting: Sighting, scope: ModelScope) -> str:
    """Return what is known of a model, as far as a scope asks."""
    facts = next(sighting.facts())
    told = []
    for name in sorted(scope.facts - {"name"}):
        value = facts[name]
        if isinstance(value, str):
            told.append(f"{name} {printable(value)}")
        else:
            told.append(f"{name} {'unknown' if value is None else short(value)}")
    return f"{cut(sighting.shown)}{' (' + ', '.join(told) + ')' if told else ''}"


def _doubt(entry: Entry, sighting: Sighting) -> str:
    if sighting.missing is not None:
        return f"the configuration of {cut(sighting.shown)} is not known: {cut(sighting.missing)}"
    return (
        f"{cut(sighting.shown)} may be a copy of the model that {entry.id} names; a folder's name "
        "proves nothing, and nothing else tells them apart"
    )


def mistakes(
    document: BetDocument, catalogue: Catalogue, crossed: Sequence[Crossing]
) -> Iterator[str]:
    """Yield what is wrong with a bet's challenges, each with what is allowed."""
    bet = document.bet
    allowed = ", ".join(dict.fromkeys(each.id for each in crossed)) or "none, it stands in no door"
    for place, id_ in enumerate(bet.challenges):
        line, column = document.position("challenges", place)
        where = f"line {line}, column {column}: challenges: {id_!r}"
        entries = catalogue.of(id_)
        if not entries:
            yield f"{where} is no bet of the catalogue; allowed: {allowed}"
        elif all(entry.closes is None for entry in entries):
            yield f"{where} is {entries[0].document.bet.status} and closes no door; allowed: {allowed}"
        elif not any(each.id == id_ for each in crossed):
            yield f"{where} closed a door that this bet does not stand in; allowed: {allowed}"
        else:
            yield from (
                f"{where}: {lack}"
                for each in crossed
                if each.id == id_
                for lack in _lacks(each, bet)
            )


def _lacks(crossing: Crossing, bet: Bet) -> Iterator[str]:
    """Yield what a bet must measure besides, so that the bar can be judged on it."""
    names = {*(bet.arms or {}), *(bet.measure.texts or {}), *bet.model.checkpoints()}
    given = (bet.criteria.strict, bet.criteria.lenient, bet.criteria.catastrophic)
    measured = {each.metric for one in given if one is not None for each in one.references}
    bars = bars_of(crossing.entry)
    for reference in sorted({each for bar in bars for each in bar.references}, key=str):
        metric = METRICS.get(reference.metric)
        if metric is not None and metric.needs == "sample" and bet.measure.sample is None:
            yield f"its bar needs {reference.metric}; add measure.sample"
        if metric is None and reference.metric not in measured:
            yield f"its bar needs {reference.metric}; name it in a criterion, so that it is measured"
        missing = [name for name in reference.prefix if name not in names]
        if missing:
            yield (
                f"its bar is about {reference}; name an arm, a text or a checkpoint "
                f"{missing[0]!r}, so that it can be judged"
            )
    yield from _elsewhere(
        crossing, {name for bar in bars for each in bar.references for name in each.prefix}
    )


def _elsewhere(crossing: Crossing, named: set[str]) -> Iterator[str]:
    """Yield which arms are not what a bar that names arms is about: names alone would choose for it."""
    theirs = crossing.entry.document.bet
    about = named & set(theirs.arms or {})
    if not about:
        return
    closed = {arm for arm, _ in _parts(crossing.entry, theirs)}
    # A bet without arms is asked to name one already.
    for arm in sorted(each for each in crossing.arms - about if each is not None):
        yield f"its bar is about {', '.join(sorted(about))}; the arm {arm!r} stands in the door too"
    for arm in sorted((about & closed) - crossing.arms):
        yield f"its bar is about {arm}, which stands in the door there and not here"


@dataclass(frozen=True)
class Bar:
    """Whether a bet meets the bar of a falsification, with the numbers or why it cannot be told."""

    truth: Truth
    told: str
    straddling: tuple[Straddle, ...] = ()
    """What kept it from being told, where that is undecided."""


def bar(crossing: Crossing, rows: Sequence[Row]) -> Bar:
    """Judge what was measured of a bet by the lenient criterion of a falsification.

    Only arms and checkpoints that stand in the door count. Where the criterion is about one
    measurement and the bet has several, every one of them must meet it: a bar is not met by
    choosing.
    """
    bars = [_judged(expression, crossing, rows) for expression in bars_of(crossing.entry)]
    truth = Truth.all(each.truth for each in bars)
    deciding = [each for each in bars if each.truth is truth]
    straddling = tuple(straddle for each in deciding for straddle in each.straddling)
    return Bar(truth, "; ".join(each.told for each in deciding), straddling)


def bars_of(entry: Entry) -> tuple[Expression, ...]:
    """Return the lenient criterion of a falsification, and the one of its record.

    Where they differ both hold: no change of a falsification loosens its bar before it has been
    measured and recorded anew.
    """
    bars = [entry.document.bet.criteria.lenient]
    if entry.record is not None:
        bars.append(Expression.parse(entry.record.bet["criteria"]["lenient"]))
    return tuple(dict.fromkeys(bars))


_TOLD: Final = 3


def _judged(expression: Expression, crossing: Crossing, rows: Sequence[Row]) -> Bar:
    inside = [
        row for row in rows if row.arm in crossing.arms and row.checkpoint in crossing.checkpoints
    ]
    if any(reference.prefix for reference in expression.references):
        groups = [list(rows)]
    else:
        keys = dict.fromkeys((row.arm, row.text, row.checkpoint) for row in inside)
        groups = [
            [row for row in inside if (row.arm, row.text, row.checkpoint) == key] for key in keys
        ]
        if not _ranges(expression):
            groups = [[row] for group in groups for row in group]
    evaluations = []
    # Where nothing was measured in the door, an empty group says so: no bar is met by that.
    for group in groups or [[]]:
        try:
            evaluations.append(expression.evaluate(group))
        except CriterionError as error:
            return Bar(Truth.UNDECIDED, f"cannot be judged here: {cut(error.message)}")
    truth = Truth.all(each.truth for each in evaluations)
    told = [each.filled for each in evaluations if each.truth is truth]
    more = f"; and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
    straddling = (straddle for each in evaluations for straddle in each.straddling)
    return Bar(
        truth,
        cut("; ".join(told[:_TOLD]) + more),
        tuple(straddling) if truth is Truth.UNDECIDED else (),
    )


def _ranges(expression: Expression) -> bool:
    return any(isinstance(node, parse.Quantifier) for node in parse.walk(expression.node))
