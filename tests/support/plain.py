"""The plain way to every number: deep copies that are written to, full forward passes, float64.

Nothing here uses the laboratory, so that agreement with it means something.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Windows = Sequence[tuple[Tensor, Tensor]]


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The blocks, by the names that transformers gives them."""
    for path in (
        "model.layers",
        "model.language_model.layers",
        "gpt_neox.layers",
        "transformer.h",
        "transformer.blocks",
        "model.decoder.layers",
    ):
        try:
            found = model.get_submodule(path)
        except AttributeError:
            continue
        assert isinstance(found, nn.ModuleList)
        return found
    raise AssertionError(type(model).__name__)


def skipped(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A copy whose layers named return what they are given."""
    changed = copy.deepcopy(model)
    blocks = layers_of(changed)
    returns_tuple = type(changed).__name__.startswith(("GPTJ", "Bloom", "Falcon", "Mpt"))
    for layer in layers:

        def identity(*args: Tensor, **kwargs: Tensor) -> object:
            hidden = args[0] if args else kwargs["hidden_states"]
            return (hidden,) if returns_tuple else hidden

        blocks[layer].forward = identity
    return changed


def averaged(model: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A copy in which each expert is the mean of the experts of its mixture."""
    changed = copy.deepcopy(model)
    for layer in layers:
        for name, parameter in layers_of(changed)[layer].named_parameters():
            expert_named = ("expert" in name and "shared" not in name) or "put_linear" in name
            routes = "gate.weight" in name or "router" in name
            if expert_named and parameter.dim() >= 2 and not routes:
                for expert in range(1, len(parameter)):
                    parameter[0] += parameter[expert]
                parameter[0] /= len(parameter)
                for expert in range(1, len(parameter)):
                    parameter[expert] = parameter[0]
    return changed


def matrices(block: nn.Module) -> list[tuple[str, Tensor]]:
    """Every weight matrix of a linear map in a block, each expert's by itself, routers left out."""
    found: list[tuple[str, Tensor]] = []
    for name, module in block.named_modules():
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            if name.split(".")[-1] in ("gate", "router") or name.endswith("router.layer"):
                continue
            found.append((f"{name}.weight", module.weight))
    for name, parameter in block.named_parameters():
        if parameter.dim() == 3:
            found += [(f"{name}.{index}", matrix) for index, matrix in enumerate(parameter)]
    return found


def pruned(model: PreTrainedModel, sparsity: float) -> PreTrainedModel:
    """A copy with the smallest weights of each matrix set to zero."""
    changed = copy.deepcopy(model)
    for block in layers_of(changed):
        for _, matrix in matrices(block):
            flat = matrix.flatten()
            order = flat.abs().sort().indices[: int(sparsity * flat.numel())]
            flat[order] = 0
            matrix.copy_(flat.view_as(matrix))
    return changed


def exchanged(model: PreTrainedModel, i: int, j: int) -> PreTrainedModel:
    """A copy in which slots i and j have each other's weights."""
    changed = copy.deepcopy(model)
    blocks = layers_of(changed)
    first = {name: tensor.clone() for name, tensor in blocks[i].state_dict().items()}
    second = {name: tensor.clone() for name, tensor in blocks[j].state_dict().items()}
    blocks[i].load_state_dict(second)
    blocks[j].load_state_dict(first)
    return changed


def replaced(model: PreTrainedModel, slot: int, layer: int) -> PreTrainedModel:
    """A copy in which a slot has a copy of another layer's weights."""
    changed = copy.deepcopy(model)
    blocks = layers_of(changed)
    blocks[slot].load_state_dict({k: v.clone() for k, v in blocks[layer].state_dict().items()})
    return changed


@torch.no_grad()
def log_probabilities(model: PreTrainedModel, windows: Windows) -> tuple[Tensor, Tensor]:
    """Log-probabilities ``[n, V]`` and labels ``[n]`` of all scored tokens, window by window, in float64."""
    rows: list[Tensor] = []
    wanted: list[Tensor] = []
    for inputs, labels in windows:
        logits = model(input_ids=inputs.unsqueeze(0), use_cache=False).logits[0]
        scored = labels != -100
        rows.append(logits[scored].double().log_softmax(-1))
        wanted.append(labels[scored])
    return torch.cat(rows), torch.cat(wanted)


def losses(model: PreTrainedModel, windows: Windows) -> Tensor:
    """Token losses ``[n]`` in float64."""
    rows, wanted = log_probabilities(model, windows)
    return -rows.gather(1, wanted.unsqueeze(1)).squeeze(1)


def divergence(base: PreTrainedModel, variant: PreTrainedModel, windows: Windows) -> float:
    """Mean KL(base || variant) in nats per token, in float64 on full logits."""
    reference, _ = log_probabilities(base, windows)
    other, _ = log_probabilities(variant, windows)
    return float((reference.exp() * (reference - other)).sum(-1).mean())


@torch.no_grad()
def continued(
    model: PreTrainedModel, prompt: Sequence[int], tokens: int, forbidden: Sequence[int]
) -> list[int]:
    """Greedy continuation, the whole text run again for every token."""
    ids = list(prompt)
    for _ in range(tokens):
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        logits[list(forbidden)] = -torch.inf
        ids.append(int(logits.argmax()))
    return ids[len(prompt) :]
