"""The plain way to every number: deep copies that are written to, full forward passes, float64.

Nothing here uses the measurer, so that agreement with it means something.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

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
    returns_tuple = _returns_tuple(changed)
    for layer in layers:

        def identity(*args: Tensor, **kwargs: Tensor) -> object:
            hidden = args[0] if args else kwargs["hidden_states"]
            return (hidden,) if returns_tuple else hidden

        blocks[layer].forward = identity
    return changed


def without_branch(model: PreTrainedModel, layers: Sequence[int], part: str) -> PreTrainedModel:
    """A copy in which a branch of the layers named gives zeros."""
    changed = copy.deepcopy(model)
    # Where a module adds its input itself, its last matrix comes first.
    names = {
        "attention": ("self_attention.dense", "self_attn", "attn", "self_attention"),
        "feed_forward": (
            *("mlp.dense_4h_to_h", "ffn.down_proj"),
            *("mlp", "feed_forward", "block_sparse_moe", "fc2"),
        ),
    }[part]

    def silent(_: nn.Module, args: object, output: object) -> object:
        if isinstance(output, tuple):
            return torch.zeros_like(output[0]), *output[1:]
        assert isinstance(output, Tensor)
        return torch.zeros_like(output)

    for layer in layers:
        modules = dict(layers_of(changed)[layer].named_modules())
        next(modules[name] for name in names if name in modules).register_forward_hook(silent)
    return changed


def _returns_tuple(model: PreTrainedModel) -> bool:
    """Whether blocks return a tuple, which differs from family to family and from version to version."""
    seen: list[bool] = []
    handle = layers_of(model)[0].register_forward_hook(
        lambda block, args, output: seen.append(isinstance(output, tuple))
    )
    with torch.no_grad():
        model(torch.zeros((1, 2), dtype=torch.long), use_cache=False)
    handle.remove()
    return seen[0]


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


def with_merged_experts(
    model: PreTrainedModel,
    groups: Mapping[int, Sequence[Sequence[int]]],
    counts: Mapping[int, Sequence[int]],
) -> PreTrainedModel:
    """A copy in which each expert of a layer is the mean of its group, where each counts so much."""
    changed = copy.deepcopy(model)
    for layer, found in groups.items():
        for name, parameter in layers_of(changed)[layer].named_parameters():
            if ".experts." not in name:
                continue
            before = parameter.double()
            for group in found:
                total = sum(counts[layer][expert] for expert in group)
                mean = sum(before[expert] * counts[layer][expert] / total for expert in group)
                for expert in group:
                    parameter[expert] = mean
    return changed


def routed(
    model: PreTrainedModel, windows: Windows, layer: int
) -> Iterator[tuple[Tensor, Tensor, Tensor, Callable[[int, Tensor], Tensor]]]:
    """For each window what the experts of a layer are given, and a function that gives one expert's output.

    Hidden states ``[T, H]``, indices and weights ``[T, k]``, for experts of Llama's form.
    """
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    experts = layers_of(model)[layer].get_submodule("mlp.experts")
    into, out = experts.gate_up_proj.double(), experts.down_proj.double()

    def output(expert: int, hidden: Tensor) -> Tensor:
        gate, up = (hidden.double() @ into[expert].T).chunk(2, dim=-1)
        return (gate * torch.sigmoid(gate) * up) @ out[expert].T

    handle = experts.register_forward_pre_hook(lambda _, args: seen.append(args))
    for inputs, _ in windows:
        with torch.no_grad():
            model(input_ids=inputs.unsqueeze(0), use_cache=False)
        yield *seen.pop(), output
    handle.remove()


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


def pruned_in_rows(
    model: PreTrainedModel,
    windows: Windows | None,
    least: Callable[[Tensor], Sequence[int]],
) -> PreTrainedModel:
    """A copy with weights of each row set to zero, block after block, as Wanda's code goes through a model.

    With windows the scores are ``|W| * norm(X)``, where X are the inputs of the block as the copy now is; without
    them ``|W|``. ``least`` names the places of a row's scores that become zero.
    """
    changed = copy.deepcopy(model)
    for block in layers_of(changed):
        given = input_rows(block, changed, windows) if windows else {}
        for name, matrix in matrices(block):
            rows = matrix.T if is_in_columns(model, name) else matrix
            norm = torch.ones(rows.shape[1])
            if given.get(name):
                norm = torch.cat(given[name]).norm(dim=0)
            for row in rows:
                row[list(least(row.abs() * norm))] = 0
    return changed


def with_rounded_inputs(
    model: PreTrainedModel, to: Callable[[Tensor], Tensor], *, linear: bool = True
) -> PreTrainedModel:
    """A copy whose matrices, or experts alone, are given rounded inputs; experts are run one by one."""
    changed = copy.deepcopy(model)

    def rounded(values: Tensor) -> Tensor:
        return to(values.float()).to(values.dtype)

    for block in layers_of(changed):
        names = {name.removesuffix(".weight") for name, _ in matrices(block)}
        for name, module in block.named_modules():
            jetmoe = type(module).__name__ == "JetMoeParallelExperts"
            if jetmoe or (name in names and linear):
                module.register_forward_pre_hook(lambda _, args: (rounded(args[0]), *args[1:]))
            elif isinstance(getattr(module, "gate_up_proj", None), Tensor):
                module.forward = _one_by_one(module, rounded, columns=in_columns(model))
    return changed


def _one_by_one(
    experts: nn.Module, to: Callable[[Tensor], Tensor], *, columns: bool
) -> Callable[..., Tensor]:
    def times(rows: Tensor, name: str, index: int) -> Tensor:
        matrix = getattr(experts, name)[index]
        found: Tensor = to(rows) @ (matrix if columns else matrix.T)
        return found + getattr(experts, f"{name}_bias")[index] if columns else found

    def forward(hidden: Tensor, chosen: Tensor, shares: Tensor) -> Tensor:
        out = torch.zeros_like(hidden)
        for token, (indices, weights) in enumerate(zip(chosen, shares, strict=True)):
            for index, weight in zip(indices.tolist(), weights, strict=True):
                inner = experts._apply_gate(times(hidden[token : token + 1], "gate_up_proj", index))
                out[token] += weight * times(inner, "down_proj", index)[0]
        return out

    return forward


def with_rounded_cache(
    model: PreTrainedModel,
    to: Callable[[Tensor], Tensor],
    *,
    exact: int = 0,
    group: int | None = None,
    layers: Sequence[int] | None = None,
) -> PreTrainedModel:
    """A copy that reads token after token, with a cache in which all but the last tokens are rounded.

    Args:
        model: The model.
        to: Rounds the last dimension of its argument.
        exact: How many of the last tokens are not rounded.
        group: How many tokens a group of one channel's keys has; groups that are not whole are exact. Without it, the
            keys of a token are rounded by themselves, as values are.
        layers: The layers whose cache is rounded, by default all.
    """
    changed = copy.deepcopy(model)
    own = changed.forward

    class Rounded(DynamicCache):
        def update(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
            keys, values = super().update(*args, **kwargs)
            if layers is not None and args[2] not in layers:
                return keys, values
            old = max(keys.shape[2] - exact, 0)
            keys, values = keys.clone(), values.clone()
            if group is not None:
                old -= old % group
                for start in range(0, old, group):
                    piece = keys[:, :, start : start + group].transpose(2, 3)
                    keys[:, :, start : start + group] = to(piece).transpose(2, 3)
            else:
                keys[:, :, :old] = to(keys[:, :, :old])
            values[:, :, :old] = to(values[:, :, :old])
            return keys, values

    def forward(input_ids: Tensor, **_: Any) -> SimpleNamespace:
        config = model.config.get_text_config(decoder=True)
        cache = Rounded(config=config)
        # It keeps all, so that groups begin with the text.
        cache.layers = [
            DynamicLayer() if type(layer) is DynamicSlidingWindowLayer else layer
            for layer in cache.layers
        ]
        taken = inspect.signature(own).parameters
        rows = []
        for place, token in enumerate(input_ids.split(1, 1)):
            named: dict[str, Any] = {"cache" if "cache" in taken else "past_key_values": cache}
            if hasattr(config, "rope_parameters") and "position_ids" in taken:
                # Bamba rotates every token as the first otherwise.
                named["position_ids"] = torch.tensor([[place]])
            rows.append(own(input_ids=token, use_cache=True, **named).logits)
        return SimpleNamespace(logits=torch.cat(rows, 1))

    changed.forward = forward
    return changed


def in_steps(bits: int, size: int | None = None) -> Callable[[Tensor], Tensor]:
    """Rounds the last dimension, group by group, to evenly spaced levels from the least to the largest."""

    def one(group: Tensor) -> Tensor:
        low = group.amin(-1, keepdim=True)
        step = (group.amax(-1, keepdim=True) - low) / (2**bits - 1)
        return ((group - low) / step.where(step > 0, 1.0)).round() * step + low

    return lambda rows: torch.cat(
        [one(part) for part in rows.split(size or rows.shape[-1], -1)], -1
    )


def truncated(
    model: PreTrainedModel, windows: Windows | None, rank_of: Callable[[int, int], int]
) -> PreTrainedModel:
    """A copy with matrices of a lower rank, block after block.

    Without windows the nearest matrix of that rank; with them the one whose outputs are the nearest on the inputs
    that the block of the copy as it now is has.
    """
    changed = copy.deepcopy(model)
    for block in layers_of(changed):
        given = input_rows(block, changed, windows) if windows else {}
        for name, matrix in matrices(block):
            rows = (matrix.T if is_in_columns(model, name) else matrix).double()
            inputs = torch.eye(rows.shape[1], dtype=torch.float64)
            if given.get(name) and len(torch.cat(given[name])):
                inputs = torch.cat(given[name]).double().T
                # A millionth of their mean square more in every direction, for those that no input has.
                ridge = (1e-6 * inputs.square().mean()).sqrt() * inputs.shape[1] ** 0.5
                inputs = torch.cat([inputs, ridge * torch.eye(len(inputs))], 1)
            # The best approximation of W X of some rank is its projection on its first left singular vectors.
            outputs = torch.linalg.svd(rows @ inputs, full_matrices=False)
            first = outputs.U[:, : rank_of(*rows.shape)]
            done = first @ first.T @ rows if first.shape[1] < min(rows.shape) else rows
            matrix.copy_(done.T if is_in_columns(model, name) else done)
    return changed


@torch.no_grad()
def input_rows(
    block: nn.Module, model: PreTrainedModel, windows: Windows
) -> dict[str, list[Tensor]]:
    """What each matrix of a block is multiplied by, ``[tokens, in]`` of every window."""
    given: dict[str, list[Tensor]] = {}
    handles = []
    for name, module in block.named_modules():
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":

            def on_linear(_: nn.Module, args: tuple[Tensor], name: str = name) -> None:
                given.setdefault(f"{name}.weight", []).append(args[0].flatten(0, -2))

            handles.append(module.register_forward_pre_hook(on_linear))
        elif isinstance(getattr(module, "gate_up_proj", None), Tensor):

            def on_experts(
                experts: nn.Module, args: tuple[Tensor, ...], kwargs: object, name: str = name
            ) -> None:
                hidden, chosen = args[0].flatten(0, -2), args[1]
                for index in range(len(experts.gate_up_proj)):
                    rows = hidden[(chosen == index).any(-1)]
                    up = experts.gate_up_proj[index]
                    inner = rows @ (up if in_columns(model) else up.T)
                    if in_columns(model):
                        inner = inner + experts.gate_up_proj_bias[index]
                    given.setdefault(f"{name}.gate_up_proj.{index}", []).append(rows)
                    given.setdefault(f"{name}.down_proj.{index}", []).append(
                        experts._apply_gate(inner)
                    )

            handles.append(module.register_forward_pre_hook(on_experts, with_kwargs=True))
        elif type(module).__name__ == "JetMoeParallelExperts":

            def on_jetmoe(_: nn.Module, args: tuple[Tensor, list[int]], name: str = name) -> None:
                for index, rows in enumerate(args[0].split(args[1])):
                    given.setdefault(f"{name}.weight.{index}", []).append(rows)

            handles.append(module.register_forward_pre_hook(on_jetmoe))
    log_probabilities(model, windows)
    for handle in handles:
        handle.remove()
    return given


def exchanged(model: PreTrainedModel, i: int, j: int) -> PreTrainedModel:
    """A copy in which slots i and j have each other's weights."""
    changed = copy.deepcopy(model)
    blocks = layers_of(changed)
    first = {name: tensor.clone() for name, tensor in blocks[i].state_dict().items()}
    second = {name: tensor.clone() for name, tensor in blocks[j].state_dict().items()}
    blocks[i].load_state_dict(second)
    blocks[j].load_state_dict(first)
    return changed


