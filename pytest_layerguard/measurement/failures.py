"""Name the variants that a model cannot run."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from pytest_layerguard.environment.measurement_errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_layerguard.models.plan import Plan

_NAMED: Final = 4


class PlanError(MeasurementError):
    """A model that cannot run some plans.

    Attributes:
        plans: The plans.
    """

    def __init__(self, plans: Sequence[Plan], reason: str) -> None:
        super().__init__(reason)
        self.plans = frozenset(plans)


@contextmanager
def failing(plans: Sequence[Plan]) -> Iterator[None]:
    """Raise what goes wrong within the block as an error of these plans.

    Raises:
        PlanError: If a measurement fails.
    """
    try:
        yield
    except PlanError:
        raise
    except MeasurementError as error:
        raise PlanError(plans, str(error)) from error


@contextmanager
def naming(variants: Mapping[str, Sequence[Plan]]) -> Iterator[None]:
    """Name the variants in an error of their plans that is raised within the block.

    Raises:
        MeasurementError: If there is one.
    """
    try:
        yield
    except PlanError as error:
        names = [name for name, plans in variants.items() if error.plans & set(plans)]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        named = f"{', '.join(names[:_NAMED])}{more}: " if names else ""
        raise MeasurementError(f"{named}{error}") from error
