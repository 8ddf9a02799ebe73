"""Train the weights of a plan; the model itself is never written to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from pytest_layerguard.environment.progress_listener import counted
from pytest_layerguard.models.plan import (
    Edit,
    InterventionError,
    OuterWeights,
    Plan,
    Step,
    Weights,
)
from pytest_layerguard.models.stored_size import trained
from pytest_layerguard.texts.windows import IGNORED

if TYPE_CHECKING:
    from pytest_layerguard.bet.arguments import Train
    from pytest_layerguard.models.layer_parts import LayerParts, Tensors
    from pytest_layerguard.models.runner import Runner

_OPTIMISERS: Final[Mapping[str, type[torch.optim.Optimizer]]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
}
_CURVE_POINTS: Final = 50

Windows = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Trained:
    """A trained plan and its loss curve: pairs of a step and the mean loss since the pair before."""

    plan: Plan
    curve: tuple[tuple[int, float], ...]


class _Slot:
    """The tensors of one slot while they are trained.

    An expanded view (the mean of all experts) is trained as one tensor, so that training does not undo
    the compression. Tensors are trained in fp32.
    """

    def __init__(self, runner: Runner, weights: Weights) -> None:
        self.parts: LayerParts = runner.anatomy.parts[weights.layer]
        last_free = max(
            (i + 1 for i, edit in enumerate(weights.edits) if edit.held is None), default=0
        )
        self.stored = trained(weights.edits, last_free)
        beneath = runner.materialise(Weights(weights.layer, weights.edits[:last_free]))
        self.dtypes = {name: tensor.dtype for name, tensor in beneath.items()}
        self.shapes = {name: tensor.shape for name, tensor in beneath.items()}
        trainable = set(dict(self.parts.module.named_parameters())) & {
            name for name, tensor in beneath.items() if tensor.is_floating_point()
        }
        shared: dict[tuple[int, torch.Size, tuple[int, ...]], Tensor] = {}
        self.leaves: dict[str, Tensor] = {}
        self.fixed = {name: tensor for name, tensor in beneath.items() if name not in trainable}
        for name in trainable:
            tensor = beneath[name]
            place = (tensor.data_ptr(), tensor.shape, tensor.stride())
            if place not in shared:
                shared[place] = _compact(tensor).detach().float().clone().requires_grad_()
            self.leaves[name] = shared[place]
        self.held: list[Callable[[Tensors], Tensors]] = []
        start: Tensors = beneath
        for edit in weights.edits[last_free:]:
            assert edit.held is not None
            with torch.no_grad():
                hold = edit.held(start, self.parts)
                start = dict(start) | dict(hold(start))
            self.held.append(hold)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that the slot runs with now, differentiable back to the leaves."""
        current: dict[str, Tensor] = {
            name: leaf.expand(self.shapes[name]) for name, leaf in self.leaves.items()
        } | self.fixed
        for hold in self.held:
            current |= hold(current)
        return {name: tensor.to(self.dtypes[name]) for name, tensor in current.items()}


def _compact(tensor: Tensor) -> Tensor:
    """Return the part of an expanded view that is stored: one index along each dimension of stride 0."""
    for dimension, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[dimension] > 1:
            tensor = tensor.narrow(dimension, 0, 1)
    return tensor


def train_on_text(runner: Runner, plan: Plan, arguments: Train, windows: Windows) -> Trained:
    """Train all weights of a plan as a language model.

    Mean cross-entropy over the scored tokens of a batch; the optimiser with PyTorch's defaults but for the
    learning rate, constant. The model stays in evaluation mode, so no dropout.

    Args:
        runner: The model.
        plan: What is trained: its slots and its shell (embeddings, norm, head).
        arguments: Steps, learning rate, optimiser, batch, seed.
        windows: Inputs and labels, in the order before shuffling.

    Raises:
        InterventionError: If the loss is no longer a number.
    """
    slots = {step.slot: _Slot(runner, step.weights) for step in plan.steps}
    held_shell = {
        name: plan.shell.tensors.get(name, tensor) for name, tensor in runner.anatomy.shell.items()
    }
    parameters = set(dict(runner.anatomy.model.named_parameters()))
    shell_leaves = {
        name: tensor.detach().float().clone().requires_grad_()
        for name, tensor in held_shell.items()
        if name in parameters and tensor.is_floating_point()
    }
    optimiser = _optimiser(
        arguments,
        [
            *(leaf for slot in slots.values() for leaf in slot.leaves.values()),
            *shell_leaves.values(),
        ],
    )
    losses: list[float] = []
    with torch.inference_mode(False), torch.enable_grad():
        for inputs, labels in _batches(windows, arguments, runner.device):
            shell = OuterWeights(
                ("training",),
                {name: leaf.to(held_shell[name].dtype) for name, leaf in shell_leaves.items()},
            )
            loss = _text_loss(
                runner,
                plan.steps,
                {slot: each.tensors() for slot, each in slots.items()},
                shell,
                inputs,
                labels,
            )
            losses.append(_stepped(optimiser, loss, len(losses)))
    key = _key(plan, arguments)
    with torch.no_grad():
        edits = {slot: _frozen((*key, slot), each) for slot, each in slots.items()}
        laid = {
            name: leaf.detach().to(held_shell[name].dtype) for name, leaf in shell_leaves.items()
        }
    return Trained(Plan(plan.edited(edits).steps, OuterWeights(key, laid)), _curve(losses))


