"""What the measurer gives for a family, held against a plain loop over deep copies."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from pytest_layerguard.bet.arguments import BUILTIN_KINDS
from pytest_layerguard.environment.captured_output import quiet
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.interventions.registry import Registry
from pytest_layerguard.measurement.generation import generate, greedy
from pytest_layerguard.measurement.planning import Workbench
from pytest_layerguard.measurement.sanity_checks import check_model
from pytest_layerguard.measurement.sweep import sweep
from pytest_layerguard.models.anatomy import Anatomy
from pytest_layerguard.models.plan import InterventionError, Plan
from pytest_layerguard.models.runner import Runner
from pytest_layerguard.models.streaming import load_streamed
from pytest_layerguard.texts.windows import Contract, batched, cut
from support import causal_families, plain

WINDOWS = cut(causal_families.text(49), Contract(48, 16, 16, start=()))
BATCHES = batched(WINDOWS, 2)
PROMPT = causal_families.text(5, 7)
NEW = 8
CLOSE = 1e-5
"""How far the logarithm of a perplexity may be from the plain loop's."""
FROM_HALF = 2e-5
"""How far each number of a cache is to be from half-way between two levels, in steps."""

Change = Callable[[PreTrainedModel], PreTrainedModel]


@dataclass(frozen=True)
class Case:
    """A variant: what a bet says, and what a plain loop does."""

    name: str
    kind: str
    arguments: dict[str, object]
    change: Change


def cases(model: PreTrainedModel) -> list[Case]:
    """Return the variants that a family is put through."""
    skips = [
        Case(f"skip-{layer}", "skip_layers", {"layers": layer}, partial(skipped, layer=layer))
        for layer in range(causal_families.LAYERS)
    ]
    # What each expert is given has no general form; tests hold it for each form that is known.
    on_inputs = [
        Case("activations", "quantize_activations", {"bits": 8}, with_rounded_inputs),
        Case("wanda", "prune_weights", {"sparsity": 0.5, "by": "wanda"}, pruned),
    ]
    return [
        *skips,
        Case("interchange-1-2", "interchange_layers", {"pairs": [[1, 2]]}, exchanged),
        Case("zero-1", "zero_layers", {"layers": 1, "keep": "none"}, zeroed),
        Case("quantize", "quantize_weights", {"bits": 4, "scale": "row"}, quantized),
        Case("repeat-1", "repeat_layers", {"layers": [1], "times": 2}, repeated),
        Case("low-rank", "low_rank", {"rank": 4}, truncated),
        *cached(model),
        *([] if _mixes(model) else on_inputs),
    ]


def cached(model: PreTrainedModel) -> list[Case]:
    """Return the variants with a rounded cache, of so many bits that no number lies half-way between two levels.

    Such a number goes either way by the noise of float32, and may send a token to another expert.
    """
    if _unheld(model):
        return []
    found = []
    for name, reported, group in (("cache", {}, None), ("cache-channel", {"keys": "channel"}, 4)):
        tried: dict[int, tuple[float, Change]] = {}
        for bits in (4, 3, 5, 2, 6):
            near: list[float] = []
            to = partial(_levels, bits=bits, size=group, near=near)
            change = partial(plain.with_rounded_cache, to=to, group=group)
            _plain(model, Case(name, "", {}, change))
            tried[bits] = min(near, default=1.0), change
            if tried[bits][0] > FROM_HALF:
                break
        else:
            # Noise is a share of the range, of which more levels make smaller steps.
            bits = max(tried, key=lambda each: tried[each][0] / 2**each)
        arguments = {"bits": bits, "group_size": group, **reported}
        found.append(Case(name, "quantize_kv_cache", arguments, tried[bits][1]))
    return found


def _levels(rows: Tensor, bits: int, size: int | None, near: list[float]) -> Tensor:
    for part in rows.split(size or rows.shape[-1], -1):
        low = part.amin(-1, keepdim=True)
        step = (part.amax(-1, keepdim=True) - low) / (2**bits - 1)
        places = ((part - low) / step)[step.expand_as(part) > 0]
        near += (places.frac() - 0.5).abs().tolist()
    return plain.in_steps(bits, size)(rows)


