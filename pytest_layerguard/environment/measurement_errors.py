"""The errors of a measurement, whose messages are for users."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pytest_layerguard.bet.errors import printable


class _OneLineError(Exception):
    def __str__(self) -> str:
        """Return the message on one line: it may quote untrusted names of files, tensors or repositories."""
        return printable(super().__str__())


class MeasurementError(_OneLineError):
    """A measurement that cannot be made honestly; the bet's outcome is ERROR, with this text."""


class Lack(NamedTuple):
    """What is wanting: the kind of thing, and which: a GPU of ``24 GiB``, access to ``ORG/NAME``."""

    kind: Literal["gpu", "memory", "network", "access", "package", "model"]
    of: str


class UnavailableError(_OneLineError):
    """Something a bet needs cannot be had here; the bet is skipped, visibly, with this reason."""

    def __init__(self, message: str, lack: Lack | None = None) -> None:
        super().__init__(message)
        self.lack = lack
