"""The registry of interventions and metrics: the built-in ones and those of other packages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.arguments import BUILTIN_KINDS, Arguments
from pytest_layerguard.bet.criteria.metrics import METRICS, Metric, OwnMetric
from pytest_layerguard.bet.criteria.parse import RESERVED
from pytest_layerguard.interventions.builtin import MODULES

if TYPE_CHECKING:
    from pytest_layerguard.bet.criteria.evaluate import Criteria
    from pytest_layerguard.interventions.bench import Implementation

ENTRY_POINT_GROUP: Final = "layerguard.interventions"
METRICS_ENTRY_POINT_GROUP: Final = "layerguard.metrics"


@dataclass(frozen=True)
class Kind:
    """One kind of intervention.

    Attributes:
        name: How a bet file names it.
        arguments: The arguments that a bet gives it, a frozen pydantic model.
        implementation: The function that carries it out, as ``"package.module:function"``, so that naming a
            kind does not import torch. It takes a plan, the arguments and a bench, and returns a tuple of plans.
    """

    name: str
    arguments: type[Arguments]
    implementation: str

    def load(self) -> Implementation:
        """Import and return the function that carries the intervention out."""
        module, _, function = self.implementation.partition(":")
        loaded: Implementation = getattr(import_module(module), function)
        return loaded


class Registry(Mapping[str, Kind]):
    """Kinds by name, and metrics. Two packages that claim one name are an error, never a silent choice."""

    def __init__(self, kinds: Iterable[Kind], metrics: Iterable[OwnMetric] = ()) -> None:
        self._kinds: dict[str, Kind] = {}
        self._metrics: dict[str, Metric] = dict(METRICS)
        for kind in kinds:
            held = self._kinds.setdefault(kind.name, kind)
            if held != kind:
                raise ValueError(
                    f"two interventions are named {kind.name}: {held.implementation} and {kind.implementation}"
                )
        for metric in metrics:
            if not metric.name.isidentifier() or metric.name in RESERVED:
                raise ValueError(f"{metric.name!r} cannot be the name of a metric in a criterion")
            if self._metrics.setdefault(metric.name, metric) != metric:
                raise ValueError(f"two metrics are named {metric.name}: {metric.implementation}")

    @classmethod
    def of(cls, extra: Iterable[Kind] = (), metrics: Iterable[OwnMetric] = ()) -> Registry:
        """Return the built-in kinds and metrics, those of installed packages (entry points), and those given.

        Args:
            extra: Further kinds.
            metrics: Further metrics.

        Raises:
            ValueError: If two kinds or two metrics have one name.
        """
        builtin = [
            Kind(name, arguments, f"{__package__}.{MODULES[name]}:{name}")
            for name, arguments in BUILTIN_KINDS.items()
        ]
        installed = [found.load() for found in entry_points(group=ENTRY_POINT_GROUP)]
        measured = [found.load() for found in entry_points(group=METRICS_ENTRY_POINT_GROUP)]
        return cls([*builtin, *installed, *extra], [*measured, *metrics])

    @property
    def arguments(self) -> dict[str, type[Arguments]]:
        """The arguments of each kind, for the reader of bet files."""
        return {name: kind.arguments for name, kind in self._kinds.items()}

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """The metrics that criteria may name, built-in ones first."""
        return self._metrics

    def own_metrics(self, criteria: Criteria) -> tuple[OwnMetric, ...]:
        """Return the metrics of other packages that these criteria name."""
        return tuple(
            metric
            for name, metric in self._metrics.items()
            if name in criteria.metrics and isinstance(metric, OwnMetric)
        )

    def __getitem__(self, name: str) -> Kind:
        """Return the kind of this name."""
        return self._kinds[name]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, built-in ones first."""
        return iter(self._kinds)

    def __len__(self) -> int:
        """Return how many kinds there are."""
        return len(self._kinds)
