"""Training a plan is training a deep copy by a plain PyTorch loop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from support import families, plain
from support.workshop import (
    WINDOWS,
    bench_of,
    carried_out,
    exactly_the_base,
    runner_of,
    swept,
    unchanged,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from pytest_layerguard.models.plan import Plan
from pytest_layerguard.models.runner import Runner

STEPS = 3
WHOLE = [window for window in WINDOWS if len(window[0]) == 16]
INPUTS, LABELS = (torch.stack(each) for each in zip(*WHOLE, strict=True))
"""Every whole window at once: with a batch of all of them, their order does not matter."""

TRAIN: dict[str, object] = {
    "steps": STEPS,
    "lr": 0.05,
    "optimizer": "sgd",
    "batch": len(WHOLE),
    "text": {"reference": "training"},
}


def text_loss(model: PreTrainedModel) -> Tensor:
    logits = model(input_ids=INPUTS, use_cache=False).logits
    return functional.cross_entropy(logits.flatten(0, 1).float(), LABELS.flatten())


def output_loss(model: PreTrainedModel, original: PreTrainedModel, layer: int) -> Tensor:
    return ((block_output(model, layer) - block_output(original, layer).detach()) ** 2).mean()


def block_output(model: PreTrainedModel, layer: int) -> Tensor:
    seen: list[Tensor] = []

    def hook(_: nn.Module, __: object, out: Tensor | tuple[Tensor, ...]) -> None:
        seen.append(out[0] if isinstance(out, tuple) else out)

    handle = plain.layers_of(model)[layer].register_forward_hook(hook)
    model(input_ids=INPUTS, use_cache=False)
    handle.remove()
    return seen[0]


def loop(
    parameters: Iterator[nn.Parameter],
    loss: Callable[[], Tensor],
    optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    lr: float = 0.05,
    amend: Callable[[], None] = lambda: None,
) -> list[float]:
    trained = [parameter.requires_grad_() for parameter in parameters]
    steps = optimiser(trained, lr=lr)
    losses = []
    for _ in range(STEPS):
        steps.zero_grad()
        value = loss()
        value.backward()  # type: ignore[no-untyped-call]
        amend()
        steps.step()
        losses.append(float(value.detach()))
    for parameter in trained:
        parameter.requires_grad_(False)
    return losses


def same_weights(runner: Runner, plan: Plan, model: PreTrainedModel) -> None:
    for step in plan.steps:
        made = runner.materialise(step.weights)
        for name, wanted in plain.layers_of(model)[step.slot].state_dict().items():
            assert torch.allclose(made[name], wanted, rtol=1e-4, atol=1e-6), (step.slot, name)
    state = model.state_dict()
    for name, tensor in plan.shell.tensors.items():
        assert torch.allclose(tensor, state[name], rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("family", families.FAMILIES)
def test_training_on_text_agrees_with_a_plain_loop(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    bench = bench_of(runner)
    with unchanged(model):
        (plan,) = carried_out(bench, ("train", TRAIN))
    trained = copy.deepcopy(model)
    losses = loop(trained.parameters(), lambda: text_loss(trained))
    noted = bench.notes()["training_loss"]
    assert [step for step, _ in noted] == [1, 2, 3]
    assert [loss for _, loss in noted] == pytest.approx(losses, rel=1e-5)
    same_weights(runner, plan, trained)
    ours = swept(runner, plan).variants[0].losses
    assert float(ours.mean()) == pytest.approx(
        float(plain.losses(trained, WINDOWS).mean()), rel=1e-5
    )


@pytest.mark.parametrize("family", families.each())
def test_training_towards_a_layers_output_agrees_with_a_plain_loop(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    bench = bench_of(runner)
    draw = ("reinitialize_layers", {"layers": 2, "seed": 1})
    reported = {**TRAIN, "objective": "layer_output", "layers": 2, "lr": 0.5}
    (start,) = carried_out(bench, draw)
    drawn = runner.materialise(start.steps[2].weights)
    with unchanged(model):
        (plan,) = carried_out(bench, draw, ("train", reported))
    trained = plain.written(model, {2: drawn})
    losses = loop(
        plain.layers_of(trained)[2].parameters(),
        lambda: output_loss(trained, model, 2),
        lr=0.5,
    )
    assert [loss for _, loss in bench.notes()["training_loss"]] == pytest.approx(losses, rel=1e-4)
    same_weights(runner, plan, trained)


@pytest.mark.parametrize("optimiser", ["adamw", "adam"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3_moe", "qwen3-tied", "gemma2"])
def test_each_optimiser_has_pytorchs_defaults(family: str, optimiser: str) -> None:
    model, runner = families.model(family), runner_of(family)
    bench = bench_of(runner)
    carried_out(bench, ("train", {**TRAIN, "optimizer": optimiser, "lr": 1e-3}))
    trained = copy.deepcopy(model)
    make = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[optimiser]
    losses = loop(trained.parameters(), lambda: text_loss(trained), make, 1e-3)
    assert [loss for _, loss in bench.notes()["training_loss"]] == pytest.approx(losses, rel=1e-4)


class Straight(nn.Module):
    """Rounded weights forward, the gradient straight through."""

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            scale = weight.abs().mean()
            made = (weight / scale).round().clamp(-1, 1) * scale
        return weight + (made - weight).detach()


class Masked(nn.Module):
    """Zeros that stay."""

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3-tied"])
@pytest.mark.parametrize("kind", ["ternary_weights", "prune_weights"])
def test_training_holds_what_the_weights_were_made(family: str, kind: str) -> None:
    model, runner = families.model(family), runner_of(family)
    bench = bench_of(runner)
    reported: dict[str, object] = {"sparsity": 0.5} if kind == "prune_weights" else {}
    (plan,) = carried_out(bench, (kind, reported), ("train", TRAIN))
    trained = plain.pruned(model, 0.5) if kind == "prune_weights" else copy.deepcopy(model)
    for block in plain.layers_of(trained):
        for module in list(block.modules()):
            if isinstance(module, nn.Linear):
                held = Masked(module.weight != 0) if kind == "prune_weights" else Straight()
                parametrize.register_parametrization(module, "weight", held)
    losses = loop(trained.parameters(), lambda: text_loss(trained))
    assert [loss for _, loss in bench.notes()["training_loss"]] == pytest.approx(losses, rel=1e-4)
    for step in plan.steps:
        made = runner.materialise(step.weights)
        for name in runner.anatomy.parts[step.slot].linear:
            if kind == "prune_weights":
                assert int((made[name] == 0).sum()) >= made[name].numel() // 2
            else:
                assert len(made[name].abs().unique()) <= 2
    ours = swept(runner, plan).variants[0].losses
    assert float(ours.mean()) == pytest.approx(
        float(plain.losses(trained, WINDOWS).mean()), rel=1e-4
    )


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "olmoe"])
def test_experts_that_are_one_mean_are_trained_as_one(family: str) -> None:
    model, runner = families.model(family), runner_of(family)
    bench = bench_of(runner)
    (plan,) = carried_out(bench, ("average_experts", {}), ("train", TRAIN))
    trained = plain.averaged(model, range(4))
    experts = [
        parameter
        for block in plain.layers_of(trained)
        for name, parameter in block.named_parameters()
        if parameter.dim() == 3
    ]

    def summed() -> None:
        for parameter in experts:
            assert parameter.grad is not None
            parameter.grad.copy_(parameter.grad.sum(0, keepdim=True).expand_as(parameter.grad))

    losses = loop(trained.parameters(), lambda: text_loss(trained), amend=summed)
    assert [loss for _, loss in bench.notes()["training_loss"]] == pytest.approx(losses, rel=1e-4)
    same_weights(runner, plan, trained)


def test_two_slots_with_one_layers_weights_are_trained_apart() -> None:
    model, runner = families.model("llama"), runner_of("llama")
    replace = ("replace_layers", {"pairs": [[1, 2]]})
    plans = carried_out(bench_of(runner), replace, ("train", TRAIN))
    trained = []
    for slot, layer in ((1, 2), (2, 1)):
        trained.append(plain.replaced(model, slot, layer))
        loop(trained[-1].parameters(), lambda: text_loss(trained[-1]))
    ours = swept(runner, *plans).variants
    for scores, copied in zip(ours, trained, strict=True):
        wanted = plain.losses(copied, WINDOWS).mean()
        assert float(scores.losses.mean()) == pytest.approx(float(wanted), rel=1e-5)


def test_training_again_is_the_same_training() -> None:
    runner = runner_of("llama")
    (one,) = carried_out(bench_of(runner), ("train", TRAIN))
    (two,) = carried_out(bench_of(runner), ("train", TRAIN))
    (other,) = carried_out(bench_of(runner), ("train", {**TRAIN, "batch": 1}))
    (reseeded,) = carried_out(bench_of(runner), ("train", {**TRAIN, "batch": 1, "seed": 1}))
    losses = [each.losses for each in swept(runner, one, two, other, reseeded).variants]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[2], losses[3])


def test_a_layer_that_is_the_original_has_nothing_to_learn() -> None:
    runner = runner_of("llama")
    reported = {**TRAIN, "objective": "layer_output", "layers": [0, 3]}
    bench = bench_of(runner)
    (plan,) = carried_out(bench, ("train", reported))
    assert [loss for _, loss in bench.notes()["training_loss"]] == [0.0, 0.0, 0.0]
    exactly_the_base(swept(runner, plan))
