"""Interventions on weights: pruning, ternary values, number formats, truncated rank.

What each would take to store is in :mod:`~pytest_layerguard.models.stored_size`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pytest_layerguard.interventions.experts import refuse_unknown_experts
from pytest_layerguard.models import stored_size
from pytest_layerguard.models.layer_parts import Tensors
from pytest_layerguard.models.plan import Edit, InterventionError, Plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from pytest_layerguard.bet import arguments as args
    from pytest_layerguard.interventions.bench import Bench
    from pytest_layerguard.models.layer_parts import Form, Forms, LayerParts

Change = Callable[[str, "Tensor", "LayerParts"], "Tensor"]
Apply = Callable[[Tensors, "LayerParts"], Tensors]
Held = Callable[[Tensors, "LayerParts"], Callable[[Tensors], Tensors]]


def prune_weights(plan: Plan, arguments: args.PruneWeights, bench: Bench) -> tuple[Plan, ...]:
    """Zero weights: the least by a score, or as many at random; each expert is a matrix of its own.

    ``magnitude`` zeroes exactly ``floor(sparsity * n)`` of the n weights of a matrix (Han et al., arXiv
    1506.02626). ``wanda`` zeroes ``floor(sparsity * n)`` of the n weights of a row by the magnitude times the norm of
    the input (Sun et al., arXiv 2306.11695), layer after layer: the inputs are those that the layers pruned before
    it give. An expert that no token reaches is pruned by magnitude. A pattern N:M leaves the N best of each M
    neighbours in a row.
    """
    if arguments.by == "wanda":
        return _by_wanda(plan, arguments, bench)

    def score(name: str, matrices: Tensor, parts: LayerParts) -> Tensor:
        if arguments.by == "random":
            return _random_like(matrices, arguments.seed, parts.index, name)
        return matrices.abs()

    def prune(name: str, matrices: Tensor, parts: LayerParts) -> Tensor:
        scores = score(name, matrices, parts)
        if arguments.sparsity is None:
            return matrices.where(_best(scores, arguments), 0.0)
        flat = matrices.flatten(1)
        count = stored_size.zeros(flat.shape[1], arguments.sparsity)
        least = scores.flatten(1).topk(count, dim=1, largest=False, sorted=False).indices
        return flat.scatter(1, least, 0.0).view_as(matrices)

    key = ("prune_weights", arguments.parts, arguments.sparsity, arguments.pattern, arguments.by)
    return _matrix_wise(
        plan,
        bench,
        arguments,
        (*key, arguments.seed if arguments.by == "random" else 0),
        prune,
        masked,
        lambda form: stored_size.pruned(form, arguments),
        each_its_own=arguments.by == "random",
    )


def _by_wanda(plan: Plan, arguments: args.PruneWeights, bench: Bench) -> tuple[Plan, ...]:
    def edit(squares: Mapping[str, Tensor]) -> Edit:
        def prune(name: str, matrices: Tensor, parts: LayerParts) -> Tensor:
            del parts
            norms = squares[name].sqrt().unsqueeze(1).to(matrices.device)
            return matrices.where(_best(matrices.abs() * norms, arguments), 0.0)

        return _edit(
            arguments,
            _calibrated_key("prune_weights", arguments, squares),
            prune,
            masked,
            lambda form: stored_size.pruned(form, arguments),
            each_its_own=True,
        )

    names = _names(plan, arguments, bench, "prune_weights")
    key = ("prune_weights", arguments.model_dump_json())
    return (bench.calibrated(plan, names, arguments.text, key, edit),)


def _best(scores: Tensor, arguments: args.PruneWeights) -> Tensor:
    """Return where weights stay, by the scores of rows ``[..., in]``; of equal ones the later stay."""
    from pytest_layerguard.interventions import rounding

    def best(scores: Tensor, zeros: int) -> Tensor:
        import torch

        least = scores.argsort(stable=True, dim=-1)[..., :zeros]
        return torch.ones_like(scores, dtype=torch.bool).scatter(-1, least, value=False)

    if arguments.sparsity is not None:
        return best(scores, stored_size.zeros(scores.shape[-1], arguments.sparsity))
    stay, among = arguments.kept
    return rounding.grouped(
        scores, among, lambda group: best(group, max(group.shape[-1] - stay, 0))
    )


def ternary_weights(plan: Plan, arguments: args.TernaryWeights, bench: Bench) -> tuple[Plan, ...]:
    """Round weights to {-1, 0, 1} times the mean magnitude of their group (BitNet b1.58, arXiv 2402.17764).

    A group whose weights already are {-s, 0, s} keeps s for its scale, so that making a ternary model
    ternary changes nothing; the mean magnitude would shrink it by its share of zeros each time.
    """

    def ternary(values: Tensor) -> Tensor:
        import torch

        magnitude = values.abs()
        largest = magnitude.amax(-1, keepdim=True)
        already = ((magnitude == 0) | (magnitude == largest)).all(-1, keepdim=True)
        scale = torch.where(already, largest, magnitude.mean(-1, keepdim=True))
        signs = (values / scale.clamp_min(torch.finfo(torch.float32).tiny)).round().clamp(-1, 1)
        return signs * scale

    change = _rounding(
        lambda values: _scaled(values, arguments.scale, arguments.group_size, ternary)
    )
    key = ("ternary_weights", arguments.parts, arguments.scale, arguments.group_size)

    def encoded(form: Form) -> int:
        scales = stored_size.groups(form, arguments.scale, arguments.group_size)
        return stored_size.trits(form.weights) + 2 * scales

    return _matrix_wise(plan, bench, arguments, key, change, straight_through, encoded)


def quantize_weights(plan: Plan, arguments: args.QuantizeWeights, bench: Bench) -> tuple[Plan, ...]:
    """Round weights to the nearest number of a format; see :mod:`~pytest_layerguard.interventions.rounding`."""

    def quantized(values: Tensor) -> Tensor:
        from pytest_layerguard.interventions import rounding

        if arguments.format == "mxfp4":
            return rounding.grouped(values, 32, rounding.to_mxfp4)
        if arguments.format == "nvfp4":
            largest = values.abs().amax((-2, -1), keepdim=True).unsqueeze(-1)
            return rounding.grouped(values, 16, lambda group: rounding.to_nvfp4(group, largest))
        if arguments.format == "nf4":
            blocks = rounding.grouped(values.flatten(1), 64, rounding.to_nf4)
            return blocks.view_as(values)
        return _scaled(values, arguments.scale, arguments.group_size, to_scaled)

    def to_scaled(values: Tensor) -> Tensor:
        from pytest_layerguard.interventions import rounding

        if arguments.bits is None:
            return rounding.to_fp8(values, clip=arguments.clip)
        return rounding.to_integers(
            values, arguments.bits, symmetric=arguments.symmetric, clip=arguments.clip
        )

    key = ("quantize_weights", arguments.model_dump_json(exclude={"layers"}))
    return _matrix_wise(
        plan,
        bench,
        arguments,
        key,
        _rounding(quantized),
        straight_through,
        lambda form: stored_size.quantized(form, arguments),
    )


def low_rank(plan: Plan, arguments: args.LowRank, bench: Bench) -> tuple[Plan, ...]:
    """Project the outputs of each matrix on so many directions that the least is lost.

    ``svd`` loses the least of the matrix itself (Eckart and Young, 1936). ``activations`` loses the least of its
    outputs on a text, as SVD-LLM does (Wang et al., arXiv 2403.07378), layer after layer: the inputs are those that
    the layers truncated before it give. Factors are kept in the matrix's own dtype.
    """

    def truncate(matrices: Tensor, root: Tensor | None) -> Tensor:
        """Truncate ``[n, out, in]``; ``root`` is a root of the inputs' second moments, ``[n, in, in]``."""
        import torch

        rank = arguments.rank_of(*matrices.shape[1:])
        if rank == min(matrices.shape[1:]):
            return matrices
        # In double precision: where singular values are close, which of them go must not be left to rounding.
        values = matrices.double()
        scaled = values if root is None else values @ root.to(values.device)
        directions: Tensor = torch.linalg.svd(scaled, full_matrices=False).U[..., :rank]
        return (directions @ (directions.mT @ values)).to(matrices.dtype)

    def encoded(form: Form) -> int:
        return stored_size.factors(form, arguments.rank_of(form.rows, form.columns))

    if arguments.by == "svd":
        key = ("low_rank", arguments.model_dump_json(exclude={"layers"}))
        return _matrix_wise(
            plan, bench, arguments, key, lambda _, m, __: truncate(m, None), None, encoded
        )

    def edit(moments: Mapping[str, Tensor]) -> Edit:
        import torch

        roots = {}
        for name, each in moments.items():
            # Where fewer tokens came than there are inputs, the matrix decides in the directions that none took.
            ridge = 1e-6 * each.diagonal(dim1=-2, dim2=-1).mean(-1)
            values, directions = torch.linalg.eigh(each)
            values = values.clamp_min(0) + ridge.unsqueeze(-1)
            roots[name] = directions * values.sqrt().unsqueeze(-2)
        return _edit(
            arguments,
            _calibrated_key("low_rank", arguments, moments),
            lambda name, matrices, _: truncate(matrices, roots[name]),
            None,
            encoded,
            each_its_own=True,
        )

    names = _names(plan, arguments, bench, "low_rank")
    key = ("low_rank", arguments.model_dump_json())
    return (bench.calibrated(plan, names, arguments.text, key, edit, mixed=True),)


