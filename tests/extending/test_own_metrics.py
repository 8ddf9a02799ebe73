"""Metrics of other packages: their names, what they are measured on, and what they must return."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.bet.criteria.metrics import OwnMetric
from pytest_layerguard.bet.reader import BetDocument, parse_bets
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.measurer import LocalMeasurer
from pytest_layerguard.measurement.metrics.own_metrics import ScoredTokens
from pytest_layerguard.measurement.result_cache import identity

BET = """\
id: own
title: Own
claim: It holds.
status: proposed
model: reference
intervention: {{{what}}}
measure: {{text: {{reference: heldout}}, tokens: 1024, window: 128}}
criteria: {{lenient: {criterion}}}
"""


def mean_kl(seen: ScoredTokens) -> Interval:
    return seen.mean(seen.kl)


def agreed(seen: ScoredTokens) -> Interval:
    return seen.share(seen.agreement)


def not_an_interval(seen: ScoredTokens) -> float:
    return float(np.mean(seen.kl))


def own(function: str, **more: object) -> OwnMetric:
    name = f"own_{function}"
    return OwnMetric(name, "1", "a test's", implementation=f"{__name__}:{function}", **more)  # type: ignore[arg-type]


def read(metric: OwnMetric, what: str = "skip_layers: {layers: 3}") -> BetDocument:
    known = Registry.of(metrics=[metric])
    text = BET.format(what=what, criterion=f"{metric.name} <= 0.75")
    return parse_bets(text, Path("bets/own.yaml").absolute(), metrics=known.metrics)[0]


def measured(
    metric: OwnMetric, document: BetDocument, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Interval]:
    functions = {f"{__name__}:{each.__name__}": each for each in (mean_kl, agreed, not_an_interval)}
    monkeypatch.setattr(OwnMetric, "load", lambda self: functions[self.implementation])
    measurer = LocalMeasurer(Conditions(device="cpu"), Registry.of(metrics=[metric]))
    result = measurer.measure(document, bets=document.path.parent)
    return dict(result.variants[0].metrics)


@pytest.mark.parametrize("what", ["skip_layers: {layers: 3}", "replace_layers: {pairs: [[0, 1]]}"])
def test_it_is_measured_as_the_built_in_ones_are(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = own("mean_kl", low=0)
    found = measured(metric, read(metric, what), monkeypatch)
    # Of two directed changes the worse one counts, over as many comparisons.
    assert found["own_mean_kl"].value == pytest.approx(found["kl"].value)
    assert found["own_mean_kl"].high == pytest.approx(found["kl"].high)


def test_less_can_be_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = own("agreed", low=0, high=1, larger_is_worse=False)
    found = measured(metric, read(metric, "replace_layers: {pairs: [[0, 1]]}"), monkeypatch)
    assert found["own_agreed"] == found["top1_agreement"]


def test_it_must_return_an_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    metric = own("not_an_interval")
    with pytest.raises(MeasurementError, match="returned float; allowed: an Interval"):
        measured(metric, read(metric), monkeypatch)


def test_a_bet_that_names_one_is_not_kept_for_its_code_may_change() -> None:
    metric = own("mean_kl")
    document = read(metric)
    registry = Registry.of(metrics=[metric])
    assert identity(document, document.path.parent, Conditions(), registry) is None


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["perplexity"], "two metrics are named perplexity"),
        (["mine", "mine"], "two metrics are named mine"),
        (["any"], "'any' cannot be the name of a metric"),
        (["not-a-name"], "'not-a-name' cannot be the name of a metric"),
    ],
)
def test_a_name_that_cannot_be_is_refused(metrics: list[str], message: str) -> None:
    own = [
        OwnMetric(name, "1", "mine", implementation=f"here:{place}")
        for place, name in enumerate(metrics)
    ]
    with pytest.raises(ValueError, match=message):
        Registry.of(metrics=own)


def test_a_conftest_file_can_register_one(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(
        """
        from pytest_layerguard.bet.criteria.metrics import OwnMetric
        from pytest_layerguard.interventions.registry import Registry

        def pytest_layerguard_metrics():
            return [OwnMetric("median_kl", "nats", "median", implementation="here:median")]
        """
    )
    (pytester.path / "bets").mkdir()
    text = BET.format(what="skip_layers: {layers: 3}", criterion="median_kl <= 1")
    (pytester.path / "bets" / "own.yaml").write_text(text, encoding="utf-8")
    result = pytester.runpytest("bets", "--collect-only", "-q")
    result.stdout.fnmatch_lines(["bets/own.yaml::own"])