def _unheld(model: PreTrainedModel) -> str | None:
    """Return why no loop over tokens with a cache can hold a model, or None."""
    exact = partial(plain.with_rounded_cache, to=lambda rows: rows)
    made = _plain(model, Case("", "", {}, exact))
    if isinstance(made, str):
        return f"token by token with a cache the model itself fails with {made}"
    far = abs(made - _mean(model))
    if far > CLOSE:
        return f"token by token with a cache the model itself gives something else, by {far:.2g}"
    return None


def outcomes(family: str, **changed: object) -> dict[str, str]:
    """Return, for each check, `agrees`, `refused: why` or `differs: by how much`.

    Raises:
        causal_families.NotSmallError: If the family stays large.
    """
    model = causal_families.model(family, **changed)
    try:
        runner = Runner(Anatomy.of(model))
        check_model(runner, BATCHES[0])
    except MeasurementError as error:
        return {"model": f"refused: {error}"}
    variants = cases(model)
    wanted = {case.name: _plain(model, case) for case in variants}
    plans = {case.name: _plan(runner, case) for case in variants}
    found = {"model": "agrees"}
    for name, plan in plans.items():
        found[name] = _held_against(wanted[name], partial(_scores, runner, [plan]))
    if "cache" not in plans:
        found["cache"] = f"not held: {_unheld(model)}"
    sound = [name for name, outcome in found.items() if outcome == "agrees" and name != "model"]
    for title, names in (("together", sound), ("reversed", sound[::-1])):
        made = _scores(runner, [plans[name] for name in names])
        far = max(
            (abs(made[at] - wanted[name]) for at, name in enumerate(names)),
            default=0.0,  # type: ignore[operator]
        )
        found[title] = "agrees" if far <= CLOSE else f"differs: {far:.2g}"
    found["sample"] = _samples(runner, model, variants, sound, plans)
    found["base after all"] = _held_against(
        _mean(model), lambda: _scores(runner, [Plan.untouched(causal_families.LAYERS)])
    )
    found["stream"] = _streamed(model, plans, wanted, sound)
    return found


def _plan(runner: Runner, case: Case) -> Plan | str:
    bench = Workbench(
        runner, BATCHES, causal_families.VOCABULARY, lambda _: WINDOWS, lambda _: BATCHES
    )
    arguments = BUILTIN_KINDS[case.kind].model_validate(case.arguments)
    try:
        (plan,) = Registry.of()[case.kind].load()(Plan.untouched(bench.layers), arguments, bench)
    except InterventionError as error:
        return str(error)
    return plan


def _plain(model: PreTrainedModel, case: Case) -> float | str:
    """Return the mean loss of a changed copy in float64, or why the plain model fails."""
    try:
        return _mean(case.change(model))
    except Exception as error:
        return f"{type(error).__name__}"


def _mean(model: PreTrainedModel) -> float:
    return float(plain.losses(model, WINDOWS).mean())


def _scores(runner: Runner, plans: Sequence[Plan | str]) -> list[float]:
    for plan in plans:
        if isinstance(plan, str):
            raise MeasurementError(plan)
    base = Plan.untouched(causal_families.LAYERS)
    rows = sweep(runner, BATCHES, base, plans, causal_families.VOCABULARY).variants  # type: ignore[arg-type]
    return [float(row.losses.double().mean()) for row in rows]


def _held_against(wanted: float | str, score: Callable[[], list[float]]) -> str:
    try:
        (made,) = score()
    except MeasurementError as error:
        return f"refused: {error}" + (
            " (the plain model fails, too)" if isinstance(wanted, str) else ""
        )
    if isinstance(wanted, str):
        return f"differs: the plain model fails with {wanted}"
    return "agrees" if abs(made - wanted) <= CLOSE else f"differs: {abs(made - wanted):.2g}"


