"""Find the closed doors that a bet stands in.

A door closed to one intervention is closed to all that do the same under other names. Only what is
the same function of the model's input counts: two interventions that are merely as bad as each
other are two bets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.arguments import (
    LoadCheckpoint,
    MergeExperts,
    PruneWeights,
    SkipLayers,
    ZeroLayers,
)
from pytest_layerguard.bet.criteria import parse
from pytest_layerguard.bet.criteria.interval import Truth
from pytest_layerguard.catalogue.crossing.strength import is_weaker, record_meets
from pytest_layerguard.catalogue.model_facts import ModelFacts
from pytest_layerguard.catalogue.recognised import Recognised, RecognisedCandidate
from pytest_layerguard.catalogue.wording import (
    cut,
    describe_door,
    describe_facts,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_layerguard.bet.arguments import Intervention
    from pytest_layerguard.bet.bet import Bet
    from pytest_layerguard.bet.criteria.scope import ModelScope
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.catalogue.bet_folders import Catalogue, Entry
    from pytest_layerguard.catalogue.model_facts import FindsModels, KnownModel


_NOTHING: Final[Recognised] = {}


@dataclass(frozen=True)
class Crossing:
    """A closed door that a bet stands in.

    Attributes:
        entry: The falsification that closed it.
        parts: The parts of the bet that the door is closed to, in words.
        arms: The arms that stand in it.
        checkpoints: The checkpoints that stand in it.
        model: The facts of the model that the door's scope names, in words.
        doubt: Why that is not certain, or None; a door that cannot be excluded is closed.
        absent: Whether the doubt is only that the configuration is not available here.
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
        """The criteria that a challenge must meet."""
        return " and ".join(f"'{cut(str(each))}'" for each in self.entry.bars)

    def lines(
        self, root: Path, bet: Bet | None = None, *, challenge: Sequence[str] = ()
    ) -> Iterator[str]:
        """Yield whose door it is, why it is closed, with which numbers, and what can be done.

        `challenge` has all that a challenge would have to name; without, none is suggested. Beside
        `bet` it says how strong the two claims are.
        """
        yield f"{self.id} ({cut(self.entry.document.bet.title)}), {self.entry.place(root)}"
        yield from (f"  {line}" for line in describe_door(self.entry))
        yield f"  you stand in it with: {'; '.join(self.parts)}"
        yield f"  on: {self.model}"
        if self.doubt is not None:
            yield f"  which cannot be excluded: {self.doubt}"
        if bet is not None:
            yield from (f"  {line}" for line in self.strength(bet))
        yield f"  what you can do: {self.alternatives(bet, challenge)}"

    def strength(self, bet: Bet) -> Iterator[str]:
        """Yield whether a bet claims less than what failed, and whether the record would bear it out."""
        if is_weaker(bet, self.entry):
            own = cut(str(bet.criteria.lenient))
            yield f"your claim is weaker than the one that failed: '{own}' does not imply {self.bars}"
        if (met := record_meets(bet, self.entry)) is not None:
            yield f"its record would meet your bar: {cut(met)}"

    def alternatives(self, bet: Bet | None = None, challenge: Sequence[str] = ()) -> str:
        """Return what to do instead; a challenge only where `challenge` has the ids it must name."""
        assert self.entry.closes is not None
        instead = f"another intervention; a model outside '{cut(str(self.entry.closes.models))}'"
        if challenge:
            instead += (
                f"; or {challenging(challenge)}, which is measured and must also meet {self.bars}"
            )
            if bet is not None and is_weaker(bet, self.entry):
                instead += (
                    f"; or 'acknowledges: [{self.id}]', since your claim is weaker: it is measured, "
                    f"judged by its own criteria, and must not be CATASTROPHIC by that of {self.id}"
                )
        return instead


def challenging(ids: Iterable[str]) -> str:
    """Return the line of a bet that challenges falsifications."""
    return f"'challenges: [{', '.join(dict.fromkeys(ids))}]'"


