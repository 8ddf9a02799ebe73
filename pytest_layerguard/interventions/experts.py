"""Interventions on the experts of mixtures: averaging, dropping, merging."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from pytest_layerguard.models.plan import Edit, InterventionError, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from pytest_layerguard.bet import arguments as args
    from pytest_layerguard.interventions.bench import Bench
    from pytest_layerguard.models.layer_parts import ExpertBank, Forms, LayerParts, Tensors


def average_experts(plan: Plan, arguments: args.AverageExperts, bench: Bench) -> tuple[Plan, ...]:
    """Make every expert the mean of the experts of its mixture, as a view of one tensor rather than copies.

    It is stored as one expert.
    """
    layers = layers_with_experts(arguments.layers, bench, "average_experts")
    bench.note("expert_variance", {str(layer): bench.expert_variance(layer) for layer in layers})
    edit = Edit(
        ("average_experts",),
        lambda tensors, parts: dict(_averaged(tensors, parts)),
        stored=_as_one,
    )
    return (plan.edited(dict.fromkeys(layers, edit)),)


def drop_experts(plan: Plan, arguments: args.DropExperts, bench: Bench) -> tuple[Plan, ...]:
    """Take the experts of the lowest score out of the router's choice, and out of the model.

    The score is how many tokens of a text choose an expert, or REAP's. Of experts with equal scores the
    later ones go. If the router chooses among groups of experts first, each group loses as many.

    The result is a model with the remaining experts only: their rows of the router and their weights. A
    router's softmax (or sigmoid with its normalisation) is therefore taken over the remaining experts, as
    if the dropped ones had a logit of minus infinity. This differs from masking them after a softmax over
    all experts, where the shares of the others would not grow.
    """
    layers = _running(plan, layers_with_experts(arguments.layers, bench, "drop_experts"))
    scored = bench.expert_saliency if arguments.by == "reap" else bench.expert_use
    try:
        scores = scored(plan, arguments.text)
    except InterventionError as error:
        raise InterventionError(f"drop_experts: {error}") from None
    edits: dict[int, Edit] = {}
    dropped: dict[str, Any] = {}
    for layer in layers:
        banks = bench.parts(layer).banks
        kept = {
            bank.module: _highest(bank, scores[layer, bank.module], arguments.count)
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


def merge_experts(plan: Plan, arguments: args.MergeExperts, bench: Bench) -> tuple[Plan, ...]:
    """Merge the experts of each mixture into ``count``; the router is not touched.

    Experts are joined in order of their distance, that of two groups being the mean over their pairs, as in
    HC-SMoE (Chen et al., arXiv 2410.08589). Each becomes the mean of its group. Stored as the experts that
    are left.
    """
    layers = _running(plan, layers_with_experts(arguments.layers, bench, "merge_experts"))
    for layer in layers:
        for bank in bench.parts(layer).banks:
            if bank.listed:
                raise InterventionError(
                    f"merge_experts: the experts of {bank.module} are separate modules; known: experts in one tensor"
                )
            if arguments.count > bank.count:
                raise InterventionError(
                    f"merge_experts: {bank.module} has {bank.count} experts, fewer than count {arguments.count}"
                )
    uniform = arguments.weighted == "uniform"
    try:
        use = {} if uniform else bench.expert_use(plan, arguments.text)
        groups = bench.expert_groups(plan, layers, arguments.count, arguments.by, arguments.text)
    except InterventionError as error:
        raise InterventionError(f"merge_experts: {error}") from None
    edits: dict[int, Edit] = {}
    noted: dict[str, Any] = {}
    for layer in layers:
        merged: dict[str, _Merged] = {}
        for bank in bench.parts(layer).banks:
            place = (layer, bank.module)
            counts = [1] * bank.count if uniform else list(use[place])
            merged[bank.module] = _Merged(groups[place], tuple(counts))
        noted[str(layer)] = {name: [*map(list, each.groups)] for name, each in merged.items()}
        edits[layer] = _merging(merged, arguments.count)
    bench.note("merged_experts", noted)
    return (plan.edited(edits),)


def _running(plan: Plan, layers: Sequence[int]) -> list[int]:
    """Return the layers that no intervention before has left out."""
    return [layer for layer in layers if plan.weights_at(layer) is not None]


@dataclass(frozen=True)
class _Merged:
    """Groups of experts of one mixture, and how much each expert counts."""

    groups: tuple[tuple[int, ...], ...]
    counts: tuple[int, ...]

    def of(self, experts: Tensor) -> Tensor:
        """Return ``[E, ...]`` with each expert the mean of its group."""
        import torch

        if len(self.groups) == 1:
            return self._mean(experts, self.groups[0]).expand_as(experts)
        made = {
            expert: mean
            for group in self.groups
            for mean in (self._mean(experts, group),)
            for expert in group
        }
        return torch.cat([made[expert] for expert in range(len(experts))])

    def _mean(self, experts: Tensor, group: Sequence[int]) -> Tensor:
        import torch

        counts = [self.counts[expert] for expert in group]
        experts = experts[list(group)]
        if not any(counts):
            counts = [1] * len(counts)
        shares = torch.tensor(counts, device=experts.device) / sum(counts)
        first = experts[:1].float()
        others = (experts.float() - first) * shares.view(-1, *(1,) * (experts.dim() - 1))
        return (first + others.sum(0, keepdim=True)).to(experts.dtype)


def _merging(merged: dict[str, _Merged], count: int) -> Edit:
    def apply(tensors: Tensors, parts: LayerParts) -> Tensors:
        if any(len(tensors[bank.fused[0]]) != bank.count for bank in parts.banks):
            raise InterventionError(
                f"merge_experts: layer {parts.index} has lost experts to an intervention before; merge them first"
            )
        return {
            name: merged[bank.module].of(tensors[name])
            for bank in parts.banks
            for name in bank.fused
        }

    def stored(forms: Forms, parts: LayerParts) -> Forms:
        return {
            name: replace(forms[name], matrices=min(forms[name].matrices, count), encoded=None)
            for bank in parts.banks
            for name in bank.fused
        }

    key = ("merge_experts", *merged.items())

    def held(tensors: Tensors, parts: LayerParts) -> Callable[[Tensors], Tensors]:
        return lambda current: apply(current, parts)

    return Edit(key, apply, held=held, stored=stored)


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
    import torch

    for name in bank.fused:
        yield tensors[name]
    for names in bank.listed:
        yield torch.stack([tensors[name] for name in names])


def _averaged(tensors: Tensors, parts: LayerParts) -> Iterator[tuple[str, Tensor]]:
    import torch

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


def _highest(bank: ExpertBank, scores: Sequence[float], count: int) -> list[int]:
    """Return the experts that stay, in order.

    Raises:
        InterventionError: If the router cannot do without so many, or its experts cannot be taken out.
    """
    if problem := bank.choice.problem(bank.count, count):
        raise InterventionError(f"drop_experts: {problem}")
    scoring = [name for name in bank.router if not name.endswith(("bias", "scale"))]
    if bank.listed or not scoring or not bank.counters or bank.uncut:
        raise InterventionError(
            f"drop_experts: cannot take experts out of {bank.module}: looked for experts in one tensor, a router of "
            f"{bank.count} rows beside them and an attribute that states their number"
        )
    size = bank.count // bank.choice.groups
    kept: list[int] = []
    for start in range(0, bank.count, size):
        ranked = sorted(range(start, start + size), key=lambda expert: (-scores[expert], expert))
        kept += ranked[: size - count // bank.choice.groups]
    return sorted(kept)


def _keeping(kept: dict[str, list[int]]) -> Callable[[Tensors, LayerParts], Tensors]:
    def apply(tensors: Tensors, parts: LayerParts) -> Tensors:
        import torch

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
                left = min(forms[name].matrices, count)
                fewer[name] = replace(forms[name], matrices=left, present=count)
            for name in bank.router:
                in_a_row = parts.tensors[name].shape[0] == 1
                cut = {"columns": count} if in_a_row else {"rows": count}
                fewer[name] = replace(forms[name], **cut)
        return fewer

    return stored