def chosen_weights(parts: LayerParts, which: str) -> tuple[str, ...]:
    """Return the names of the weights that ``experts`` or ``linear`` means in a layer."""
    return parts.expert_weights if which == "experts" else parts.linear


def _matrix_wise(
    plan: Plan,
    bench: Bench,
    arguments: Any,
    key: tuple[Any, ...],
    change: Change,
    held: Callable[[Apply], Held] | None,
    encoded: Callable[[Form], int],
    *,
    each_its_own: bool = False,
) -> tuple[Plan, ...]:
    """Edit every chosen weight as a stack of matrices ``[n, out, in]``; n is 1 but for fused experts."""
    layers = layers_with(bench, arguments, key[0])
    edit = _edit(arguments, key, change, held, encoded, each_its_own=each_its_own)
    return (plan.edited(dict.fromkeys(layers, edit)),)


def layers_with(bench: Bench, arguments: Any, kind: str) -> list[int]:
    """Return the layers named that have weights of the chosen parts."""
    (named,) = arguments.layers.resolve(bench.layers)
    if arguments.parts == "experts":
        refuse_unknown_experts(kind, named, bench)
    layers = [layer for layer in named if chosen_weights(bench.parts(layer), arguments.parts)]
    if not layers or (arguments.layers.indices is not None and len(layers) < len(named)):
        bare = ", ".join(str(layer) for layer in named if layer not in layers)
        raise InterventionError(
            f"{kind}: no {'experts' if arguments.parts == 'experts' else 'linear maps'} could be found in layer "
            f"{bare}; parts: {'linear takes the linear maps instead' if arguments.parts == 'experts' else 'experts'}"
        )
    if share := _untouched(arguments.parts, [bench.parts(layer) for layer in layers]):
        bench.note("untouched_share", share)
    return layers