def crossings(
    document: BetDocument,
    bets: Path,
    catalogue: Catalogue,
    lookup: FindsModels,
    found_in_files: Recognised | None = None,
) -> tuple[Crossing, ...]:
    """Return every closed door that a bet stands in, whole or with a part, in catalogue order.

    The bet's model is looked up only where a door is closed to what the bet does. Raises
    MeasurementError for a model folder that is missing, damaged or out of the bet's reach.

    Args:
        document: The bet.
        bets: Its bet folder.
        catalogue: The catalogue.
        lookup: Finds what is known of models.
        found_in_files: What its candidates are recognised as; looked up by default.
    """
    found = []
    if found_in_files is None:
        wanted = catalogue.doors and has_candidates(document.bet)
        found_in_files = lookup.recognised(document, bets) if wanted else {}
    for entry in catalogue.doors:
        # Its own door is no obstacle; one of the same id in another folder is not its own.
        if (entry.bets, entry.id) == (bets, document.bet.id):
            continue
        parts = tuple(parts_inside(entry, document.bet, found_in_files))
        if not parts:
            continue
        standing = [
            (name, model, truth)
            for name, model in lookup.checkpoints(document, bets).items()
            if (truth := covers(entry, model, lookup)) is not Truth.FALSE
        ]
        if standing:
            found.append(_crossing(entry, parts, standing))
    return tuple(found)


def has_candidates(bet: Bet) -> bool:
    """Return whether a bet loads a checkpoint in the place of its model."""
    return any(isinstance(each.arguments, LoadCheckpoint) for each in bet.interventions)


def _crossing(
    entry: Entry,
    parts: Sequence[tuple[str | None, str]],
    standing: Sequence[tuple[str | None, KnownModel, Truth]],
) -> Crossing:
    certain = any(truth is Truth.TRUE for _, _, truth in standing)
    doubts = [_doubt(entry, model) for _, model, _ in standing]
    assert entry.closes is not None
    return Crossing(
        entry,
        parts=tuple(dict.fromkeys(words for _, words in parts)),
        arms=frozenset(arm for arm, _ in parts),
        checkpoints=frozenset(name for name, _, _ in standing),
        model="; ".join(
            dict.fromkeys(describe_model(model, entry.closes.models) for _, model, _ in standing)
        ),
        doubt=None if certain else "; ".join(dict.fromkeys(doubts)),
        absent=not certain and all(model.absent for _, model, _ in standing),
    )


def parts_inside(
    entry: Entry, bet: Bet, found_in_files: Mapping[str | None, RecognisedCandidate] = _NOTHING
) -> Iterator[tuple[str | None, str]]:
    """Yield each arm and part of a bet that a door is closed to.

    A candidate stands in a door by what its files are recognised as, whatever it is called.
    """
    closes = entry.closes
    assert closes is not None
    for arm, interventions in bet.arm_interventions.items():
        for intervention in interventions:
            effects = kinds_in_effect(intervention)
            words = closed_to(closes.interventions, intervention.kind, effects)
            if words is not None:
                yield arm, words if arm is None else f"{words} (arm {arm})"
        candidate = found_in_files.get(arm, RecognisedCandidate())
        for kind, sentence in candidate.findings:
            words = closed_to(closes.interventions, kind, _kinds_found(kind))
            if words is not None:
                words = f"load_checkpoint, recognised as {words}: {cut(sentence)}"
                yield arm, words if arm is None else f"{words} (arm {arm})"


def _kinds_found(kind: str) -> Mapping[str, str | None]:
    """Return what a kind that files are recognised as is in effect, as `kinds_in_effect`."""
    # Where a whole layer is left out, files are recognised as remove_layers or zero_layers.
    return _BRANCH_OUT if kind == "skip_layers" else kinds_like(kind)


def closed_to(closed: Sequence[str], kind: str, effects: Mapping[str, str | None]) -> str | None:
    """Return words for a kind to which a door is closed, by its name or by its effect, or None."""
    if kind in closed:
        return kind
    same = next((each for each in closed if each in effects), None)
    return None if same is None else f"{kind}, which is {same} in effect: {effects[same]}"


