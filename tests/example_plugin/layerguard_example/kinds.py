"""What bet files may name. Imported whenever bets are read, so nothing heavy is imported here."""

from __future__ import annotations

from pydantic import Field

from pytest_layerguard.extending import Kind, LayersArguments, OwnMetric


class ScaleLayers(LayersArguments):
    """The weights of the layer's linear maps are multiplied by a factor."""

    factor: float = Field(ge=0, le=10, description="what the weights are multiplied by")

    def slug(self) -> str:
        """Return ``scale-3``: the variant's name in reports and records."""
        return f"scale-{self.layers.label()}"


SCALE_LAYERS = Kind(
    name="scale_layers",
    arguments=ScaleLayers,
    implementation="layerguard_example.measuring:scale_layers",
)

WORST_WINDOW = OwnMetric(
    name="worst_window",
    unit="nats per token",
    meaning="mean loss difference in the window that suffers most",
    implementation="layerguard_example.measuring:worst_window",
)