def _names(plan: Plan, arguments: Any, bench: Bench, kind: str) -> dict[int, tuple[str, ...]]:
    """Return the weights of each slot of a plan that are chosen to be changed by what their inputs are.

    Raises:
        InterventionError: If layers share one of them, which has the inputs of each.
    """
    layers = layers_with(bench, arguments, kind)
    names: dict[int, tuple[str, ...]] = {}
    owners: dict[int, tuple[Tensor, int]] = {}
    for step in plan.steps:
        if step.slot not in layers:
            continue
        parts = bench.parts(step.weights.layer)
        names[step.slot] = chosen_weights(parts, arguments.parts)
        for name in names[step.slot]:
            tensor = parts.tensors[name]
            _, owner = owners.setdefault(id(tensor), (tensor, parts.index))
            if owner != parts.index:
                raise InterventionError(
                    f"{kind}: layers {owner} and {parts.index} share the weight {name}, which would be changed by "
                    "the inputs that it has in each; name one of them, or choose a rule that asks for no inputs"
                )
    return names


def _calibrated_key(
    kind: str, arguments: Any, moments: Mapping[str, Tensor]
) -> tuple[str, str, str]:
    """Return the key of an edit that depends on what a calibration found."""
    hashed = hashlib.sha256()
    for name, each in moments.items():
        hashed.update(name.encode() + each.cpu().numpy().tobytes())
    return kind, arguments.model_dump_json(exclude={"layers"}), hashed.hexdigest()