def repeated(model: PreTrainedModel, layers: Sequence[int], times: int) -> PreTrainedModel:
    """A copy whose layers named run on what they gave, ``times`` times in all."""
    changed = copy.deepcopy(model)
    for layer in layers:
        block = layers_of(changed)[layer]

        def again(*args: Any, once: Callable[..., Any] = block.forward, **kwargs: Any) -> Any:
            for _ in range(times):
                output = once(*args, **kwargs)
                hidden = output[0] if isinstance(output, tuple) else output
                if args:
                    args = (hidden, *args[1:])
                else:
                    kwargs["hidden_states"] = hidden
            return output

        block.forward = again
    return changed


def merged(model: PreTrainedModel, layer: int, count: int) -> PreTrainedModel:
    """A copy in which a layer has the differences of ``count`` layers after it added, and those are left out."""
    changed = copy.deepcopy(model)
    blocks = layers_of(changed)
    before = {name: tensor.clone() for name, tensor in blocks[layer].state_dict().items()}
    for name, tensor in blocks[layer].state_dict().items():
        for other in range(layer + 1, layer + 1 + count):
            tensor += blocks[other].state_dict()[name] - before[name]
    return skipped(changed, range(layer + 1, layer + 1 + count))


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
    return losses_of(*log_probabilities(model, windows))


