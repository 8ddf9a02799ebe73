"""The measurer's own pieces, put to work on the small models of every family."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from pytest_layerguard.bet.arguments import BUILTIN_KINDS
from pytest_layerguard.bet.text_sources import TextSource
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.planning import Workbench
from pytest_layerguard.measurement.sweep import Swept, sweep
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.texts.windows import Batch, Contract, batched, cut
from support import families, plain

WINDOWS = cut(families.text(41), Contract(40, 16, 16, start=()))
OTHER_WINDOWS = cut(families.text(41, 9), Contract(40, 16, 16, start=()))
BATCHES = batched(WINDOWS, 2)


def runner_of(family: str) -> Runner:
    return Runner(Anatomy.of(families.model(family)))


def doubled(family: str) -> PreTrainedModel:
    """Return a copy in double precision, where a number next to a tie stays on its side of it.

    The plain loop adds up in another order. There is no grouped product of doubles, so experts run in turn.
    """
    model = copy.deepcopy(families.model(family)).double()
    model.set_experts_implementation("eager")
    return model


def calibration(text: TextSource) -> list[Batch]:
    """Other windows than those that are scored, whatever the text."""
    return batched(OTHER_WINDOWS, 2)


def bench_of(runner: Runner) -> Workbench:
    return Workbench(runner, BATCHES, families.VOCABULARY, lambda _: WINDOWS, calibration)


def carried_out(
    bench: Workbench, *steps: tuple[str, dict[str, object]], onto: Plan | None = None
) -> tuple[Plan, ...]:
    """What interventions, in order, make of the untouched model."""
    plans: tuple[Plan, ...] = (onto or Plan.untouched(bench.layers),)
    for kind, arguments in steps:
        reported = BUILTIN_KINDS[kind].model_validate(arguments)
        carry_out = Registry.of()[kind].load()
        plans = tuple(made for plan in plans for made in carry_out(plan, reported, bench))
    return plans


def planned(runner: Runner, kind: str, arguments: dict[str, object]) -> tuple[Plan, ...]:
    return carried_out(bench_of(runner), (kind, arguments))


def swept(runner: Runner, *plans: Plan) -> Swept:
    return sweep(runner, BATCHES, Plan.untouched(len(runner.anatomy)), plans, families.VOCABULARY)


@cache
def log_probabilities(base: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """Log-probabilities ``[n, V]`` and labels ``[n]`` of all windows by a model that nothing writes to."""
    return plain.log_probabilities(base, WINDOWS)


def agree(result: Swept, index: int, base: PreTrainedModel, changed: PreTrainedModel) -> None:
    """Assert that perplexities agree to 1e-5 relative, and KL to 1e-6 absolute."""
    ours = result.variants[index]
    before, labels = log_probabilities(base)
    after, _ = plain.log_probabilities(changed, WINDOWS)
    for losses, rows in ((ours.losses, after), (result.base, before)):
        wanted = plain.losses_of(rows, labels).mean().exp()
        assert float(losses.double().mean().exp()) == pytest.approx(float(wanted), rel=1e-5)
    assert float(ours.kl.double().mean()) == pytest.approx(
        plain.divergence(before, after), rel=1e-5, abs=1e-6
    )


def exactly_the_base(result: Swept) -> None:
    """Every variant is the base, bit for bit."""
    for scores in result.variants:
        assert torch.equal(scores.losses, result.base)
        assert float(scores.kl.abs().max()) == 0.0
        assert float(scores.agreement.min()) == 1.0


@contextmanager
def unchanged(model: PreTrainedModel) -> Iterator[None]:
    """Every tensor of the model is, bit for bit, what and where it was, and every attribute too."""
    tensors = {
        name: (tensor, tensor.clone()) for name, tensor in model.state_dict(keep_vars=True).items()
    }
    attributes = {name: dict(vars(module)) for name, module in model.named_modules()}
    yield
    after = model.state_dict(keep_vars=True)
    assert after.keys() == tensors.keys()
    for name, (tensor, held) in tensors.items():
        assert after[name] is tensor, name
        assert torch.equal(tensor, held), name
    for name, module in model.named_modules():
        assert vars(module).keys() == attributes[name].keys(), name
