"""Doors: who stands in one, what is reported of it, and what a challenge must meet, to the letter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.catalogue import BET_40, measured

from pytest_layerguard.bet.criteria.evaluate import Expression, Row
from pytest_layerguard.bet.criteria.interval import Interval, Truth
from pytest_layerguard.bet.criteria.parse import CriterionError
from pytest_layerguard.bet.criteria.scope import ModelScope
from pytest_layerguard.bet.verdict import Verdict
from pytest_layerguard.catalogue.bet_folders import Catalogue, Entry
from pytest_layerguard.catalogue.crossing.challenges import (
    ChallengeResult,
    judge_challenge,
    mistakes,
)
from pytest_layerguard.catalogue.crossing.doors import (
    Crossing,
    challenging,
    covers,
    crossings,
    describe_model,
    names_in,
)
from pytest_layerguard.catalogue.model_facts import KnownModel, KnownModels, ModelFacts
from pytest_layerguard.catalogue.records import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.catalogue import Bets

    from pytest_layerguard.bet.reader import BetDocument

SMALL = ModelFacts(836_880, 4, 16, 16, ("qwen3_moe",))
LARGE = ModelFacts(10**9, 24, 0, 1024, ("llama", "llava"))
REFERENCE = KnownModel("reference", "reference", SMALL)
HIDDEN = KnownModel("ORG/a", "ORG/a", missing="ORG/a: not in the cache", absent=True)


@dataclass
class ScoredTokens:
    """Finds what it was given, and remembers what it was asked for."""

    models: KnownModels = field(default_factory=lambda: {None: REFERENCE})
    others: Mapping[str, KnownModel] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def checkpoints(self, document: BetDocument, bets: Path) -> KnownModels:
        self.asked.append(f"{document.bet.id} in {bets.name}")
        return self.models

    def named(self, name: str) -> KnownModel:
        self.asked.append(name)
        return self.others.get(name, KnownModel(name, name, missing="unheard of", absent=True))


def door(bets: Bets, models: str = "parameters <= 1e8", *kinds: str, **changes: Any) -> Entry:
    """Put a falsification that closes a door, and return it."""
    closes = {"interventions": kinds or ["skip_layers"], "models": models}
    id_ = bets.put(BET_40, **{"closes": closes, **changes})
    (entry,) = bets.catalogue.of(id_)
    return entry


def recorded(entry: Entry, lenient: str = "", facts: Any = None) -> Entry:
    """Return a falsification with a record of when it had this bar and saw these models."""
    bet = entry.document.bet
    if lenient:
        criteria = bet.criteria.model_copy(update={"lenient": Expression.parse(lenient)})
        bet = bet.model_copy(update={"criteria": criteria})
    result = measured(80, 24)
    reported = Record.of(bet, Verdict.CATASTROPHIC, result, bars={}, facts=facts or {}, before=None)
    return replace(entry, record=reported)


def crossed(
    bets: Bets, scout: ScoredTokens | None = None, /, **changes: Any
) -> tuple[Crossing, ...]:
    """Return the doors that the proposal stands in, with what of it changed."""
    document = bets.document(bets.put(**changes))
    return crossings(document, bets.path, bets.catalogue, scout or ScoredTokens())


def stands(entry: Entry, *arms: str | None, checkpoints: tuple[str | None, ...] = ()) -> Crossing:
    return Crossing(
        entry, ("skip_layers",), frozenset(arms or (None,)), frozenset(checkpoints or (None,)), ""
    )


# Standing in a door


def test_what_of_a_bet_stands_in_which_door(bets: Bets) -> None:
    first = door(bets)
    second = door(bets, "layers == 4", "train", "zero_layers", id="bet-41")
    door(bets, "layers == 4", "average_experts", id="bet-38")
    done = [{"skip_layers": {"layers": 2}}, {"skip_layers": {"layers": 3}}]
    assert crossed(bets, intervention=done) == (
        Crossing(
            first,
            ("skip_layers",),
            frozenset({None}),
            frozenset({None}),
            "reference (parameters 836,880)",
        ),
        Crossing(
            second,
            (
                "skip_layers, which is zero_layers in effect: "
                "a layer of zeros adds nothing, which is leaving it out",
            ),
            frozenset({None}),
            frozenset({None}),
            "reference (layers 4)",
        ),
    )
    assert first.id == crossed(bets)[0].id == "bet-40"


def test_an_own_name_goes_before_what_is_the_same_in_effect(bets: Bets) -> None:
    door(bets, "layers == 4", "zero_layers", "skip_layers", "remove_layers")
    assert crossed(bets)[0].parts == ("skip_layers",)
    done = {"prune_weights": {"sparsity": 1.0, "parts": "linear"}}
    assert crossed(bets, intervention=done)[0].parts == (
        "prune_weights, which is zero_layers in effect: without 1 of every matrix "
        "a layer of zeros adds nothing, which is leaving it out",
    )


def test_arms_are_described_by_name_each_on_its_own(bets: Bets) -> None:
    door(bets, "layers == 4", "skip_layers", "train")
    train = {"train": {"steps": 1, "text": {"reference": "training"}}}
    skip = {"skip_layers": {"layers": 2}}
    (found,) = crossed(
        bets,
        intervention=None,
        arms={"a": {"average_experts": {}}, "b": [train, skip], "c": skip},
        criteria={"lenient": "b.perplexity_ratio <= c.perplexity_ratio"},
    )
    assert found.parts == ("train (arm b)", "skip_layers (arm b)", "skip_layers (arm c)")
    assert found.arms == {"b", "c"}


def test_a_model_is_looked_at_only_where_a_door_is_closed_to_what_is_done(bets: Bets) -> None:
    scout = ScoredTokens()
    assert crossed(bets, scout) == ()
    door(bets, "layers == 4", "average_experts")
    assert crossed(bets, scout) == ()
    assert scout.asked == []
    # Neither a bet's own door nor one to something else ends the search.
    door(bets, id="drop-one")
    door(bets, id="later")
    assert [each.id for each in crossed(bets, scout, file="zz.yaml")] == ["later"]
    assert scout.asked == ["drop-one in bets"]


def test_a_door_to_other_models_is_open(bets: Bets) -> None:
    door(bets, "layers == 5")
    door(bets, id="later")
    assert [each.id for each in crossed(bets)] == ["later"]


def test_only_checkpoints_that_may_be_inside_stand_in_a_door(bets: Bets) -> None:
    door(bets, 'layers < 9 and family != "llama"')
    other = KnownModel("other", "other", replace(SMALL, families=("mixtral",)))
    scout = ScoredTokens(
        {"a": REFERENCE, "b": KnownModel("b", "b", LARGE), "c": other, "d": REFERENCE}
    )
    (found,) = crossed(bets, scout)
    assert found.checkpoints == {"a", "c", "d"}
    assert found.model == (
        "reference (family qwen3_moe, layers 4); other (family mixtral, layers 4)"
    )
    assert (found.doubt, found.absent) == (None, False)


UNSEEN = "the configuration of ORG/a is not known: ORG/a: not in the cache"
COPY = (
    "../models/new may be a copy of the model that bet-40 names; a folder's name proves nothing, "
    "and nothing else tells them apart"
)
FOLDER = KnownModel(None, "../models/new", SMALL)


@pytest.mark.parametrize(
    ("models", "doubt", "absent"),
    [
        ([HIDDEN], UNSEEN, True),
        ([HIDDEN, HIDDEN], UNSEEN, True),
        ([HIDDEN, replace(HIDDEN, absent=False)], UNSEEN, False),
        ([HIDDEN, REFERENCE], None, False),
        ([REFERENCE, HIDDEN], None, False),
        ([FOLDER], COPY, False),
        ([HIDDEN, FOLDER], f"{UNSEEN}; {COPY}", False),
    ],
)
def test_what_cannot_be_excluded_is_in_with_its_reason(
    bets: Bets, models: list[KnownModel], doubt: str | None, absent: bool
) -> None:
    door(bets, 'layers == 4 and (hidden_size == 16 or name == "x") and name != "ORG/b"')
    door(bets, 'layers == 4 and (name == "reference" or name == "ORG/a")')
    (found,) = crossed(bets, ScoredTokens({str(place): each for place, each in enumerate(models)}))
    assert (found.doubt, found.absent) == (doubt, absent)
    assert found.checkpoints == {str(place) for place in range(len(models))}


# Telling of a door


def lines(crossing: Crossing, bets: Bets, *challenge: str) -> list[str]:
    return list(crossing.lines(bets.root, challenge=challenge))


def test_all_that_is_reported_of_a_door(bets: Bets) -> None:
    door(bets, "parameters <= 1e8", "skip_layers", "train")
    train = {"train": {"steps": 1, "text": {"reference": "training"}}}
    (found,) = crossed(bets, intervention=[{"skip_layers": {"layers": 2}}, train])
    reported = [
        "bet-40 (Skip each layer), bets/bet-40.yaml:1",
        "  claim that failed: At least one layer can be skipped at no more than 3x the perplexity.",
        "  what was done: skip_layers {layers: {each: all}}",
        "  it closes: skip_layers, train on models with parameters <= 1e8",
        "  its evidence (published, not measured here): Bet 40, Skip-each-layer ablation, "
        "FractalMoE 30M: CATASTROPHIC; base perplexity 89; skip-0 perplexity 7120; "
        "skip-3 perplexity 980",
        "  you stand in it with: skip_layers; train",
        "  on: reference (parameters 836,880)",
        "  what you can do: another intervention; a model outside 'parameters <= 1e8'; or "
        "'challenges: [bet-40]', which is measured and must also meet "
        "'any(perplexity_ratio <= 3)'",
    ]
    assert lines(found, bets, "bet-40") == reported
    reported[-1] = "  what you can do: another intervention; a model outside 'parameters <= 1e8'"
    assert lines(found, bets) == reported


def test_both_bars_and_the_doubt_are_reported(bets: Bets) -> None:
    entry = recorded(door(bets, evidence=None), "any(perplexity_ratio <= 2)")
    reported = lines(replace(stands(entry), doubt="who knows"), bets, "bet-40")
    assert reported[6:] == [
        "  on: ",
        "  which cannot be excluded: who knows",
        "  what you can do: another intervention; a model outside 'parameters <= 1e8'; or "
        "'challenges: [bet-40]', which is measured and must also meet "
        "'any(perplexity_ratio <= 3)' and 'any(perplexity_ratio <= 2)'",
    ]
    assert reported[4].startswith("  its record: CATASTROPHIC: all(perplexity_ratio >= 10)")


def test_no_text_of_a_door_is_too_long_or_obeyed(bets: Bets) -> None:
    long, evil = "x" * 300, "##[error]"
    models = " or ".join(f"layers == {place}" for place in range(40))
    lenient = " or ".join(f"any(kl <= {place}.25)" for place in range(30))
    criteria = {"lenient": lenient}
    done = {"skip_layers": {"layers": [*range(300)]}}
    entry = door(
        bets, models, title=evil, claim=f"{evil} {long}", criteria=criteria, intervention=done
    )
    reported = lines(stands(entry), bets, "bet-40")
    assert reported[0] == "bet-40 (## [error]), bets/bet-40.yaml:1"
    assert reported[1].startswith("  claim that failed: ## [error] xxx")
    assert reported[2].startswith("  what was done: skip_layers {layers: [0, 1, ")
    assert len(reported[2]) < 450
    assert reported[3] == f"  it closes: skip_layers on models with {models[:400]}..."
    assert reported[-1] == (
        f"  what you can do: another intervention; a model outside '{models[:400]}...'; or "
        f"'challenges: [bet-40]', which is measured and must also meet '{lenient[:400]}...'"
    )


@pytest.mark.parametrize(
    ("scope", "model", "reported"),
    [
        ("layers < 3", REFERENCE, "reference (layers 4)"),
        ('name == "x"', REFERENCE, "reference"),
        (
            'layers < 3 and family == "m" and experts < 3 and name == "x"',
            REFERENCE,
            "reference (experts 16, family qwen3_moe, layers 4)",
        ),
        (
            'parameters < 3 and family == "m"',
            HIDDEN,
            "ORG/a (family unknown, parameters unknown)",
        ),
        ('family == "m"', KnownModel("a", "b##[", LARGE), "b## [ (family llama)"),
        (
            'family == "m"',
            KnownModel("a", "a" * 401, ModelFacts(families=("\x1b##[",))),
            f"{'a' * 400}... (family \\u001b## [)",
        ),
    ],
)
def test_a_model_is_described_as_far_as_a_scope_asks(
    scope: str, model: KnownModel, reported: str
) -> None:
    assert describe_model(model, ModelScope.parse(scope)) == reported


def test_a_doubt_quotes_nothing_too_long_or_obeyed(bets: Bets) -> None:
    door(bets, 'layers < 9 and name == "ORG/b"')
    unseen = KnownModel(None, f"##[{'a' * 400}", missing=f"##[{'b' * 400}")
    copy = KnownModel(None, f"##[{'c' * 400}", SMALL)
    (found,) = crossed(bets, ScoredTokens({None: unseen, "copy": copy}))
    assert found.doubt == (
        f"the configuration of ## [{'a' * 396}... is not known: ## [{'b' * 396}...; "
        f"## [{'c' * 396}... may be a copy of the model that bet-40 names; "
        "a folder's name proves nothing, and nothing else tells them apart"
    )


# Which models a door covers


@pytest.mark.parametrize(
    ("scope", "model"),
    [
        ('name == "b" or layers == 4', HIDDEN),
        ('family == "b"', replace(FOLDER, facts=replace(SMALL, families=()))),
        ('name == "b" and layers == 5', FOLDER),
    ],
)
def test_no_other_model_is_looked_up_where_no_name_decides(
    bets: Bets, scope: str, model: KnownModel
) -> None:
    scout = ScoredTokens()
    entry = door(bets, scope)
    assert covers(entry, model, scout) is model.inside(entry.closes.models)
    assert scout.asked == []


BODY = {"layers": 4, "hidden_size": 16, "experts": 16}
OTHER = {"layers": 4, "hidden_size": 16, "experts": 8}
CLOSED = 'name == "closed"'


@pytest.mark.parametrize(
    ("scope", "model", "others", "truth"),
    [
        ("layers == 4", FOLDER, {}, Truth.TRUE),
        ("layers == 5", FOLDER, {}, Truth.FALSE),
        ("layers == 4", HIDDEN, {}, Truth.UNDECIDED),
        (CLOSED, replace(FOLDER, name="closed"), {}, Truth.TRUE),
        (CLOSED, replace(FOLDER, name="open"), {}, Truth.FALSE),
        (f"{CLOSED} and layers == 5", FOLDER, {}, Truth.FALSE),
        (f"{CLOSED} or layers == 4", FOLDER, {}, Truth.TRUE),
        # Only the name decides: a folder may be any model that it cannot be distinguished from.
        (CLOSED, FOLDER, {}, Truth.UNDECIDED),
        (CLOSED, FOLDER, {"closed": SMALL}, Truth.UNDECIDED),
        (CLOSED, FOLDER, {"closed": LARGE}, Truth.FALSE),
        (CLOSED, KnownModel(None, "closed"), {"closed": LARGE}, Truth.UNDECIDED),
        (CLOSED, replace(FOLDER, shown="closed"), {"closed": LARGE}, Truth.FALSE),
        (f'{CLOSED} or name == "b"', FOLDER, {"closed": LARGE, "b": LARGE}, Truth.FALSE),
        (f'{CLOSED} or name == "b"', FOLDER, {"closed": LARGE, "b": SMALL}, Truth.UNDECIDED),
        (f'{CLOSED} or name == "b"', FOLDER, {"closed": SMALL, "b": LARGE}, Truth.UNDECIDED),
        # A word that names no closed model is not asked for, and does not end the search.
        ('name != "a" and name == "b"', FOLDER, {"a": SMALL, "b": LARGE}, Truth.FALSE),
        ('name != "a" and name == "b"', FOLDER, {"b": SMALL}, Truth.UNDECIDED),
        # All but one are closed, and a folder is not that one by being called so.
        ('name != "open"', FOLDER, {"open": LARGE}, Truth.TRUE),
        ('name != "open"', replace(FOLDER, shown="open"), {"open": LARGE}, Truth.TRUE),
    ],
)
def test_a_scope_covers_a_folder_that_it_cannot_exclude(
    bets: Bets, scope: str, model: KnownModel, others: dict[str, ModelFacts], truth: Truth
) -> None:
    scout = ScoredTokens(
        others={name: KnownModel(name, name, shape) for name, shape in others.items()}
    )
    assert covers(door(bets, scope), model, scout) is truth


@pytest.mark.parametrize(
    ("facts", "truth", "asked"),
    [
        ({"": {"name": "closed", **BODY}}, Truth.UNDECIDED, []),
        ({"": {"name": "closed", **OTHER}}, Truth.FALSE, []),
        ({"": {"name": "closed", **BODY, "layers": None}}, Truth.UNDECIDED, []),
        ({"": {"name": "closed", **OTHER, "experts": None}}, Truth.UNDECIDED, []),
        ({"": {"name": "closed", "layers": 5}}, Truth.UNDECIDED, []),
        ({"a": {"name": "b", **BODY}, "b": {"name": "closed", **OTHER}}, Truth.FALSE, []),
        ({"a": BODY, "b": {"name": "closed", **OTHER}}, Truth.FALSE, []),
        # The record is of another model: the name is looked up.
        ({"": {"name": "b", **BODY}}, Truth.FALSE, ["closed"]),
        ({}, Truth.FALSE, ["closed"]),
    ],
)
def test_the_body_of_a_closed_model_is_that_of_the_record_where_it_has_it(
    bets: Bets, facts: dict[str, Any], truth: Truth, asked: list[str]
) -> None:
    scout = ScoredTokens(others={"closed": KnownModel("closed", "closed", LARGE)})
    entry = recorded(door(bets, CLOSED), facts=facts)
    assert covers(entry, FOLDER, scout) is truth
    assert scout.asked == asked


def test_every_quoted_word_may_be_a_name() -> None:
    scope = ModelScope.parse('"a" == name and (family != \'b\' or not name == "c/d")')
    assert names_in(scope) == ("a", "b", "c/d")


# Mistaken challenges


def wrong(bets: Bets, *challenges: str, **changes: Any) -> list[str]:
    changes = {"criteria": {"lenient": "perplexity_ratio <= 30"}, **changes}
    document = bets.document(bets.put(challenges=list(challenges), **changes))
    found = crossings(document, bets.path, bets.catalogue, ScoredTokens())
    line, column = document.position("challenges", 0)
    place = f"line {line}, column {column}: challenges: '{challenges[0]}'"
    reported = list(mistakes(document, bets.catalogue, found))
    assert all(each.startswith(place) for each in reported)
    return [each.removeprefix(place) for each in reported]


def test_a_mistaken_challenge_is_reported_with_what_is_allowed(bets: Bets) -> None:
    assert wrong(bets, "bet-39") == [
        " is no bet of the catalogue; allowed: none, it stands in no door"
    ]
    door(bets, "layers == 5", id="bet-38")
    bets.put(id="other", intervention={"average_experts": {}})
    door(bets)
    door(bets, id="bet-41")
    allowed = "allowed: bet-40, bet-41"
    assert wrong(bets, "bet-39") == [f" is no bet of the catalogue; {allowed}"]
    assert wrong(bets, "other") == [f" is proposed and closes no door; {allowed}"]
    assert wrong(bets, "bet-38") == [f" closed a door that this bet does not stand in; {allowed}"]
    assert wrong(bets, "bet-41") == []


def test_every_mistaken_challenge_is_reported_at_its_place(bets: Bets) -> None:
    door(bets)
    text = (
        "{id: a, title: T, claim: C., status: proposed, model: reference,\n"
        "intervention: {skip_layers: {layers: 2}},\n"
        "measure: {text: {reference: heldout}, tokens: 1024},\n"
        "criteria: {lenient: kl <= 3}, challenges: [bet-38, bet-40,\n"
        " bet-39]}"
    )
    (bets.path / "a.yaml").write_text(text, encoding="utf-8")
    document = bets.document("a")
    found = crossings(document, bets.path, bets.catalogue, ScoredTokens())
    assert list(mistakes(document, bets.catalogue, found)) == [
        "line 4, column 44: challenges: 'bet-38' is no bet of the catalogue; allowed: bet-40",
        "line 5, column 2: challenges: 'bet-39' is no bet of the catalogue; allowed: bet-40",
    ]


def test_of_two_bets_of_one_id_one_that_closes_is_enough(bets: Bets) -> None:
    entry = door(bets)
    bets.put(BET_40, closes=None, status="upheld")
    (opened,) = bets.catalogue.of("bet-40")
    document = bets.document(bets.put(challenges=["bet-40"]))
    catalogue = Catalogue((opened, entry))
    assert list(mistakes(document, catalogue, [stands(entry)])) == []
    assert list(mistakes(document, Catalogue((opened,)), [])) == [
        f"line 1, column {document.position('challenges', 0)[1]}: challenges: 'bet-40' is upheld "
        "and closes no door; allowed: none, it stands in no door"
    ]
    twice = [stands(entry), stands(replace(entry, bets=bets.root))]
    bad = bets.document(bets.put(challenges=["bet-39"]))
    (reported,) = mistakes(bad, catalogue, twice)
    assert reported.endswith("is no bet of the catalogue; allowed: bet-40")


SAMPLE = {"prompts": ["Once upon a time"], "tokens": 100}
MEASURE = BET_40["measure"]
SAMPLED = {**MEASURE, "sample": SAMPLE}


def bar_of(bets: Bets, lenient: str, **changes: Any) -> Entry:
    return door(bets, measure=SAMPLED, criteria={"lenient": lenient}, **changes)


def test_a_challenge_samples_what_its_bar_samples(bets: Bets) -> None:
    bar_of(bets, "any(unique_tokens > base_unique_tokens) and any(perplexity_ratio <= 3)")
    bar_of(bets, "any(unique_tokens > 3)", id="bet-41")
    assert wrong(bets, "bet-40") == [
        ": its bar needs base_unique_tokens; add measure.sample",
        ": its bar needs unique_tokens; add measure.sample",
    ]
    assert wrong(bets, "bet-40", measure=SAMPLED) == []
    assert wrong(bets, "bet-41") == [": its bar needs unique_tokens; add measure.sample"]


def test_a_challenge_generates_where_its_bar_does(bets: Bets) -> None:
    generated = {**MEASURE, "generate": {"prompts": ["a"]}}
    door(bets, measure=generated, criteria={"lenient": "any(stop_rate >= 0.5)"})
    assert wrong(bets, "bet-40") == [": its bar needs stop_rate; add measure.generate"]
    assert wrong(bets, "bet-40", measure=generated) == []


def test_a_challenge_is_asked_what_its_bar_is_about(bets: Bets) -> None:
    asked = {**MEASURE, "tasks": {"q": {"reference": "questions"}}}
    door(bets, measure=asked, criteria={"lenient": "any(q.accuracy >= 0.5)"})
    lack = ": its bar is about q.accuracy; add its task 'q' as it is there to measure.tasks"
    assert wrong(bets, "bet-40") == [lack]
    other = {**MEASURE, "tasks": {"q": {"reference": "questions", "limit": 1}}}
    assert wrong(bets, "bet-40", measure=other) == [lack]
    assert wrong(bets, "bet-40", measure=asked) == []


def test_a_challenge_names_the_metrics_on_request_that_its_bar_names(bets: Bets) -> None:
    bar_of(bets, "any(kl_p99 <= 1)")
    assert wrong(bets, "bet-40") == [
        ": its bar needs kl_p99; name it in a criterion, so that it is measured"
    ]
    assert wrong(bets, "bet-40", criteria={"lenient": "any(kl_p99 <= 1)"}) == []


def test_a_challenge_names_the_metrics_of_plugins_that_its_bar_names(bets: Bets) -> None:
    entry = door(bets)
    bar = Expression.parse("any(own <= 3) and any(mine <= 3)")
    bet = entry.document.bet
    criteria = bet.criteria.model_copy(update={"lenient": bar})
    document = replace(entry.document, bet=bet.model_copy(update={"criteria": criteria}))
    entry = replace(entry, document=document)
    challenge = bets.document(bets.put(challenges=["bet-40"]))
    needs = "its bar needs {}; name it in a criterion, so that it is measured"

    def lacks(**criteria: str) -> list[str]:
        given = {
            name: None if not text else Expression.parse(text)
            for name, text in {
                "strict": "",
                "catastrophic": "",
                "lenient": "kl < 3",
                **criteria,
            }.items()
        }
        bet = challenge.bet
        changed = bet.model_copy(update={"criteria": bet.criteria.model_copy(update=given)})
        mine = replace(challenge, bet=changed)
        reported = mistakes(mine, Catalogue((entry,)), [stands(entry)])
        return [each.partition(": challenges: 'bet-40': ")[2] for each in reported]

    assert lacks() == [needs.format("mine"), needs.format("own")]
    assert lacks(strict="own < 3") == [needs.format("mine")]
    assert lacks(catastrophic="mine < own") == []
    assert lacks(lenient="kl < mine") == [needs.format("own")]


def unnamed(bets: Bets, *challenges: str, **changes: Any) -> list[str]:
    """Return what names are asked for; what the named arms must be is reported besides."""
    return [each for each in wrong(bets, *challenges, **changes) if "; name an arm" in each]


def test_a_challenge_has_a_name_for_every_prefix_of_its_bar(bets: Bets) -> None:
    arms = {"a": {"average_experts": {}}, "b": {"skip_layers": {"layers": 2}}}
    lenient = "a.perplexity_ratio <= b.perplexity_ratio and any(b.kl < 3)"
    bar_of(bets, lenient, intervention=None, arms=arms)
    name = (
        ": its bar is about {}; name an arm, a text or a checkpoint '{}', so that it can be judged"
    )
    assert unnamed(bets, "bet-40") == [
        name.format("a.perplexity_ratio", "a"),
        name.format("b.kl", "b"),
        name.format("b.perplexity_ratio", "b"),
    ]
    assert not any("None" in each for each in wrong(bets, "bet-40"))
    criteria = {"lenient": "all(perplexity_ratio <= 3)"}
    skip = {"skip_layers": {"layers": 2}}
    named = {"intervention": None, "arms": {"a": skip, "c": skip}, "criteria": criteria}
    assert unnamed(bets, "bet-40", **named) == [
        name.format("b.kl", "b"),
        name.format("b.perplexity_ratio", "b"),
    ]
    texts = {**MEASURE, "text": None, "texts": {n: {"reference": "heldout"} for n in "bc"}}
    del texts["text"]
    assert unnamed(bets, "bet-40", measure=texts, criteria=criteria) == [
        name.format("a.perplexity_ratio", "a")
    ]
    model = {"reference": "reference", "revisions": {"a": "init", "b": "trained"}}
    assert unnamed(bets, "bet-40", model=model, criteria=criteria) == []


def test_the_first_name_that_is_missing_is_asked_for(bets: Bets) -> None:
    arms = {"a": {"average_experts": {}}, "b": {"skip_layers": {"layers": 2}}}
    texts = {**SAMPLED, "texts": {n: {"reference": "heldout"} for n in "cd"}}
    del texts["text"]
    lenient = "all(a.c.perplexity_ratio <= b.c.perplexity_ratio)"
    door(bets, intervention=None, arms=arms, measure=texts, criteria={"lenient": lenient})
    criteria = {"lenient": "all(perplexity_ratio <= 3)"}
    skip = {"skip_layers": {"layers": 2}}
    named = {"intervention": None, "arms": {"a": skip, "b": skip}, "criteria": criteria}
    name = (
        ": its bar is about {}; name an arm, a text or a checkpoint '{}', so that it can be judged"
    )
    assert unnamed(bets, "bet-40", **named) == [
        name.format("a.c.perplexity_ratio", "c"),
        name.format("b.c.perplexity_ratio", "c"),
    ]
    assert unnamed(bets, "bet-40") == [
        name.format("a.c.perplexity_ratio", "a"),
        name.format("b.c.perplexity_ratio", "b"),
    ]


def test_only_the_bar_of_what_is_challenged_is_looked_at(bets: Bets) -> None:
    bar_of(bets, "any(unique_tokens > 3)")
    door(bets, id="bet-41")
    assert wrong(bets, "bet-41") == []


# Meeting a bar


def row(ratio: float, place: int = 0, **names: str | None) -> Row:
    where = {"arm": None, "text": None, "checkpoint": None, **names}
    ends = Interval(ratio, ratio - 0.5, ratio + 0.5)
    return Row(f"skip-{place}", str(place), metrics={"perplexity_ratio": ends}, **where)  # type: ignore[arg-type]


def test_a_bar_that_is_missed_leaves_nothing_open(bets: Bets) -> None:
    crossing = stands(door(bets))
    open_, missed = row(3.2, text="a"), row(9, text="b")
    assert judge_challenge(crossing, [open_]).straddling
    found = judge_challenge(crossing, [open_, missed])
    assert (found.truth, found.straddling) == (Truth.FALSE, ())


def test_each_falsification_is_challenged_once() -> None:
    assert challenging(["bet-40", "bet-38", "bet-40"]) == "'challenges: [bet-40, bet-38]'"


def without_decider(crossing: Crossing, rows: Sequence[Row]) -> ChallengeResult:
    return replace(judge_challenge(crossing, rows), decider=None)


def test_a_challenge_is_decided_by_the_comparison_that_misses_the_bar(bets: Bets) -> None:
    decider = judge_challenge(stands(door(bets)), [row(9), row(5)]).decider
    assert decider is not None
    assert (decider.interval.value, decider.bar) == (5, "<= 3")


def test_the_bar_of_the_record_holds_beside_that_of_the_bet(bets: Bets) -> None:
    entry = door(bets)
    now, before = "any(perplexity_ratio <= 3)", "any(perplexity_ratio <= 2)"
    assert [str(each) for each in entry.bars] == [now]
    assert [str(each) for each in recorded(entry).bars] == [now]
    both = recorded(entry, before)
    assert [str(each) for each in both.bars] == [now, before]
    undecided = judge_challenge(stands(both), [row(2.5)])
    assert undecided.truth is Truth.UNDECIDED
    assert (
        undecided.reason == "any(perplexity_ratio <= 2)  ->  skip-0: 2.5 [2, 3] <= 2 is undecided"
    )
    assert [(each.variant, str(each.bar)) for each in undecided.straddling] == [("skip-0", "2")]
    assert without_decider(stands(both), [row(2.6)]) == ChallengeResult(
        Truth.FALSE, "any(perplexity_ratio <= 2)  ->  skip-0: 2.6 [2.1, 3.1] <= 2 is false"
    )
    assert without_decider(stands(both), [row(1)]) == ChallengeResult(
        Truth.TRUE,
        "any(perplexity_ratio <= 3)  ->  skip-0: 1 [0.5, 1.5] <= 3 is true; "
        "any(perplexity_ratio <= 2)  ->  skip-0: 1 [0.5, 1.5] <= 2 is true",
    )


def test_only_what_stands_in_the_door_is_held_to_its_bar(bets: Bets) -> None:
    crossing = stands(door(bets), "b", checkpoints=("x",))
    rows = [
        row(9, arm="a", checkpoint="x"),
        row(1, arm="b", checkpoint="x"),
        row(9, arm="b", checkpoint="y"),
    ]
    assert without_decider(crossing, rows) == ChallengeResult(
        Truth.TRUE, "any(perplexity_ratio <= 3)  ->  b.x.skip-0: 1 [0.5, 1.5] <= 3 is true"
    )
    assert (
        judge_challenge(stands(crossing.entry, "a", checkpoints=("x",)), rows).truth is Truth.FALSE
    )
    assert (
        judge_challenge(stands(crossing.entry, "b", checkpoints=("y",)), rows).truth is Truth.FALSE
    )


@pytest.mark.parametrize("names", [("arm", "a", "b"), ("text", "a", "b"), ("checkpoint", "a", "b")])
def test_a_bar_over_a_sweep_is_met_on_every_arm_text_and_checkpoint(
    bets: Bets, names: tuple[str, str, str]
) -> None:
    dimension, one, two = names
    inside = {"arm": (None,), "checkpoint": (None,), dimension: (one, two)}
    crossing = stands(door(bets), *inside["arm"], checkpoints=inside["checkpoint"])
    rows = [
        row(9, 0, **{dimension: one}),
        row(9, 0, **{dimension: two}),
        row(1, 1, **{dimension: one}),
        row(8, 1, **{dimension: two}),
    ]
    assert without_decider(crossing, rows) == ChallengeResult(
        Truth.FALSE,
        f"any(perplexity_ratio <= 3)  ->  {two}.skip-1: 8 [7.5, 8.5] <= 3 is false; "
        f"{two}.skip-0: 9 [8.5, 9.5] <= 3 is false",
    )
    assert judge_challenge(crossing, [*rows[:3], row(2, 1, **{dimension: two})]).truth is Truth.TRUE


def test_a_bar_on_one_measurement_is_met_by_each(bets: Bets) -> None:
    one = {"skip_layers": {"layers": 3}}
    crossing = stands(door(bets, intervention=one, criteria={"lenient": "perplexity_ratio <= 3"}))
    text = "perplexity_ratio <= 3  ->  perplexity_ratio {0} [{1}, {2}] <= 3 is {3}"
    assert without_decider(crossing, [row(1), row(9, 1), row(8, 2)]) == ChallengeResult(
        Truth.FALSE,
        f"{text.format(9, 8.5, 9.5, 'false')}; {text.format(8, 7.5, 8.5, 'false')}",
    )
    three = "; ".join([text.format(1, 0.5, 1.5, "true")] * 3)
    assert without_decider(crossing, [row(1)] * 3) == ChallengeResult(Truth.TRUE, three)
    assert without_decider(crossing, [row(1)] * 4) == ChallengeResult(
        Truth.TRUE, f"{three}; and 1 more"
    )
    assert without_decider(crossing, [row(1)] * 6) == ChallengeResult(
        Truth.TRUE, f"{three}; and 3 more"
    )


def test_a_bar_that_compares_arms_is_judged_on_all_of_them(bets: Bets) -> None:
    arms = {"a": {"average_experts": {}}, "b": {"skip_layers": {"layers": 2}}}
    lenient = "b.perplexity_ratio <= a.perplexity_ratio * 2"
    entry = door(bets, intervention=None, arms=arms, criteria={"lenient": lenient})
    rows = [row(2, arm="a"), row(1, arm="b")]
    found = judge_challenge(stands(entry, "b"), rows)
    assert found.truth is Truth.TRUE
    assert found.reason.startswith(f"{lenient}  ->  b.perplexity_ratio 1 [0.5, 1.5] <= ")


def test_a_bar_that_does_not_fit_is_not_met(bets: Bets) -> None:
    criteria = {"lenient": "any(kl <= 3)"}
    crossing = stands(door(bets, criteria=criteria), "a", "b")
    with pytest.raises(CriterionError):
        crossing.entry.bars[0].evaluate([row(1)])
    assert without_decider(crossing, [row(1, arm="a"), row(1, arm="b")]) == ChallengeResult(
        Truth.UNDECIDED, "cannot be judged here: 'kl' was not measured for a.skip-0"
    )


@pytest.mark.parametrize("lenient", ["any(kl <= 3)", "kl <= 3"])
def test_no_bar_is_met_by_measuring_nothing_in_the_door(bets: Bets, lenient: str) -> None:
    one = {"skip_layers": {"layers": 3}}
    entry = door(bets, intervention=one, criteria={"lenient": lenient})
    nothing = ChallengeResult(Truth.UNDECIDED, "cannot be judged here: 'kl' was not measured")
    assert judge_challenge(stands(entry, "a"), []) == nothing
    assert judge_challenge(stands(entry, "a"), [row(1, arm="b")]) == nothing


def test_what_is_reported_of_a_bar_is_not_too_long_or_obeyed(bets: Bets) -> None:
    crossing = stands(door(bets), "##[a")
    assert "## [a.skip-0: 1 [" in judge_challenge(crossing, [row(1, arm="##[a")]).reason
    long = stands(crossing.entry, *(f"{'a' * 300}{place}" for place in range(3)))
    rows = [row(1, arm=arm) for arm in sorted(str(arm) for arm in long.arms)]
    assert len(judge_challenge(long, rows).reason) == 403
    wrong = [replace(each, metrics={}) for each in rows]
    wrong[0] = replace(wrong[0], arm=f"{'a' * 300}0", variant=f"##[{'v' * 300}")
    reported = judge_challenge(long, wrong).reason
    assert reported.startswith("cannot be judged here: 'perplexity_ratio' was not measured for aaa")
    assert len(reported) == len("cannot be judged here: ") + 403