def losses_of(rows: Tensor, labels: Tensor) -> Tensor:
    """Token losses ``[n]`` of labels ``[n]`` by log-probabilities ``[n, V]``."""
    return -rows.gather(1, labels.unsqueeze(1)).squeeze(1)


def divergence(base: Tensor, variant: Tensor) -> float:
    """Mean KL(base || variant) in nats per token, from log-probabilities ``[n, V]`` of both."""
    return float((base.exp() * (base - variant)).sum(-1).mean())


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


def zeroed(model: PreTrainedModel, layer: int, keep: Sequence[str] = ()) -> PreTrainedModel:
    """A copy with every parameter of a layer zero but for those whose name holds a word of ``keep``."""
    changed = copy.deepcopy(model)
    for name, parameter in layers_of(changed)[layer].named_parameters():
        if not any(word in name for word in keep):
            parameter.zero_()
    return changed


def written(model: PreTrainedModel, tensors: Mapping[int, Mapping[str, Tensor]]) -> PreTrainedModel:
    """A copy with tensors written into its layers."""
    changed = copy.deepcopy(model)
    for layer, named in tensors.items():
        state = layers_of(changed)[layer].state_dict()
        for name, tensor in named.items():
            state[name].copy_(tensor)
    return changed


def in_columns(model: PreTrainedModel) -> bool:
    """Whether this model keeps an output of a matrix in a column: Conv1D, and the experts of GPT-OSS."""
    return type(model).__name__.startswith(("GPT2", "GptOss"))


