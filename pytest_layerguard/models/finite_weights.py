"""Whether a model's weights are numbers at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_layerguard.environment.measurement_errors import MeasurementError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_weights(model: PreTrainedModel, name: str) -> None:
    """Refuse a model with NaN or infinite weights.

    Args:
        model: The model, as loaded and cast.
        name: What messages call it.

    Raises:
        MeasurementError: If there is one; names the tensor and counts its values.
    """
    import torch

    for key, tensor in model.named_parameters():
        if tensor.is_meta or not tensor.is_floating_point() or torch.isfinite(tensor).all():
            continue
        bad = int((~torch.isfinite(tensor)).sum())
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise MeasurementError(
            f"{name}: {bad:,} of {tensor.numel():,} values of {key} are NaN or infinite in {dtype}; "
            "the file is damaged, or the values do not fit that dtype (see model.dtype)"
        )