def train_to_layer_output(
    runner: Runner, plan: Plan, arguments: Train, windows: Windows, layers: Sequence[int]
) -> Trained:
    """Train single layers towards the untouched layer's output, on the untouched model's hidden states.

    The loss is the squared L2 distance of the outputs, averaged over tokens and width. Only the layer's own
    tensors are trained; no later layer is run.

    Args:
        runner: The model.
        plan: The plan whose weights in the slots named are trained.
        arguments: Steps, learning rate, optimiser, batch, seed.
        windows: Inputs and labels; only the inputs are read.
        layers: The slots to train, each by itself.

    Raises:
        InterventionError: If a slot is left out by the plan, or the loss is no longer a number.
    """
    edits: dict[int, Edit] = {}
    losses: list[float] = []
    key = _key(plan, arguments)
    for layer in layers:
        weights = plan.weights_at(layer)
        if weights is None:
            raise InterventionError(
                f"train: layer {layer} was left out by an intervention before; nothing to train"
            )
        slot = _Slot(runner, weights)
        optimiser = _optimiser(arguments, list(slot.leaves.values()))
        for step, (inputs, _) in enumerate(_batches(windows, arguments, runner.device)):
            with torch.no_grad():
                frame = runner.begin(inputs)
                state = frame.start
                for below in range(layer):
                    state = runner.step(frame, below, state)
                wanted = runner.step(frame, layer, state).hidden
            with (
                torch.inference_mode(False),
                torch.enable_grad(),
                runner.bound(layer, weights, slot.tensors()),
            ):
                made = runner.step(frame, layer, state).hidden
                loss = functional.mse_loss(made.float(), wanted.float())
                loss_value = _stepped(optimiser, loss, step)
            losses.append(loss_value)
        with torch.no_grad():
            edits[layer] = _frozen((*key, layer), slot)
    return Trained(plan.edited(edits), _curve(losses[-arguments.steps :]))


def _text_loss(
    runner: Runner,
    steps: Sequence[Step],
    tensors: Mapping[int, Mapping[str, Tensor]],
    shell: OuterWeights,
    inputs: Tensor,
    labels: Tensor,
) -> Tensor:
    frame = runner.begin(inputs, shell=shell)
    state = frame.start
    for step in steps:
        with runner.bound(step.slot, step.weights, tensors[step.slot]):
            state = runner.step(frame, step.slot, state)
    final = runner.finish(frame, state, shell)
    scored = labels != IGNORED
    return functional.cross_entropy(runner.logits(final[scored], shell).float(), labels[scored])


def _batches(
    windows: Windows, arguments: Train, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield one batch per step, going through the windows in a seeded order, over and over."""
    generator = torch.Generator().manual_seed(arguments.seed)
    whole = [window for window in windows if len(window[0]) == len(windows[0][0])]
    order: list[int] = []
    with counted("training", arguments.steps) as advance:
        for _ in range(arguments.steps):
            while len(order) < arguments.batch:
                order += torch.randperm(len(whole), generator=generator).tolist()
            taken, order = order[: arguments.batch], order[arguments.batch :]
            inputs, labels = zip(*(whole[index] for index in taken), strict=True)
            yield torch.stack(inputs).to(device), torch.stack(labels).to(device)
            advance(1)


def _optimiser(arguments: Train, leaves: Sequence[Tensor]) -> torch.optim.Optimizer:
    # The same tensor may stand under several names (experts that are one mean); it is stepped once.
    distinct = list({id(leaf): leaf for leaf in leaves}.values())
    make: Any = _OPTIMISERS[arguments.optimizer]
    made: torch.optim.Optimizer = make(distinct, lr=arguments.lr)
    return made


def _stepped(optimiser: torch.optim.Optimizer, loss: Tensor, step: int) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise InterventionError(f"train: the loss is {value} at step {step}; lower lr")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    return value


def _frozen(key: tuple[Any, ...], slot: _Slot) -> Edit:
    kept = {name: tensor.detach() for name, tensor in slot.tensors().items()}
    return Edit(key, lambda current, parts: kept, stored=slot.stored)


def _key(plan: Plan, arguments: Train) -> tuple[Any, ...]:
    return ("train", plan, hashlib.sha256(arguments.model_dump_json().encode()).hexdigest())


def _curve(losses: Sequence[float]) -> tuple[tuple[int, float], ...]:
    span = max(1, math.ceil(len(losses) / _CURVE_POINTS))
    pieces = [losses[start : start + span] for start in range(0, len(losses), span)]
    return tuple(
        (min((i + 1) * span, len(losses)), sum(piece) / len(piece))
        for i, piece in enumerate(pieces)
    )
