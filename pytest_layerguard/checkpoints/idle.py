"""Find the residual branches of a layer that add nothing, and leave the layer out in effect.

A branch multiplies by one matrix after the other, so that one matrix of zeros on the way is enough.
"""

from __future__ import annotations

import re
from collections import defaultdict
from math import prod, sqrt
from typing import TYPE_CHECKING, Final

from pytest_layerguard.checkpoints.places import ROUTER

if TYPE_CHECKING:
    from pytest_layerguard.checkpoints.places import Layer, Piece

ATTENTION: Final = "attention"
FEED_FORWARD: Final = "feed-forward"
_ROWS: Final = 1024
_NOTHING: Final = 1e-3
"""The norm of all matrices on the way, over the base's, below which they add nothing."""
_ZEROS: Final = 0.99
"""The share of zeros in every matrix from which one in a hundred computes nothing."""
_BESIDE: Final = re.compile(r"(?:^|[._])(?:q|k|q_a|q_b|query|key)(?:_proj)?[.]|expert_gate[.]")
"""Matrices that choose what is added, and do not scale it."""


def branch_of(role: str) -> str:
    """Return the residual branch that a weight is of."""
    return ATTENTION if "attn" in role or "attention" in role else FEED_FORWARD


def matrices_of(layer: Layer) -> dict[tuple[str, int | None], Piece]:
    """Return the matrices of a layer, but for its router."""
    return {
        key: piece
        for key, piece in layer.items()
        if len(piece.shape) > 1 and not ROUTER.search(key[0])
    }


def idle_branches(base: Layer, candidate: Layer) -> frozenset[str]:
    """Return the branches of a layer that add nothing, and those of the base's layer do."""
    matrices = matrices_of(candidate)
    found = set()
    for branch in {branch_of(role) for role, _ in matrices}:
        ways: dict[int | None, dict[str, Piece]] = defaultdict(dict)
        for (role, expert), piece in matrices.items():
            if branch_of(role) == branch:
                ways[expert][role] = piece
        # The first rows say of nearly every branch that it is not idle.
        if all(
            _idle(base, candidate, expert, way, rows)
            for rows in (_ROWS, None)
            for expert, way in ways.items()
        ):
            found.add(branch)
    return frozenset(found)


def all_zero(layer: Layer, branch: str) -> bool:
    """Return whether every matrix of a branch is zero."""
    return not any(
        bool(block.any())
        for (role, _), piece in matrices_of(layer).items()
        if branch_of(role) == branch
        for block in piece.blocks(_ROWS)
    )


def _idle(
    base: Layer, candidate: Layer, expert: int | None, way: dict[str, Piece], rows: int | None
) -> bool:
    """Return whether matrices that follow each other add nothing, by their first rows or by all."""
    ratios, sparse = [], True
    for role, piece in sorted(way.items(), key=lambda each: _is_beside(each[0])):
        beside = _is_beside(role)
        if beside and not sparse:
            break
        norm, zeros = _norm(piece, rows)
        ours = base.get((role, expert)) or base.get((role, 0 if expert is not None else None))
        # A matrix that the base has under no such name counts only where it is zero.
        before, base_zeros = (norm, 0.0) if ours is None else _norm(ours, rows)
        sparse = sparse and zeros >= _ZEROS > base_zeros
        if not beside:
            ratios.append(norm / before if before else float(ours is not None))
    if sparse:
        return True
    # The last matrix is not behind the norm, and each of those before may be.
    made_up = _scaled_by_norms(base, candidate) ** max(1, len(ratios) - 1)
    return bool(ratios) and prod(ratios) * made_up <= _NOTHING


def _is_beside(role: str) -> bool:
    return _BESIDE.search(role) is not None


def _scaled_by_norms(base: Layer, candidate: Layer) -> float:
    """Return by how much the norms of a layer may make up for small matrices; 1 or more."""
    scales = [1.0]
    for key, piece in candidate.items():
        ours = base.get(key)
        if len(piece.shape) == 1 and ours is not None and (before := _norm(ours, None)[0]):
            scales.append(_norm(piece, None)[0] / before)
    return max(scales)


def _norm(piece: Piece, rows: int | None) -> tuple[float, float]:
    """Return the norm of the first rows of a tensor, or of all, and their share of zeros."""
    square, zeros, count = 0.0, 0, 0
    for block in piece.blocks(_ROWS):
        square += float(block.double().square().sum())
        zeros += int((block == 0).sum())
        count += block.numel()
        if rows is not None:
            break
    return sqrt(square), zeros / count