def _samples(
    runner: Runner,
    model: PreTrainedModel,
    variants: Sequence[Case],
    names: Sequence[str],
    plans: dict[str, Plan | str],
) -> str:
    """Return whether every variant continues a text as its changed copy does, together and alone."""
    changes = {case.name: case.change for case in variants if case.name in names}
    chosen = [plan for name in names if isinstance(plan := plans[name], Plan)]
    every = [Plan.untouched(causal_families.LAYERS), *chosen]
    wanted = [plain.continued(each(model), PROMPT, NEW, []) for each in (_same, *changes.values())]
    together = [text for (text,) in generate(runner, every, [PROMPT], NEW, greedy)]
    alone = [generate(runner, [plan], [PROMPT], NEW, greedy)[0][0] for plan in every]
    if together == alone == wanted:
        return "agrees"
    wrong = sum(text != right for text, right in zip(together, wanted, strict=True))
    return f"differs: {wrong} of {len(every)} texts"


def _same(model: PreTrainedModel) -> PreTrainedModel:
    return model


def _streamed(
    model: PreTrainedModel,
    plans: dict[str, Plan | str],
    wanted: dict[str, float | str],
    names: Sequence[str],
) -> str:
    with tempfile.TemporaryDirectory() as folder, quiet():
        try:
            model.save_pretrained(folder)
            load = partial(AutoModelForCausalLM.from_pretrained, folder, output_loading_info=True)
            read, _, store = load_streamed(AutoModelForCausalLM, model.config, "cpu", load)
            runner = Runner(Anatomy.of(read.eval().requires_grad_(False)), store)
            check_model(runner, BATCHES[0])
        except MeasurementError as error:
            return f"refused: {error}"
        made = _scores(runner, [plans[name] for name in names])
    far = max(
        (abs(made[at] - wanted[name]) for at, name in enumerate(names)),
        default=0.0,  # type: ignore[operator]
    )
    return "agrees" if far <= CLOSE else f"differs: {far:.2g}"


def blocks(model: PreTrainedModel) -> nn.ModuleList:
    """Return the decoder's blocks: the uppermost list of as many modules as there are layers."""
    found = [
        module
        for _, module in sorted(model.named_modules(), key=lambda each: each[0].count("."))
        if isinstance(module, nn.ModuleList)
        and len(module) == causal_families.LAYERS
        and any(True for _ in module.parameters())
    ]
    return found[0]


def _handed_on(model: PreTrainedModel) -> tuple[list[object], dict[int, int | str]]:
    """Return what each block returns, and the argument by which the next one is given each part of it."""
    given: list[dict[int | str, object]] = []
    returned: list[object] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        given.append({**dict(enumerate(args)), **kwargs})
        returned.append(output)

    handles = [block.register_forward_hook(note, with_kwargs=True) for block in blocks(model)]
    with torch.no_grad():
        model(input_ids=torch.tensor([PROMPT]), use_cache=False)
    for handle in handles:
        handle.remove()
    # The argument by which a block is given what the block before it returned at a place.
    names = {
        place: name
        for output, arguments in zip(returned, given[1:], strict=False)
        if isinstance(output, tuple | list)
        for place, extra in enumerate(output)
        for name, value in arguments.items()
        if place and extra is not None and value is extra
    }
    return returned, names


def skipped(model: PreTrainedModel, layer: int) -> PreTrainedModel:
    """Return a copy in which a layer returns what it is given, beside the hidden states, too."""
    changed = copy.deepcopy(model)
    returned, names = _handed_on(changed)

    def identity(*args: Any, **kwargs: Any) -> object:
        arguments: dict[int | str, Any] = {**dict(enumerate(args)), **kwargs}
        hidden = arguments[0] if args else arguments["hidden_states"]
        output = returned[layer]
        if not isinstance(output, tuple | list):
            return hidden
        beside = [arguments.get(names.get(place, "")) for place in range(1, len(output))]
        return type(output)([hidden, *beside])

    blocks(changed)[layer].forward = identity
    return changed