def covers(entry: Entry, model: KnownModel, lookup: FindsModels) -> Truth:
    """Return whether the scope of a door covers a model.

    A folder's name proves nothing: a copy of a closed model can be called anything. So where only
    the name decides, a folder may be any model that the scope names, unless its body (layers,
    width, experts) is known to be another.
    """
    assert entry.closes is not None
    scope = entry.closes.models
    plain = model.inside(scope)
    if plain is not Truth.UNDECIDED or model.name is not None or "name" not in scope.facts:
        return plain
    own = model.facts.body
    for name in names_in(scope):
        if model.inside(scope, name=name) is Truth.FALSE:
            continue
        body = _body(entry, name, lookup)
        if own is None or body is None or body == own:
            return Truth.UNDECIDED
    return model.inside(scope, name=_ANOTHER)


_ANOTHER: Final = "\n"
"""A name that no scope can quote, for a folder that is none of the models that the scope names."""


def _body(entry: Entry, name: str, lookup: FindsModels) -> tuple[int, int, int] | None:
    """Return the body of a model that a scope names, from the record if that has it."""
    for facts in entry.record.facts.values() if entry.record is not None else ():
        if facts.get("name") == name:
            return ModelFacts.of(facts).body
    return lookup.named(name).facts.body


def names_in(scope: ModelScope) -> tuple[str, ...]:
    """Return the words that a scope quotes, any of which may be a name."""
    return tuple(part.value for part in parse.walk(scope.node) if isinstance(part, parse.Text))


def describe_model(model: KnownModel, scope: ModelScope) -> str:
    """Return the facts of a model that a scope names, in words."""
    facts = next(model.scope_facts())
    asked = describe_facts({name: facts[name] for name in sorted(scope.facts - {"name"})})
    return f"{cut(model.shown)} ({asked})" if asked else cut(model.shown)


def _doubt(entry: Entry, model: KnownModel) -> str:
    if model.missing is not None:
        return f"the configuration of {cut(model.shown)} is not known: {cut(model.missing)}"
    return (
        f"{cut(model.shown)} may be a copy of the model that {entry.id} names; a folder's name "
        "proves nothing, and nothing else tells them apart"
    )


NOTHING_LEFT: Final = 0.99
"""The sparsity from which a pruned matrix counts as left out: one weight in a hundred computes nothing."""

_LEAVES_OUT: Final = "both leave layers out"
_ADDS_NOTHING: Final = "a layer of zeros adds nothing, which is leaving it out"
_INTO_ONE: Final = "the mean of all experts is all of them merged into one"
_NO_BRANCH: Final = "a branch of zeros adds nothing, which is leaving it out"
_BRANCH_OUT: Final = {"skip_layers": _NO_BRANCH, "zero_layers": _NO_BRANCH}
"""Less than a layer is taken out, which no removal of layers does."""
_TAKES_LAYERS_OUT: Final = ("skip_layers", "remove_layers", "zero_layers")


def kinds_in_effect(intervention: Intervention) -> Mapping[str, str | None]:
    """Return every kind that an intervention equals in effect, with the reason; None for its own kind."""
    arguments = intervention.arguments
    if (
        isinstance(arguments, PruneWeights)
        and arguments.parts == "linear"
        and arguments.share >= NOTHING_LEFT
    ):
        reason = f"without {arguments.share:.4g} of every matrix {_ADDS_NOTHING}"
        return {intervention.kind: None, **dict.fromkeys(_TAKES_LAYERS_OUT, reason)}
    if isinstance(arguments, SkipLayers | ZeroLayers) and arguments.part is not None:
        return {**_BRANCH_OUT, intervention.kind: None}
    if isinstance(arguments, MergeExperts) and (arguments.count, arguments.weighted) == (
        1,
        "uniform",
    ):
        return {intervention.kind: None, "average_experts": _INTO_ONE}
    return kinds_like(intervention.kind)


def kinds_like(kind: str) -> Mapping[str, str | None]:
    """Return every kind that a kind is in effect whatever its arguments, as `kinds_in_effect`."""
    if kind == "average_experts":
        return {kind: None, "merge_experts": _INTO_ONE}
    if kind not in _TAKES_LAYERS_OUT:
        return {kind: None}
    effects = {
        other: _ADDS_NOTHING if "zero_layers" in (kind, other) else _LEAVES_OUT
        for other in _TAKES_LAYERS_OUT
    }
    return {**effects, kind: None}
