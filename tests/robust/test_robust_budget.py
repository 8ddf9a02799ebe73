"""What one bet may use, and who may change it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_layerguard.bet.reader import parse_bets
from pytest_layerguard.environment.budget import NAMES, Budget
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.measurer import LocalMeasurer

if TYPE_CHECKING:
    from conftest import Trouble

BETS = Path(__file__).parent / "bets"
BET = """\
id: bet
title: A bet
claim: It can go.
status: proposed
model: reference
intervention: {does}
measure: {{text: {{reference: heldout}}, tokens: 64, window: 8{more}}}
criteria: {{lenient: any(perplexity_ratio <= 3)}}
"""
SWEEP = "{interchange_layers: {pairs: {each: all}}}"
TRAIN = (
    "[{average_experts: {}}, {train: {steps: 9, lr: 1e-3, optimizer: adamw, "
    "text: {reference: heldout}}}]"
)


@pytest.mark.parametrize(
    ("limit", "does", "more", "reported"),
    [
        ({"tokens": 63}, SWEEP, "", "measure.tokens: 64; this run allows 63"),
        ({"variants": 5}, SWEEP, "", "variants: 6; this run allows 5"),
        ({"layers": 3}, SWEEP, "", "layers of the model: 4; this run allows 3"),
        ({"parameters": 9}, SWEEP, "", "model reference: parameters: "),
        ({"steps": 8}, TRAIN, "", "training steps: 9; this run allows 8"),
        (
            {"spoken": 5},
            SWEEP,
            ", sample: {prompts: [a, b], tokens: 3}",
            "measure.sample, tokens times prompts: 6; this run allows 5",
        ),
    ],
    ids=["tokens", "variants", "layers", "parameters", "steps", "spoken"],
)
def test_each_limit(limit: dict[str, int], does: str, more: str, reported: str) -> None:
    (document,) = parse_bets(BET.format(does=does, more=more), BETS / "bet.yaml")
    measurer = LocalMeasurer(Conditions(device="cpu", budget=Budget(**limit)), Registry.of())
    with pytest.raises(MeasurementError) as caught:
        measurer.measure(document, bets=BETS)
    assert reported in str(caught.value)
    assert f"--layerguard-limit {next(iter(limit))}=NUMBER" in str(caught.value)


def test_all_pairs_of_the_deepest_models_are_within_the_defaults() -> None:
    assert Budget().variants >= 126 * 125 // 2 * 2


def test_a_time_limit_is_looked_at_between_layers() -> None:
    (document,) = parse_bets(BET.format(does=SWEEP, more=""), BETS / "bet.yaml")
    measurer = LocalMeasurer(Conditions(device="cpu", timeout=1e-9), Registry.of())
    with pytest.raises(
        MeasurementError, match=r"not measured within 1e-09 seconds; .*--layerguard-timeout"
    ):
        measurer.measure(document, bets=BETS)


def test_the_ini_file_and_the_command_line(trouble: Trouble) -> None:
    trouble.bets(a="fine")
    (trouble.path / "conftest.py").write_text("")
    ini = trouble.path / "pytest.ini"
    ini.write_text("[pytest]\nlayerguard_limits = tokens=1023 variants=5\n")
    code, printed = trouble.run()
    assert code == pytest.ExitCode.TESTS_FAILED, printed
    assert "measure.tokens: 1,024; this run allows 1,023" in printed
    code, printed = trouble.run("--layerguard-limit=tokens=1_024", "--layerguard-limit=variants=3")
    assert code == pytest.ExitCode.TESTS_FAILED, printed
    assert "variants: 4; this run allows 3" in printed


def test_what_is_no_limit(trouble: Trouble) -> None:
    code, printed = trouble.run("--layerguard-limit=weights=3")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "--layerguard-limit: 'weights=3' is not a limit; allowed: NAME=NUMBER" in printed
    assert all(name in printed for name in NAMES)