def exchanged(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy in which layers 1 and 2 have each other's weights."""
    changed = copy.deepcopy(model)
    one, other = blocks(changed)[1], blocks(changed)[2]
    first, second = ({k: v.clone() for k, v in each.state_dict().items()} for each in (one, other))
    one.load_state_dict(second)
    other.load_state_dict(first)
    return changed


def zeroed(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy in which every parameter of layer 1 is zero, also one that other layers share."""
    changed = copy.deepcopy(model)
    blocks(changed)[1] = copy.deepcopy(blocks(changed)[1])
    for parameter in blocks(changed)[1].parameters():
        parameter.zero_()
    return changed


def quantized(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy in which each row of each matrix, experts' included and routers' not, is rounded."""
    changed = copy.deepcopy(model)
    done: set[int] = set()
    for block in blocks(changed):
        for matrix in _matrices(block):
            # Tied weights are one matrix.
            if matrix.data_ptr() not in done:
                done.add(matrix.data_ptr())
                matrix.copy_(plain.nearest(4)(matrix))
    return changed


def repeated(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy in which layer 1 runs once more, on what it returned."""
    changed = copy.deepcopy(model)
    block = blocks(changed)[1]
    once = block.forward
    _, names = _handed_on(changed)

    def twice(*args: Any, **kwargs: Any) -> Any:
        output = once(*args, **kwargs)
        parts = output if isinstance(output, tuple | list) else [output]
        given: dict[int | str, Any] = {**dict(enumerate(args)), **kwargs}
        given[0 if args else "hidden_states"] = parts[0]
        given |= {name: parts[place] for place, name in names.items()}
        return once(
            *(given[place] for place in range(len(args))), **{name: given[name] for name in kwargs}
        )

    block.forward = twice
    return changed


def truncated(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy in which each matrix is the nearest one of rank 4."""
    changed = copy.deepcopy(model)
    done: set[int] = set()
    for block in blocks(changed):
        for matrix in _matrices(block):
            # Tied weights are one matrix.
            if matrix.data_ptr() not in done and min(matrix.shape) > 4:
                left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
                matrix.copy_(left[:, :4] * values[:4] @ right[:4])
            done.add(matrix.data_ptr())
    return changed


def with_rounded_inputs(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy in which what each matrix is multiplied by is rounded, token by token."""
    changed = copy.deepcopy(model)
    for module in {module for block in blocks(changed) for module in _linear(block).values()}:
        module.register_forward_pre_hook(
            # An embedding of zeros has a step of zero.
            lambda _, args: (plain.nearest(8)(args[0]).nan_to_num(), *args[1:])
        )
    return changed


def pruned(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy in which half of each row is zero, block after block, as Wanda has it."""
    changed = copy.deepcopy(model)
    for block in blocks(changed):
        given = plain.input_rows(block, changed, WINDOWS)
        for name, module in _linear(block).items():
            matrix = module.weight if isinstance(module, nn.Linear) else module.weight.T
            scores = matrix.abs() * torch.cat(given[f"{name}.weight"]).norm(dim=0)
            least = scores.argsort(dim=1, stable=True)[:, : matrix.shape[1] // 2]
            matrix.scatter_(1, least, 0)
    return changed


def _linear(block: nn.Module) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in block.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    }


def _mixes(model: PreTrainedModel) -> bool:
    return any("experts" in name for name, _ in blocks(model).named_parameters())


def _matrices(block: nn.Module) -> Iterator[Tensor]:
    """Yield every matrix ``[out, in]`` of the linear maps of a block, as views."""
    mixture = any("experts" in name for name, _ in block.named_parameters())
    for name, module in block.named_modules():
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            if mixture and {"gate", "router"} & set(name.split(".")):
                continue
            yield module.weight if isinstance(module, nn.Linear) else module.weight.T
        for tensor in module.parameters(recurse=False):
            experts = "experts" in name or type(module).__name__ == "JetMoeParallelExperts"
            if tensor.dim() == 3 and experts:
                turned = getattr(module, "is_transposed", "Llama4" in type(module).__name__)
                yield from (each.T if turned else each for each in tensor)
