"""Every door of this project's own catalogue, knocked at with every intervention; nothing is measured.

`tests/experiments/doors.py` does the same as a contributor would, with measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from support.catalogue import measured

from pytest_layerguard.bet.arguments import BUILTIN_KINDS, CandidateArguments, Intervention
from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.bet.reader import BetDocument, parse_bets
from pytest_layerguard.catalogue.crossing.doors import kinds_in_effect
from pytest_layerguard.catalogue.judge import Judge
from pytest_layerguard.catalogue.model_facts import KnownModel, ModelFacts, ModelLookup
from pytest_layerguard.catalogue.outcome import Word
from pytest_layerguard.catalogue.recognised import Recognised
from pytest_layerguard.cli.bet_template import ARGUMENTS
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.measurement.results import BetResult

ROOT = Path(__file__).parents[2]
BETS = ROOT / "bets"
FOLDERS = {
    "padded": ModelFacts(100_713_680, 4, 16, 16, ("qwen3_moe",)),
    "small-dense": ModelFacts(260_032, 5, 0, 64, ("llama",)),
    "large": ModelFacts(30_532_122_624, 48, 128, 2048, ("qwen3_moe",)),
    # A folder like the model that a door names may be a copy of it.
    "moonlight": ModelFacts(16_000_000_000, 27, 64, 2048, ("deepseek_v3",)),
}
MODELS = ("reference", "reference-wide", *FOLDERS)
AVERAGED = (("average_experts",), ("reference", "reference-wide"))
INSIDE = {
    "bet-13": (("ternary_weights",), ("reference", "padded")),
    "bet-38": AVERAGED,
    "bet-38-wide": AVERAGED,
    "bet-39": AVERAGED,
    "bet-39-wide": AVERAGED,
    "bet-40": (
        ("skip_layers", "remove_layers", "zero_layers"),
        ("reference", "reference-wide", "small-dense"),
    ),
    "repeat-layers": (("repeat_layers",), ("reference", "padded")),
    "half-rank": (("low_rank",), ("reference", "padded")),
    "reap-moonlight-16b": (("drop_experts",), ("moonlight",)),
}
"""What each door is closed to: all other interventions, and all other models, are outside."""
BET = """\
id: tried
title: Tried
claim: It can be done.
status: proposed
model: {model}
{done}
measure: {{text: {{reference: heldout}}, tokens: 1024, window: 128}}
criteria: {{lenient: max(perplexity_ratio) <= 3}}
"""
OF_A_TASK = """\
measure: {tasks: {arc: {lm_eval: arc_easy}}}
criteria: {lenient: arc.accuracy_change >= -0.02}
"""
"""What stands beside results that were measured elsewhere, which have no perplexity."""


class Looks:
    """Sees folders that are not there."""

    def __init__(self) -> None:
        self._scout = ModelLookup(Conditions(), offline=True)

    def checkpoints(self, document: BetDocument, bets: Path) -> Mapping[str | None, KnownModel]:
        folder = document.bet.model.path
        if folder is None:
            return self._scout.checkpoints(document, bets)
        return {None: KnownModel(None, folder, FOLDERS[folder])}

    def recognised(self, document: BetDocument, bets: Path) -> Recognised:
        return {}

    def named(self, name: str) -> KnownModel:
        return self._scout.named(name)


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(Looks(), ROOT, (PurePosixPath("bets"),))


def knock(judge: Judge, model: str, done: str) -> tuple[set[str], bool]:
    """The doors that refuse a proposal, and whether it is measured."""
    asked = []

    def measure() -> BetResult:
        asked.append(model)
        result = measured(1.0)
        (variant,) = result.variants
        metrics = {**variant.metrics, "arc.accuracy_change": Interval.point(0.0)}
        return replace(result, variants=(replace(variant, metrics=metrics),))

    written = f"{{path: {model}}}" if model in FOLDERS else model
    text = BET.format(model=written, done=done)
    if "load_results" in done:
        text = text[: text.index("measure:")] + OF_A_TASK
    (document,) = parse_bets(text, BETS / "tried.yaml")
    outcome = judge.judge(document, BETS, measure)
    assert (outcome.word is Word.CROSSED) == (not asked)
    return {each.id for each in outcome.crossed}, bool(asked)


def closed(kinds: set[str], model: str) -> set[str]:
    return {door for door, (what, models) in INSIDE.items() if kinds & {*what} and model in models}


def test_every_door_of_the_catalogue_is_in_the_table(judge: Judge) -> None:
    assert {entry.id for entry in judge.catalogue(BETS).doors} == {*INSIDE}
    assert judge.catalogue(BETS).unreadable == ()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("kind", BUILTIN_KINDS)
def test_a_door_is_closed_to_what_it_says_and_to_nothing_else(
    judge: Judge, kind: str, model: str
) -> None:
    doors, was_measured = knock(judge, model, f"intervention: {{{kind}: {ARGUMENTS[kind]}}}")
    assert doors == closed({kind}, model)
    assert was_measured == (not doors)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("form", "kind"),
    [
        (form, kind)
        for form in ("list", "arms")
        for kind, arguments in BUILTIN_KINDS.items()
        # Another whole model stands in no list, and the results of one alone.
        if (form == "arms" or not issubclass(arguments, CandidateArguments))
        and kind != "load_results"
    ],
)
def test_nor_is_it_opened_by_company(judge: Judge, kind: str, model: str, form: str) -> None:
    each, other = f"{{{kind}: {ARGUMENTS[kind]}}}", "{drop_experts: {count: 1}}"
    done = {"list": f"intervention: [{other}, {each}]", "arms": f"arms: {{a: {other}, b: {each}}}"}
    doors, _ = knock(judge, model, done[form])
    assert doors == closed({kind, "drop_experts"}, model)


def test_a_branch_taken_out_stands_in_the_doors_of_its_kind_and_of_its_zeros() -> None:
    def effects(kind: str) -> set[str]:
        arguments = BUILTIN_KINDS[kind].model_validate({"layers": 1, "part": "attention"})
        return {*kinds_in_effect(Intervention(kind, arguments))}

    for kind in ("skip_layers", "zero_layers"):
        assert effects(kind) == {"skip_layers", "zero_layers"}
