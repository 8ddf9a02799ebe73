"""What a configuration would have built, found out before any memory is taken for it.

A config.json is a stranger's, and a few digits of it can ask for a million layers or for terabytes
of numbers that no file holds. The machine would not refuse: the system ends the process that uses
the memory, and with it every other bet of the run.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.lab.errors import LabError
from pytest_layerguard.lab.paths import quoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import nn

    from pytest_layerguard.lab.model_folder import ModelFolder

MOST_MODULES: Final = 250_000
"""Parts of a model; the largest published ones, with every expert by itself, have some 100,000."""
_MOST_IN_A_LIST: Final = 10_000_000
_COUNTS: Final = ("layer", "depth", "block", "stage", "types")
"""What keys are called whose number a configuration makes a list of so many entries from."""
_LARGEST_TABLES: Final = 2**30


class TooManyPartsError(Exception):
    """A model of more parts than any has; building it would take for ever."""

    def __init__(self) -> None:
        super().__init__(f"more than {MOST_MODULES:,} parts, too many to build")


@contextmanager
def on_meta() -> Iterator[None]:
    """Build models on no device, and only up to a size.

    Raises:
        TooManyPartsError: If what is built in the block has more parts than any model.
    """
    import torch
    from torch.nn.modules import module

    parts = 0

    def count(_parent: nn.Module, _name: str, _part: nn.Module | None) -> None:
        nonlocal parts
        parts += 1
        if parts > MOST_MODULES:
            raise TooManyPartsError

    counting = module.register_module_module_registration_hook(count)
    try:
        with torch.device("meta"):
            yield
    finally:
        counting.remove()


def refuse_counts(config: Mapping[str, Any], name: str) -> None:
    """Refuse numbers that would become lists too long for memory as soon as they are read.

    Raises:
        LabError: If there is one; names it.
    """
    for key, value in _numbers("", config):
        if value > _MOST_IN_A_LIST and any(word in key for word in _COUNTS):
            raise LabError(f"{name}: config.json says {quoted(key)}: {value:,}, too many to build")


@dataclass(frozen=True)
class Promised:
    """How much a configuration asks for.

    Attributes:
        parameters: All of them, also those that are tied later.
        tables: Bytes of what is no parameter, such as tables of positions.
    """

    parameters: int
    tables: int

    @classmethod
    def of(cls, model: nn.Module) -> Promised:
        """Count what a model on no device would hold."""
        return cls(
            sum(prod(each.shape) for each in model.parameters()),
            sum(prod(each.shape) * each.element_size() for each in model.buffers()),
        )

    def check(self, folder: ModelFolder) -> None:
        """Refuse a configuration that asks for much more than the folder's files hold.

        Raises:
            LabError: If it does; what is missing would be drawn at random, which takes the memory first.
        """
        held = folder.parameters
        # A head that is tied to the embedding is stored once and, until it is tied, built twice.
        if self.parameters > 2 * held + 2**20:
            raise LabError(
                f"{folder.name}: config.json describes {self.parameters:,} parameters, and its files hold "
                f"{held:,}. The checkpoint does not fit its config.json."
            )
        if self.tables > max(_LARGEST_TABLES, 4 * held):
            raise LabError(
                f"{folder.name}: config.json asks for tables, such as those of positions, of "
                f"{self.tables:,} bytes; allowed: at most {max(_LARGEST_TABLES, 4 * held):,}"
            )


def _numbers(key: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for inner_key, inner in value.items():
            yield from _numbers(str(inner_key), inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(key, inner)
    elif isinstance(value, int | float):
        yield key, value
