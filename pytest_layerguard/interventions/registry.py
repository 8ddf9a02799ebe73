"""Which interventions there are: their names, what each may be told, and what carries it out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.arguments import BUILTIN_KINDS, Arguments

if TYPE_CHECKING:
    from pytest_layerguard.interventions.bench import Implementation

ENTRY_POINT_GROUP: Final = "layerguard.interventions"

_PLACES: Final = {
    "skip_layers": "layers",
    "zero_layers": "layers",
    "reinitialize_layers": "layers",
    "replace_layers": "layers",
    "interchange_layers": "layers",
    "remove_layers": "layers",
    "average_experts": "experts",
    "drop_experts": "experts",
    "ternary_weights": "weights",
    "prune_weights": "weights",
    "quantize_weights": "weights",
    "train": "training",
}
_RUN_THE_MODEL: Final = ("remove_layers", "drop_experts", "train")
"""Kinds that must run the model before it is known what they do."""


@dataclass(frozen=True)
class Kind:
    """One kind of intervention.

    Attributes:
        name: How a bet file names it.
        arguments: What it may be told, a frozen pydantic model.
        implementation: What carries it out, as ``"package.module:function"``, so that naming a kind
            does not import torch; see :data:`~pytest_layerguard.interventions.bench.Implementation`.
        light: Whether planning it runs no model, so that bets may be planned ahead and swept together.
    """

    name: str
    arguments: type[Arguments]
    implementation: str
    light: bool = False

    def load(self) -> Implementation:
        """Imports what carries the intervention out."""
        module, _, function = self.implementation.partition(":")
        loaded: Implementation = getattr(import_module(module), function)
        return loaded


class Registry(Mapping[str, Kind]):
    """Kinds by name. Two packages that claim one name are an error, never a silent choice."""

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._kinds: dict[str, Kind] = {}
        for kind in kinds:
            held = self._kinds.setdefault(kind.name, kind)
            if held != kind:
                raise ValueError(
                    f"two interventions are named {kind.name}: {held.implementation} and {kind.implementation}"
                )

    @classmethod
    def of(cls, extra: Iterable[Kind] = ()) -> Registry:
        """The built-in kinds, those of installed packages (entry points), and ``extra``.

        Raises:
            ValueError: If two kinds have one name.
        """
        installed = [found.load() for found in entry_points(group=ENTRY_POINT_GROUP)]
        return cls([*_builtin(), *installed, *extra])

    @property
    def arguments(self) -> dict[str, type[Arguments]]:
        """What each kind may be told, for the reader of bet files."""
        return {name: kind.arguments for name, kind in self._kinds.items()}

    def __getitem__(self, name: str) -> Kind:
        """The kind of this name."""
        return self._kinds[name]

    def __iter__(self) -> Iterator[str]:
        """The names, built-in ones first."""
        return iter(self._kinds)

    def __len__(self) -> int:
        """How many kinds there are."""
        return len(self._kinds)


def _builtin() -> list[Kind]:
    return [
        Kind(
            name,
            arguments,
            f"pytest_layerguard.interventions.{_PLACES[name]}:{name}",
            light=name not in _RUN_THE_MODEL,
        )
        for name, arguments in BUILTIN_KINDS.items()
    ]
