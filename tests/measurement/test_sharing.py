"""What bets share: one load per model, one sweep per model and text, and no number that shows it."""

from __future__ import annotations

import contextlib
import gc
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement import measurer
from pytest_layerguard.measurement.measurer import LocalMeasurer
from pytest_layerguard.measurement.session import ModelSession

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.measurement.results import BetResult

BETS = Path(__file__).parent / "bets"
"""No such folder is needed: bets on the reference models read no file beside themselves."""


def bet(id_: str, intervention: str, *, model: str = "reference", tokens: int = 192) -> BetDocument:
    text = f"""\
id: {id_}
title: A bet
claim: It can go.
status: proposed
model: {model}
intervention: {intervention}
measure: {{text: {{reference: heldout}}, tokens: {tokens}, window: 16}}
criteria: {{lenient: all(perplexity_ratio <= 3)}}
"""
    (document,) = parse_bets(text, BETS / f"{id_}.yaml")
    return document


SKIP = bet("skip", "{skip_layers: {layers: {each: all}}}")
SWAP = bet("swap", "{interchange_layers: {pairs: {each: adjacent}}}")
TERNARY = bet("ternary", "{ternary_weights: {layers: {each: all}, parts: linear}}")
SHORTER = bet("shorter", "{skip_layers: {layers: {each: all}}}", tokens=128)
WIDE = bet("wide", "{skip_layers: {layers: {each: [0]}}}", model="reference-wide")


class Watched(LocalMeasurer):
    """Lets a test see every model that was taken into memory."""

    def __init__(self) -> None:
        super().__init__(Conditions(device="cpu"), Registry.of())
        self.subjects: list[weakref.ref[ModelSession]] = []
        self.models: list[weakref.ref[Any]] = []
        self.sweeps = 0


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Watched:
    watched = Watched()

    class WatchedSession(ModelSession):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            watched.subjects.append(weakref.ref(self))
            watched.models.append(weakref.ref(self.loaded.model))

        def scores(self, *args: Any, **more: Any) -> Any:
            before = self.sweeps
            found = super().scores(*args, **more)
            watched.sweeps += self.sweeps - before
            return found

    monkeypatch.setattr(measurer, "ModelSession", WatchedSession)
    return watched


def measured(
    lab: LocalMeasurer, bets: Sequence[BetDocument], expected: Iterable[BetDocument] | None = None
) -> dict[str, BetResult]:
    lab.expect([(each, BETS) for each in (bets if expected is None else expected)])
    return {each.bet.id: lab.measure(each, bets=BETS) for each in bets}


def numbers(result: BetResult) -> object:
    plain = result.to_json()
    return {key: plain[key] for key in ("bases", "variants", "tokens", "windows", "provenance")}


def test_bets_on_one_model_and_text_are_one_load_and_one_sweep(lab: Watched) -> None:
    measured(lab, [SKIP, SWAP, TERNARY])
    assert (lab.loads, lab.sweeps) == (1, 1)


def test_another_contract_is_another_sweep_of_the_same_model(lab: Watched) -> None:
    measured(lab, [SKIP, SHORTER, SWAP])
    assert (lab.loads, lab.sweeps) == (1, 2)


def test_what_was_expected_and_not_measured_changes_no_number() -> None:
    def new() -> LocalMeasurer:
        return LocalMeasurer(Conditions(device="cpu"), Registry.of())

    # As by -x, which ends a run before all that was expected is measured.
    stopped = measured(new(), [SWAP], expected=[SKIP, SWAP, TERNARY])
    assert numbers(stopped["swap"]) == numbers(new().measure(SWAP, bets=BETS))


def test_a_model_leaves_memory_when_its_last_bet_is_done(lab: Watched) -> None:
    lab.expect([(each, BETS) for each in (SKIP, SHORTER, WIDE)])
    lab.measure(SKIP, bets=BETS)
    gc.collect()
    assert lab.models[0]() is not None
    lab.measure(SHORTER, bets=BETS)
    gc.collect()
    assert lab.models[0]() is None
    assert lab.subjects[0]() is None
    lab.measure(WIDE, bets=BETS)
    gc.collect()
    assert [model() for model in lab.models] == [None, None]


def test_a_bet_that_cannot_be_measured_keeps_no_model_in_memory(lab: Watched) -> None:
    out_of_range = bet("deep", "{skip_layers: {layers: 99}}")
    lab.expect([(out_of_range, BETS)])
    # The exception itself holds the frames, and so the model, for as long as somebody holds it.
    with contextlib.suppress(MeasurementError):
        lab.measure(out_of_range, bets=BETS)
        pytest.fail("the model has 4 layers")
    gc.collect()
    assert [model() for model in lab.models] == [None]


def test_what_was_not_announced_stays_for_what_may_come(lab: Watched) -> None:
    lab.measure(SKIP, bets=BETS)
    lab.measure(SWAP, bets=BETS)
    assert lab.loads == 1


def test_how_far_it_is_can_be_heard() -> None:
    heard: list[tuple[str, int, int]] = []

    @contextlib.contextmanager
    def counting(what: str, steps: int) -> Any:
        done = []
        yield done.append
        heard.append((what, steps, sum(done)))

    lab = LocalMeasurer(Conditions(device="cpu", counting=counting), Registry.of())
    measured(lab, [SKIP])
    assert heard
    assert [(steps, done) for _, steps, done in heard] == [(steps, steps) for _, steps, _ in heard]


def test_a_bet_that_needs_another_machine_does_not_hold_the_model_of_the_bet_before(
    lab: Watched,
) -> None:
    elsewhere = bet("elsewhere", "{skip_layers: {layers: 0}}\nneeds: {gpu: 1024GiB}")
    lab.expect([(SKIP, BETS), (elsewhere, BETS)])
    lab.measure(SKIP, bets=BETS)
    with pytest.raises(UnavailableError):
        lab.measure(elsewhere, bets=BETS)
    gc.collect()
    assert [model() for model in lab.models] == [None]


def test_what_was_not_announced_stays_beside_what_was(lab: Watched) -> None:
    lab.expect([(WIDE, BETS)])
    lab.measure(SKIP, bets=BETS)
    lab.measure(SWAP, bets=BETS)
    assert lab.loads == 1


def test_layers_that_are_named_need_no_run_of_the_model_and_join_the_sweep(lab: Watched) -> None:
    named = bet("named", "{remove_layers: {layers: [1]}}")
    guided = bet("guided", "{remove_layers: {count: 1, guided_by: block_influence}}")
    measured(lab, [SKIP, named, guided])
    assert (lab.loads, lab.sweeps) == (1, 2)
