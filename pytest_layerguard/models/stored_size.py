"""Count the bytes of weights as an intervention would store them.

Every formula counts what a file must hold to restore the weights, and nothing else: no alignment, no names.

========================  ==================================================================================
average_experts           one expert instead of E; the router is not touched and not counted
drop_experts              ``E - count`` of E experts, and as many rows of the router
merge_layers              plain numbers, whatever encoded the layers before
merge_experts             ``count`` of E experts; the router, and which expert is whose, are not counted
prune_weights             of each matrix of n weights the k that stay, in the dtype of the model's files, and where
                          they stand: n bits, or ``ceil(log2 n)`` bits for each of the k, whichever is fewer, in whole
                          bytes; nothing where all stay. With ``sparsity``, ``k = n - floor(sparsity n)``, by wanda in
                          each row; with ``pattern: "N:M"`` each place is one of M. A random choice is stored like any
                          other
ternary_weights           of each matrix five weights to a byte (``3^5 = 243 <= 256``, 1.6 bits each), in whole
                          bytes, and scales
quantize_weights          of each matrix ``bits`` bits a weight and scales, without ``symmetric`` also a zero point
                          of ``bits`` bits for each scale; fp8: 8 bits a weight and scales; mxfp4: 4 bits a weight
                          and 8 bits for each 32 of a row; nvfp4: 4 bits a weight, 8 bits for each 16 of a row and
                          32 bits for the matrix; nf4: 4 bits a weight and 32 bits for each 64. In whole bytes
low_rank                  of each matrix of r rows and c columns the ``k (r + c)`` numbers of its factors of rank k, or
                          ``r c`` where these are no more, in the dtype of the model's files
scales                    16 bits each: one for a matrix, for each of its rows (outputs), or for each group of a
                          row, of which the last may be shorter
========================  ==================================================================================

An expert is a matrix of its own. The base is the same weights in the dtype of the model's files. Where several
interventions touch a weight, later ones count on what earlier ones left: an encoding replaces the one before it,
experts that were dropped stay dropped.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from pytest_layerguard.models.layer_parts import Form

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pytest_layerguard.bet.arguments import PruneWeights, QuantizeWeights
    from pytest_layerguard.models.layer_parts import Forms, LayerParts
    from pytest_layerguard.models.plan import Edit

_SCALE_BYTES: Final = 2
_TRITS_PER_BYTE: Final = 5


def packed(weights: int, bits: int) -> int:
    """Return the bytes of weights of ``bits`` bits, rounded up."""
    return math.ceil(weights * bits / 8)


def trits(weights: int) -> int:
    """Return the bytes of weights of three values, rounded up."""
    return math.ceil(weights / _TRITS_PER_BYTE)


def groups(form: Form, scale: str, group_size: int | None) -> int:
    """Return how many scales one matrix has."""
    if group_size is not None:
        return form.rows * math.ceil(form.columns / group_size)
    return {"tensor": 1, "row": form.rows}[scale]


def quantized(form: Form, arguments: QuantizeWeights) -> int:
    """Return the bytes of one matrix in a number format."""
    if arguments.format == "mxfp4":
        return packed(form.weights, 4) + groups(form, "group", 32)
    if arguments.format == "nvfp4":
        return packed(form.weights, 4) + groups(form, "group", 16) + 4
    if arguments.format == "nf4":
        return packed(form.weights, 4) + 4 * math.ceil(form.weights / 64)
    bits = arguments.bits or 8
    scales = groups(form, arguments.scale, arguments.group_size)
    zero_points = 0 if arguments.symmetric else packed(scales, bits)
    return packed(form.weights, bits) + scales * _SCALE_BYTES + zero_points


def pruned(form: Form, arguments: PruneWeights) -> int:
    """Return the bytes of one matrix of which weights are zero: those that stay, and their places."""
    if arguments.sparsity is None:
        stay, among = arguments.kept
        whole, rest = divmod(form.columns, among)
        return sparse(form, form.rows * (whole * stay + min(rest, stay)), among)
    if arguments.by == "wanda":
        gone = form.rows * zeros(form.columns, arguments.sparsity)
        return sparse(form, form.weights - gone, form.weights)
    return sparse(form, form.weights - zeros(form.weights, arguments.sparsity), form.weights)


def factors(form: Form, rank: int) -> int:
    """Return the bytes of one matrix of some rank: those of its two factors, or its own where they are fewer."""
    return min(rank * (form.rows + form.columns), form.weights) * form.item


def sparse(form: Form, left: int, among: int) -> int:
    """Return the bytes of one matrix of which ``left`` weights stay, each at one of ``among`` places."""
    if left == form.weights:
        return form.weights * form.item
    place = math.ceil(math.log2(among))
    return left * form.item + min(packed(form.weights, 1), packed(left, place))


def zeros(weights: int, sparsity: float) -> int:
    """Return the share of a number of weights, rounded down; a rounding error of the product does not count."""
    return int(sparsity * weights + 1e-9)


def untouched(parts: LayerParts, item: int) -> Forms:
    """Return the forms of a layer's tensors in the model's files.

    Args:
        parts: The layer.
        item: Bytes of a weight in these files.
    """
    banked = {name for bank in parts.banks for name in bank.fused}
    forms: Forms = {}
    for name, tensor in parts.tensors.items():
        experts = int(tensor.shape[0]) if name in banked else 1
        columns = int(tensor.shape[-1]) if tensor.dim() > 1 else 1
        rows = tensor.numel() // (experts * columns)
        if parts.transposed(name):
            rows, columns = columns, rows
        forms[name] = Form(experts, rows, columns, item, present=experts)
    return forms


def forms(parts: LayerParts, edits: Iterable[Edit], item: int) -> Forms:
    """Return the stored forms of a layer's tensors after edits; ``item`` as in `untouched`."""
    made = untouched(parts, item)
    for edit in edits:
        if edit.stored is not None:
            made = made | edit.stored(made, parts)
    return made


def trained(edits: Sequence[Edit], free: int) -> Callable[[Forms, LayerParts], Forms]:
    """Return the stored forms after training: edits from ``free`` on keep their encoding.

    Weights that earlier edits encoded were trained freely and are stored one number each again.
    """

    def stored(forms: Forms, parts: LayerParts) -> Forms:
        loose = {name: replace(form, encoded=None) for name, form in forms.items()}
        for edit in edits[free:]:
            if edit.stored is not None:
                loose |= edit.stored(loose, parts)
        return loose

    return stored


def size_ratio(weights: Iterable[tuple[LayerParts, Sequence[Edit]]], item: int) -> float | None:
    """Return the bytes of the changed weights as they would be stored, over the base's.

    Args:
        weights: The layers that run, each with its edits.
        item: Bytes of a weight in the model's files.

    Returns:
        The ratio, or None if nothing is stored differently.
    """
    stored = base = 0
    for parts, edits in weights:
        before = untouched(parts, item)
        forms, touched = before, set[str]()
        for edit in edits:
            if edit.stored is not None:
                changed = edit.stored(forms, parts)
                touched |= {name for name, form in changed.items() if form != forms[name]}
                forms = forms | changed
        stored += sum(forms[name].bytes for name in touched)
        base += sum(before[name].bytes for name in touched)
    return stored / base if base else None
