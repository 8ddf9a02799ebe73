"""Where memory is not enough: half as many windows at a time, for base and variants together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement import generation, session
from pytest_layerguard.measurement.measurer import LocalMeasurer
from pytest_layerguard.models.own_code import shortage
from pytest_layerguard.models.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.measurement.results import BetResult

BETS = Path(__file__).parent / "bets"
WINDOW = 16
CUDA = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 139.80 GiB of "
    "which 1.20 GiB is free."
)
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 2684354560 bytes. Error code 12 (Cannot allocate memory)"
)
SHORTAGES = pytest.mark.parametrize(
    "error", [CUDA, CPU, MemoryError()], ids=["device", "host", "python"]
)


def bet(more: str = "", window: int = WINDOW) -> BetDocument:
    text = f"""\
id: skip
title: A bet
claim: It can go.
status: proposed
model: reference
intervention: {{skip_layers: {{layers: {{each: all}}}}}}
measure: {{text: {{reference: heldout}}, tokens: 256, window: {window}{more}}}
criteria: {{lenient: all(perplexity_ratio <= 3)}}
"""
    (document,) = parse_bets(text, BETS / "skip.yaml")
    return document


@pytest.fixture
def reported() -> list[str]:
    return []


@pytest.fixture
def lab(reported: list[str]) -> LocalMeasurer:
    return LocalMeasurer(Conditions(device="cpu", progress=reported.append), Registry.of())


def measured(lab: LocalMeasurer, document: BetDocument) -> BetResult:
    return replace(lab.measure(document, bets=BETS), seconds=0)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, BaseException], None]:
    """Lets a layer run out of memory where it is given more than so many windows."""
    step = Runner.step

    def limit(windows: int, error: BaseException) -> None:
        def limited(self: Runner, frame: Any, slot: int, state: Any, *rest: Any) -> Any:
            # Not at the first layer, so that some of the work was done already.
            if slot == 2 and len(state.hidden) > windows:
                raise error
            return step(self, frame, slot, state, *rest)

        monkeypatch.setattr(Runner, "step", limited)

    return limit


@SHORTAGES
def test_all_is_measured_again_in_the_smaller_shape(
    lab: LocalMeasurer,
    short: Callable[[int, BaseException], None],
    error: Exception,
    reported: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short(5, error)
    found = measured(lab, bet())
    assert found.provenance["checkpoints"][0]["micro_batch"] == 4 * WINDOW
    assert [line for line in reported if "out of memory" in line] == [
        f"out of memory; measuring again, at most {windows} windows at a time" for windows in (8, 4)
    ]
    monkeypatch.undo()
    monkeypatch.setattr(session, "MICRO_BATCH", {"cpu": 4 * WINDOW})
    alone = LocalMeasurer(Conditions(device="cpu"), Registry.of())
    assert measured(alone, bet()) == found


def test_what_comes_after_is_measured_as_usual(
    lab: LocalMeasurer,
    short: Callable[[int, BaseException], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = measured(lab, bet())
    short(5, CUDA)
    assert measured(lab, bet()).provenance != before.provenance
    monkeypatch.undo()
    assert measured(lab, bet()) == before
    assert lab.loads == 1


@SHORTAGES
def test_one_window_at_a_time_is_the_end(
    lab: LocalMeasurer, short: Callable[[int, BaseException], None], error: Exception
) -> None:
    short(0, error)
    with pytest.raises(MeasurementError) as caught:
        measured(lab, bet())
    needed = "more than there was" if isinstance(error, MemoryError) else "another 2.5"
    text = str(caught.value)
    assert text.startswith("out of memory on the host, even with one window at a time: beside the")
    assert f"it needed {needed}" in text
    assert "a shorter measure.window" in text


def test_speaking_does_not_go_window_by_window(
    lab: LocalMeasurer, reported: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = generation._Batch.run

    def limited(self: Any, *rest: Any, **named: Any) -> Any:
        if len(self.plans) == 5:
            raise CUDA
        return run(self, *rest, **named)

    monkeypatch.setattr(generation._Batch, "run", limited)
    with pytest.raises(
        MeasurementError, match=r"5 texts .* needed another 2\.50 GiB; take fewer prompts"
    ):
        measured(lab, bet(', sample: {prompts: ["Once"], tokens: 3}'))
    assert not any("out of memory" in line for line in reported)


def test_what_is_no_lack_of_memory() -> None:
    assert shortage(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert shortage(ValueError("DefaultCPUAllocator: can't allocate memory")) is None