def is_in_columns(model: PreTrainedModel, name: str) -> bool:
    """Whether this model keeps an output of this matrix in a column."""
    expert = name.rpartition(".")[2].isdigit()
    return in_columns(model) and (expert or not type(model).__name__.startswith("Gpt"))


def rounded(
    model: PreTrainedModel, scale: str, group: int | None, to: Callable[[Tensor], Tensor]
) -> PreTrainedModel:
    """A copy with each matrix rounded piece by piece; ``to`` rounds the last dimension of its argument."""
    changed = copy.deepcopy(model)
    for block in layers_of(changed):
        for name, matrix in matrices(block):
            columns = is_in_columns(model, name)
            rows = matrix.T if columns else matrix
            if scale == "tensor":
                done = to(rows.flatten()).view_as(rows)
            else:
                done = torch.cat([to(piece) for piece in rows.split(group or rows.shape[1], 1)], 1)
            matrix.copy_(done.T if columns else done)
    return changed


def absmean(weights: Tensor) -> Tensor:
    """Each weight is -1, 0 or 1 times the mean magnitude (arXiv 2402.17764, equations 1 to 3)."""
    scale = weights.double().abs().mean(-1, keepdim=True)
    return (weights / scale).round().clip(-1, 1) * scale


def nearest(bits: int) -> Callable[[Tensor], Tensor]:
    """Each weight is a whole number of steps, of which the range of the largest magnitude has ``2^bits - 1``."""
    half = 2 ** (bits - 1)

    def to(weights: Tensor) -> Tensor:
        # In float32, as in the files: the largest weight lies half-way between two whole numbers.
        step = weights.abs().amax(-1, keepdim=True) / ((2**bits - 1) / 2)
        return (weights / step).round().clip(-half, half - 1) * step

    return to


