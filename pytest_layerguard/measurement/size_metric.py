"""What a variant's weights would take to store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pytest_layerguard.bet.criteria.interval import Interval
from pytest_layerguard.models import stored_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pytest_layerguard.models.anatomy import Anatomy
    from pytest_layerguard.models.plan import Plan


def size_metrics(plans: Iterable[Plan], anatomy: Anatomy, stored_dtype: str) -> dict[str, Interval]:
    """The metric ``size_ratio`` where something is stored otherwise; of several plans the largest.

    Args:
        plans: The plans of one variant.
        anatomy: The model.
        stored_dtype: The dtype of the model's files, as torch names it.
    """
    item = getattr(torch, stored_dtype).itemsize
    found = [
        stored_size.size_ratio(
            (
                (anatomy.parts[weights.layer], weights.edits)
                for weights in dict.fromkeys(step.weights for step in plan.steps)
            ),
            item,
        )
        for plan in plans
    ]
    ratios = [ratio for ratio in found if ratio is not None]
    return {"size_ratio": Interval.point(max(ratios))} if ratios else {}
