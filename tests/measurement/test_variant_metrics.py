"""From token scores to metrics: which direction counts, and over what the intervals hold together."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import families, plain
from support.workshop import BATCHES, log_probabilities, planned, runner_of, swept
from support.workshop import WINDOWS as WINDOWED

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.measurement.metrics.statistics import clustered, exponential
from pytest_layerguard.measurement.metrics.variant_metrics import (
    gap,
    kl_tail,
    overflowed,
    requested_metrics,
    variant_metrics,
)
from pytest_layerguard.measurement.planning import PlannedVariant
from pytest_layerguard.measurement.result_building import protocol_gaps
from pytest_layerguard.measurement.token_scores import TokenScores
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.texts.windows import TokenPositions

WINDOWS, LENGTH = 12, 10
PLACES = np.repeat(np.arange(WINDOWS), LENGTH)
GROUND = TokenPositions(
    PLACES, np.tile(np.arange(LENGTH), WINDOWS), np.zeros(len(PLACES), dtype=int)
)
BASE = torch.ones(len(PLACES))


def scores(seed: int, harm: float) -> TokenScores:
    generator = torch.Generator().manual_seed(seed)
    losses = BASE + harm + 0.1 * torch.randn(len(PLACES), generator=generator)
    kl = harm + 0.1 * torch.rand(len(PLACES), generator=generator)
    agreement = (torch.rand(len(PLACES), generator=generator) > harm).float()
    return TokenScores(losses, kl, agreement, agreement > 0)


def of(values: torch.Tensor, comparisons: int) -> Interval:
    return clustered(values.double().numpy(), PLACES).interval(comparisons)


def test_of_two_directions_the_worse_counts_and_both_are_held() -> None:
    first, second = scores(1, 0.2), scores(2, 0.5)
    found = variant_metrics(BASE, [first, second], GROUND, 4)
    assert found["kl"] == of(second.kl, 8)
    assert found["perplexity_ratio"] == exponential(of(second.losses - BASE, 8))
    assert found["perplexity"] == exponential(of(second.losses, 8))
    agreement = float(second.agreement.double().mean())
    assert found["top1_agreement"].value == pytest.approx(agreement)
    # The interval of one direction that never comes out on top still bounds the worse one from below.
    narrow = TokenScores(
        first.losses, torch.full_like(first.kl, 0.54), first.agreement, first.correct
    )
    wide = TokenScores(
        second.losses, 0.55 + 3 * (second.kl - second.kl.mean()), second.agreement, second.correct
    )
    both = variant_metrics(BASE, [narrow, wide], GROUND, 1)["kl"]
    assert both.low == pytest.approx(0.54)
    assert both.value == pytest.approx(0.55, abs=1e-6)


def test_a_divergence_is_never_below_zero() -> None:
    one = scores(1, 0.2)
    rare = torch.zeros_like(one.kl)
    rare[3] = 1.0
    found = variant_metrics(
        BASE, [TokenScores(one.losses, rare, one.agreement, one.correct)], GROUND, 1
    )["kl"]
    assert found.low == 0
    assert found.high > found.value > 0


def test_agreement_on_every_token_is_certain_only_where_nothing_changed() -> None:
    one = scores(1, 0.2)
    all_agree = torch.ones_like(one.agreement)
    changed = variant_metrics(
        BASE, [TokenScores(one.losses, one.kl, all_agree, one.correct)], GROUND, 1
    )
    assert changed["top1_agreement"].low < 1
    same = TokenScores(BASE, torch.zeros_like(one.kl), all_agree, one.correct)
    for name, exact in (("perplexity_ratio", 1), ("kl", 0), ("top1_agreement", 1)):
        assert variant_metrics(BASE, [same], GROUND, 1)[name] == Interval.point(exact)


def test_a_gap_is_that_of_the_worse_direction() -> None:
    first, second, swapped = scores(1, 0.2), scores(2, 0.5), scores(3, 0.1)
    assert gap([first, second], swapped, GROUND, 3) == of(second.kl - swapped.kl, 6)


def test_an_overflow_is_worse_than_any_bar() -> None:
    found = overflowed(BASE, GROUND, {"kl_p99", "rms_dp"})
    assert found["perplexity_ratio"] == found["kl"] == Interval.point(float("inf"))
    assert found["top1_agreement"] == Interval.point(0.0)
    assert found["kl_p99"] == Interval.point(float("inf"))
    assert found["rms_dp"] == Interval.point(1.0)
    assert found["base_perplexity"].value == pytest.approx(np.e)


ON_REQUEST = {"kl_p99", "kl_p999", "kl_max", "rms_dp"}


@pytest.mark.parametrize("family", ["llama", "mixtral"])
def test_metrics_on_request_are_those_of_a_plain_loop(family: str) -> None:
    model = families.model(family)
    before, labels = log_probabilities(model)
    after, _ = plain.log_probabilities(plain.skipped(model, [1]), WINDOWED)
    kl, changes = [], []
    for row, other, token in zip(before.numpy(), after.numpy(), labels.tolist(), strict=True):
        kl.append(sum(math.exp(p) * (p - q) for p, q in zip(row, other, strict=True)))
        changes.append(math.exp(other[token]) - math.exp(row[token]))
    runner = runner_of(family)
    result = swept(runner, *planned(runner, "skip_layers", {"layers": 1}))
    found = requested_metrics(
        ON_REQUEST, result.base, result.variants, TokenPositions.of(BATCHES), comparisons=1
    )
    wanted = {
        "kl_p99": np.percentile(kl, 99),
        "kl_p999": np.percentile(kl, 99.9),
        "kl_max": max(kl),
        "rms_dp": math.sqrt(sum(each**2 for each in changes) / len(changes)),
    }
    assert {name: each.value for name, each in found.items()} == pytest.approx(wanted, rel=1e-4)
    shares = {"p50": 50, "p75": 75, "p90": 90, "p95": 95, "p99": 99, "p999": 99.9, "max": 100}
    tail = {name: np.percentile(kl, share) for name, share in shares.items()}
    assert kl_tail(result.variants) == pytest.approx(tail, rel=1e-4)


def test_metrics_on_request_are_measured_for_those_who_ask() -> None:
    one = scores(1, 0.2)
    found = requested_metrics({"kl_max", "kl"}, BASE, [one], GROUND, 1)
    assert found == {"kl_max": Interval.point(float(one.kl.max()))}


def test_of_two_directions_the_worse_counts_on_request_too() -> None:
    first, second = scores(1, 0.2), scores(2, 0.5)
    found = requested_metrics(ON_REQUEST, BASE, [first, second], GROUND, 4)
    alone = requested_metrics(ON_REQUEST, BASE, [second], GROUND, 8)
    assert found == alone
    change = (torch.exp(-second.losses.double()) - torch.exp(-BASE.double())) ** 2
    square = of(change, 8)
    # The ends of the mean square lie in its logarithm where Student's do, in units of the mean, and the root halves it.
    wanted = [
        math.sqrt(square.value * math.exp(end / square.value - 1))
        for end in (square.value, square.low, square.high)
    ]
    ends = found["rms_dp"]
    assert [ends.value, ends.low, ends.high] == pytest.approx(wanted)
    assert found["kl_max"].is_point
    tail = kl_tail([first, second])
    assert [tail["p99"], tail["p999"], tail["max"]] == pytest.approx(
        [found[name].value for name in ("kl_p99", "kl_p999", "kl_max")]
    )


def test_an_infinite_token_is_the_tail_and_spoils_nothing_else() -> None:
    one = scores(1, 0.2)
    kl = one.kl.clone()
    kl[0] = math.inf
    tail = kl_tail([replace(one, kl=kl)])
    assert tail["p95"] < 0.5
    assert tail["max"] == math.inf


def test_nothing_changed_is_known_on_request_too() -> None:
    same = TokenScores(BASE, torch.zeros_like(BASE), torch.ones_like(BASE), BASE > 0)
    found = requested_metrics(ON_REQUEST, BASE, [same], GROUND, 1)
    assert found == dict.fromkeys(ON_REQUEST, Interval.point(0.0))


def pair(*kinds: str, plan: int) -> PlannedVariant:
    return PlannedVariant(None, "a", "0-1", kinds, (Plan.untouched(plan),), {})


@pytest.mark.parametrize(
    ("replaced", "interchanged", "gap"),
    [
        (0.5, 0.2, None),
        (math.nan, 0.2, math.inf),
        (0.5, math.nan, -math.inf),
        (math.nan, math.nan, math.inf),
    ],
)
def test_a_protocol_gap_is_of_the_two_protocols_alone(
    replaced: float, interchanged: float, gap: float | None
) -> None:
    variants = [
        pair("replace_layers", plan=1),
        pair("interchange_layers", plan=2),
        pair("prune_weights", "replace_layers", plan=3),
    ]
    found = protocol_gaps(
        variants,
        {
            each.plans[0]: scores(place, harm)
            for place, (each, harm) in enumerate(
                zip(variants, (replaced, interchanged, 0.9), strict=True)
            )
        },
        GROUND,
        3,
    )
    assert found.keys() == {0, 1}
    assert found[0] == found[1]
    assert found[0].value == (gap if gap is not None else pytest.approx(0.3, abs=0.02))