def nearest_with_zero_point(bits: int) -> Callable[[Tensor], Tensor]:
    """Each weight is the nearest of ``2^bits`` steps from the least weight to the largest, one of them zero."""

    def to(weights: Tensor) -> Tensor:
        low = weights.amin(-1, keepdim=True).clip(max=0)
        step = (weights.amax(-1, keepdim=True).clip(min=0) - low) / (2**bits - 1)
        zero = (-low / step).round()
        return ((weights / step + zero).round().clip(0, 2**bits - 1) - zero) * step

    return to


def nearest_mxfp4(weights: Tensor) -> Tensor:
    """Each weight is the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6, with a sign, times a power of two."""
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    largest = weights.abs().amax(-1, keepdim=True)
    power = 2.0 ** largest.log2().floor()
    step = torch.where(largest >= 1.75 * power, 2 * power, power) / 4
    found = (weights.abs() / step).unsqueeze(-1).sub(values).abs().argmin(-1)
    return values[found] * step * weights.sign()


def with_fewer_experts(
    model: PreTrainedModel, dropped: Mapping[int, Mapping[str, Sequence[int]]]
) -> PreTrainedModel:
    """A model that its configuration builds with fewer experts, given the rows of those that stay."""
    count = len(next(iter(next(iter(dropped.values())).values())))
    config = copy.deepcopy(model.config)
    for name in ("num_experts", "num_local_experts", "n_routed_experts"):
        if name in config.to_dict():
            setattr(config, name, getattr(config, name) - count)
    smaller = type(model)(config).eval().requires_grad_(False)
    taken = model.state_dict()
    for layer, mixtures in dropped.items():
        for module, experts in mixtures.items():
            start = f"model.layers.{layer}.{module}."
            for name, tensor in smaller.state_dict().items():
                whole = taken[name]
                if name.startswith(start) and len(tensor) < len(whole):
                    stay = [index for index in range(len(whole)) if index not in experts]
                    taken[name] = whole[stay]
    smaller.load_state_dict(taken)
    return smaller


def states(model: PreTrainedModel, windows: Windows) -> list[list[Tensor]]:
    """For each window what goes into every layer, and what comes out of the last, ``[T, H]`` each, in float64."""
    found: list[list[Tensor]] = []

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        found[-1].append((args[0] if args else kwargs["hidden_states"])[0].double())

    def after(_: nn.Module, __: Any, output: Any) -> None:
        found[-1].append((output[0] if isinstance(output, tuple) else output)[0].double())

    blocks = layers_of(model)
    handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in blocks]
    handles.append(blocks[-1].register_forward_hook(after))
    for inputs, _ in windows:
        found.append([])
        with torch.no_grad():
            model(input_ids=inputs.unsqueeze(0), use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def _cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))


def influence(model: PreTrainedModel, windows: Windows, length: int = 1) -> list[float]:
    """1 minus the mean cosine between what goes into each run of layers and what comes out of it."""
    found = states(model, windows)
    scores = []
    for first in range(len(found[0]) - length):
        cosines = [
            _cosine(one, other)
            for each in found
            for one, other in zip(each[first], each[first + length], strict=True)
        ]
        scores.append(1 - sum(cosines) / len(cosines))
    return scores


def angular_distance(model: PreTrainedModel, windows: Windows, length: int = 1) -> list[float]:
    """The mean angle over pi between what goes into a run of layers and comes out, at each window's last token."""
    found = states(model, windows)
    return [
        sum(math.acos(_cosine(each[first][-1], each[first + length][-1])) for each in found)
        / (math.pi * len(found))
        for first in range(len(found[0]) - length)
    ]


@torch.inference_mode()
def strided(
    model: PreTrainedModel, tokens: list[int], window: int, stride: int
) -> tuple[float, int]:
    """The loop ``evaluate_ppl`` of "No Free Swap", without its padding: the perplexity and the tokens scored."""
    total, count, read = 0.0, 0, 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + window, len(tokens))
        new, length = end - read, end - begin
        logits = model(torch.tensor([tokens[begin:end]])).logits[0, : length - 1].double()
        targets = torch.tensor(tokens[begin + 1 : end], dtype=torch.long)
        losses = -logits.log_softmax(-1)[torch.arange(length - 1), targets]
        first = length - new if new < length else 0
        total += float(losses[first:].sum())
        count += len(losses) - first
        read = end
        if end == len(tokens):
            break
    return math.exp(total / count), count