def _edit(
    arguments: Any,
    key: tuple[Any, ...],
    change: Change,
    held: Callable[[Apply], Held] | None,
    encoded: Callable[[Form], int],
    *,
    each_its_own: bool = False,
) -> Edit:
    """Return the edit of the chosen weights; ``each_its_own`` says that equal experts do not stay equal."""

    def apply(tensors: Tensors, parts: LayerParts) -> Tensors:
        def changed(name: str) -> Tensor:
            return _in_rows(parts, name, tensors[name], lambda rows: change(name, rows, parts))

        return {name: changed(name) for name in chosen_weights(parts, arguments.parts)}

    def stored(forms: Forms, parts: LayerParts) -> Forms:
        chosen = {name: forms[name] for name in chosen_weights(parts, arguments.parts)}
        return {
            name: replace(
                form,
                matrices=form.present if each_its_own else form.matrices,
                encoded=encoded(form),
            )
            for name, form in chosen.items()
        }

    return Edit(key, apply, held=held(apply) if held is not None else None, stored=stored)


def _untouched(which: str, layers: Sequence[LayerParts]) -> float:
    """Return the share of the weights in the layers' matrices that an intervention leaves as they are."""
    total = sum(sum(parts.matrices.values()) for parts in layers)
    touched = sum(parts.matrices[name] for parts in layers for name in chosen_weights(parts, which))
    return round(1 - touched / total, 4)


def straight_through(apply: Apply) -> Held:
    """Keep weights rounded during training: rounded in the forward pass, the gradient to the unrounded ones.

    The straight-through estimator of Bengio et al., arXiv 1308.3432.
    """

    def start(tensors: Tensors, parts: LayerParts) -> Callable[[Tensors], Tensors]:
        def rounded(current: Tensors) -> Tensors:
            import torch

            with torch.no_grad():
                changed = apply(current, parts)
            # Exactly the rounded value: the added term is zero and only carries the gradient.
            return {
                name: changed[name] + (current[name] - current[name].detach()) for name in changed
            }

        return rounded

    return start


def masked(apply: Apply) -> Held:
    """Keep zeros during training: weights that were pruned at the start stay pruned."""

    def start(tensors: Tensors, parts: LayerParts) -> Callable[[Tensors], Tensors]:
        kept = {name: changed != 0 for name, changed in apply(tensors, parts).items()}
        return lambda current: {name: current[name] * mask for name, mask in kept.items()}

    return start


def _in_rows(
    parts: LayerParts, name: str, tensor: Tensor, change: Callable[[Tensor], Tensor]
) -> Tensor:
    """Apply a change that expects ``[n, out, in]``, whichever way round the model keeps the weight."""
    transposed = parts.transposed(name)
    if transposed is None:
        raise InterventionError(
            f"layer {parts.index}: cannot tell the inputs of {name} {list(tensor.shape)} from its outputs; its "
            "module does not state is_transposed, and the shapes allow both"
        )
    matrices = tensor if tensor.dim() == 3 else tensor.unsqueeze(0)
    if transposed:
        matrices = matrices.transpose(-1, -2)
    changed = change(matrices)
    if transposed:
        # Laid out in memory as before: a matrix product rounds otherwise with another layout.
        changed = changed.transpose(-1, -2).contiguous()
    return changed if tensor.dim() == 3 else changed.squeeze(0)


def _rounding(rounded: Callable[[Tensor], Tensor]) -> Change:
    """Return a change that rounds ``[n, out, in]`` in float32."""

    def change(name: str, matrices: Tensor, parts: LayerParts) -> Tensor:
        del name, parts
        return rounded(matrices.float()).to(matrices.dtype)

    return change


def _scaled(
    values: Tensor, scale: str, group_size: int | None, change: Callable[[Tensor], Tensor]
) -> Tensor:
    """Change ``[n, out, in]`` by what shares one scale, which the change gets as the last dimension."""
    from pytest_layerguard.interventions import rounding

    if scale == "tensor":
        return change(values.flatten(1)).view_as(values)
    if scale == "row":
        return change(values)
    assert group_size is not None
    return rounding.grouped(values, group_size, change)


def _random_like(matrices: Tensor, seed: int, layer: int, name: str) -> Tensor:
    """Return random scores of a weight that depend on nothing but the seed and the weight's place."""
    import torch

    place = hashlib.sha256(f"{seed}:{layer}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(place[:8], "big") >> 1)
    return torch.rand(matrices.shape, generator=generator).to(matrices.device)
