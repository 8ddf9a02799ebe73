"""Interventions on the experts of mixtures: averaging them into one, dropping the least used."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pytest_layerguard.models.plan import Edit, InterventionError, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pytest_layerguard.bet import arguments as args
    from pytest_layerguard.interventions.bench import Bench
    from pytest_layerguard.models.layer_parts import ExpertBank, Forms, LayerParts, Tensors


def average_experts(plan: Plan, arguments: args.AverageExperts, bench: Bench) -> tuple[Plan, ...]:
    """Make every expert the mean of the experts of its mixture, as a view of one tensor rather than copies.

    It is stored as one expert.
    """
    layers = layers_with_experts(arguments.layers, bench, "average_experts")
    bench.note(
        "expert_variance", {str(layer): expert_variance(bench.parts(layer)) for layer in layers}
    )
    edit = Edit(
        ("average_experts",),
        lambda tensors, parts: dict(_averaged(tensors, parts)),
        stored=_as_one,
    )
    return (plan.edited(dict.fromkeys(layers, edit)),)


def drop_experts(plan: Plan, arguments: args.DropExperts, bench: Bench) -> tuple[Plan, ...]:
    """Take the least used experts out of the router's choice, and out of the model.

    Use is counted on the bet's own text: how many tokens choose an expert. Of experts used equally often
    the later ones go. If the router chooses among groups of experts first, each group loses as many.

    The result is a model with the remaining experts only: their rows of the router and their weights. A
    router's softmax (or sigmoid with its normalisation) is therefore taken over the remaining experts, as
    if the dropped ones had a logit of minus infinity. This differs from masking them after a softmax over
    all experts, where the shares of the others would not grow.
    """
    layers = layers_with_experts(arguments.layers, bench, "drop_experts")
    use = bench.expert_use(plan)
    edits: dict[int, Edit] = {}
    dropped: dict[str, Any] = {}
    for layer in layers:
        banks = bench.parts(layer).banks
        kept = {
            bank.module: _most_used(bank, list(use[layer, bank.module]), arguments.count)
            for bank in banks
        }
        dropped[str(layer)] = {
            bank.module: sorted(set(range(bank.count)) - set(kept[bank.module])) for bank in banks
        }
        key = (
            "drop_experts",
            *sorted((module, tuple(experts)) for module, experts in kept.items()),
        )
        edits[layer] = Edit(
            key, _keeping(kept), settings=_counting(kept), stored=_without_rows(kept)
        )
    bench.note("dropped_experts", dropped)
    return (plan.edited(edits),)


def layers_with_experts(target: Any, bench: Bench, kind: str) -> tuple[int, ...]:
    """Return the layers that a target names, those with experts where it names all.

    Raises:
        InterventionError: If no layer has experts, or a layer named has none.
    """
    (named,) = target.resolve(bench.layers)
    refuse_unknown_experts(kind, named, bench)
    mixtures = tuple(layer for layer in named if bench.parts(layer).banks)
    if not mixtures or (target.indices is not None and mixtures != named):
        dense = sorted(set(named) - set(mixtures))
        raise InterventionError(
            f"{kind}: layer{'s' if len(dense) > 1 else ''} {', '.join(map(str, dense))} of this model "
            f"{'have' if len(dense) > 1 else 'has'} no experts that could be found; looked for tensors whose first "
            "dimension is the number of experts that their module states, and for lists of equal modules named experts"
        )
    return mixtures


def refuse_unknown_experts(kind: str, layers: Sequence[int], bench: Bench) -> None:
    """Refuse layers with experts in a form that is not known: they would be left as they are.

    Raises:
        InterventionError: If there is one.
    """
    for layer in layers:
        parts = bench.parts(layer)
        if parts.unknown_experts:
            name = parts.unknown_experts[0]
            raise InterventionError(
                f"{kind}: layer {layer} keeps experts in a form that is not known ({name} "
                f"{list(parts.tensors[name].shape)}); known: one tensor whose first dimension is the number of experts "
                "that its module states, and lists of equal modules named experts"
            )


def expert_variance(parts: LayerParts) -> dict[str, float]:
    """Return the variance of the experts' weights around their mean.

    Returns:
        ``variance``, the mean over all weights of the variance over experts (with 1/E), and ``relative``,
        that over the mean square of the weights: near 0 for experts that are copies, near 1 for experts
        that share no direction.
    """
    total = square = 0.0
    count = 0
    for bank in parts.banks:
        for stack in _stacks(parts.tensors, bank):
            values = stack.detach().float()
            total += float(values.var(0, correction=0).sum())
            square += float(values.square().mean(0).sum())
            count += values[0].numel()
    return {"variance": total / count, "relative": total / square if square else 0.0}


def _stacks(tensors: Tensors, bank: ExpertBank) -> Iterator[Tensor]:
    for name in bank.fused:
        yield tensors[name]
    for names in bank.listed:
        yield torch.stack([tensors[name] for name in names])


def _averaged(tensors: Tensors, parts: LayerParts) -> Iterator[tuple[str, Tensor]]:
    for bank in parts.banks:
        for name in bank.fused:
            yield name, _mean(tensors[name]).expand_as(tensors[name])
        for names in bank.listed:
            mean = _mean(torch.stack([tensors[name] for name in names]))[0]
            for name in names:
                yield name, mean


def _mean(experts: Tensor) -> Tensor:
    """Return the mean of ``[E, ...]``, kept as ``[1, ...]``; exact where all experts are equal."""
    first = experts[:1].float()
    return (first + (experts.float() - first).mean(0, keepdim=True)).to(experts.dtype)


def _most_used(bank: ExpertBank, use: list[int], count: int) -> list[int]:
    """Return the experts that stay, in order.

    Raises:
        InterventionError: If the router cannot do without so many, or its experts cannot be taken out.
    """
    if problem := bank.choice.problem(bank.count, count):
        raise InterventionError(f"drop_experts: {problem}")
    scores = [name for name in bank.router if not name.endswith(("bias", "scale"))]
    if bank.listed or not scores or not bank.counters or bank.uncut:
        raise InterventionError(
            f"drop_experts: cannot take experts out of {bank.module}: looked for experts in one tensor, a router of "
            f"{bank.count} rows beside them and an attribute that states their number"
        )
    size = bank.count // bank.choice.groups
    kept: list[int] = []
    for start in range(0, bank.count, size):
        ranked = sorted(range(start, start + size), key=lambda expert: (-use[expert], expert))
        kept += ranked[: size - count // bank.choice.groups]
    return sorted(kept)


def _keeping(kept: dict[str, list[int]]) -> Callable[[Tensors, LayerParts], Tensors]:
    def apply(tensors: Tensors, parts: LayerParts) -> Tensors:
        fewer: dict[str, Tensor] = {}
        for bank in parts.banks:
            rows = torch.tensor(kept[bank.module], device=tensors[bank.fused[0]].device)
            for name in (*bank.fused, *bank.router):
                # A bias of the router may be a row.
                along = tensors[name].dim() - 1 if tensors[name].shape[0] == 1 else 0
                if tensors[name].shape[along] != bank.count:
                    raise InterventionError(
                        f"drop_experts: layer {parts.index} has lost experts to an intervention before; drop all "
                        "of them at once"
                    )
                fewer[name] = tensors[name].index_select(along, rows)
        return fewer

    return apply


def _counting(kept: dict[str, list[int]]) -> Callable[[LayerParts], dict[str, int]]:
    def settings(parts: LayerParts) -> dict[str, int]:
        return {
            counter: len(kept[bank.module]) for bank in parts.banks for counter in bank.counters
        }

    return settings


def _as_one(forms: Forms, parts: LayerParts) -> Forms:
    one: Forms = {}
    for bank in parts.banks:
        for names in (*((name,) for name in bank.fused), *bank.listed):
            one |= {name: replace(forms[name], matrices=0, encoded=None) for name in names}
            one[names[0]] = replace(one[names[0]], matrices=1)
    return one


def _without_rows(kept: dict[str, list[int]]) -> Callable[[Forms, LayerParts], Forms]:
    def stored(forms: Forms, parts: LayerParts) -> Forms:
        fewer: Forms = {}
        for bank in parts.banks:
            count = len(kept[bank.module])
            for name in bank.fused:
                fewer[name] = replace(forms[name], matrices=min(forms[name].matrices, count))
            for name in bank.router:
                in_a_row = parts.tensors[name].shape[0] == 1
                cut = {"columns": count} if in_a_row else {"rows": count}
                fewer[name] = replace(forms[name], **cut)
        return fewer

    return stored
