"""The laboratory's own pieces, put to work on the small models of every family."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from transformers import PreTrainedModel

from pytest_layerguard.bet.arguments import BUILTIN_KINDS
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.sweep import Swept, sweep
from pytest_layerguard.measurement.workbench import Workbench
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import Plan
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.texts.windows import Contract, batched, cut
from support import families, plain

WINDOWS = cut(families.text(41), Contract(40, 16, 16, bos=None))
BATCHES = batched(WINDOWS, 2)


def runner_of(family: str) -> Runner:
    return Runner(Anatomy.of(families.model(family)))


def bench_of(runner: Runner) -> Workbench:
    return Workbench(runner, BATCHES, families.VOCABULARY, lambda _: WINDOWS)


def carried_out(
    bench: Workbench, *steps: tuple[str, dict[str, object]], onto: Plan | None = None
) -> tuple[Plan, ...]:
    """What interventions, in order, make of the untouched model."""
    plans: tuple[Plan, ...] = (onto or Plan.untouched(bench.layers),)
    for kind, arguments in steps:
        told = BUILTIN_KINDS[kind].model_validate(arguments)
        carry_out = Registry.of()[kind].load()
        plans = tuple(made for plan in plans for made in carry_out(plan, told, bench))
    return plans


def planned(runner: Runner, kind: str, arguments: dict[str, object]) -> tuple[Plan, ...]:
    return carried_out(bench_of(runner), (kind, arguments))


def swept(runner: Runner, *plans: Plan) -> Swept:
    return sweep(runner, BATCHES, Plan.untouched(len(runner.anatomy)), plans, families.VOCABULARY)


def agree(result: Swept, index: int, base: PreTrainedModel, changed: PreTrainedModel) -> None:
    """Perplexity to 1e-5 relative, KL to 1e-6 absolute."""
    ours = result.variants[index]
    wanted = plain.losses(changed, WINDOWS)
    assert float(ours.losses.double().mean().exp()) == pytest.approx(
        float(wanted.mean().exp()), rel=1e-5
    )
    expected = plain.divergence(base, changed, WINDOWS)
    assert float(ours.kl.double().mean()) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert float(result.base.double().mean().exp()) == pytest.approx(
        float(plain.losses(base, WINDOWS).mean().exp()), rel=1e-5
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
    for name, (tensor, copy) in tensors.items():
        assert after[name] is tensor, name
        assert torch.equal(tensor, copy), name
    for name, module in model.named_modules():
        assert vars(module).keys() == attributes[name].keys(), name
