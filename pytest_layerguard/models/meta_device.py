"""Build models without memory, and compare what a configuration describes with its weights."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from pytest_layerguard.environment.measurement_errors import MeasurementError

if TYPE_CHECKING:
    from torch import nn

    from pytest_layerguard.models.model_folder import ModelFolder


def refuse_misfit(model: nn.Module, folder: ModelFolder) -> None:
    """Refuse a configuration that describes far more parameters than the folder's files hold.

    transformers would draw the missing ones at random, which takes their memory first.

    Args:
        model: Built from the configuration on the meta device.
        folder: The folder with the configuration.

    Raises:
        MeasurementError: If it does.
    """
    described = sum(prod(each.shape) for each in model.parameters())
    held = folder.parameters
    # A head that is tied to the embedding is stored once and, until it is tied, built twice.
    if described > 2 * held + 2**20:
        raise MeasurementError(
            f"{folder.name}: config.json describes {described:,} parameters, and its files hold "
            f"{held:,}. The checkpoint does not fit its config.json."
        )
