"""What can go wrong in the laboratory, told to people."""

from __future__ import annotations

from pytest_layerguard.bet.errors import printable


class _ToldError(Exception):
    def __str__(self) -> str:
        """The text on one line: it may quote a stranger's file, tensor or repository by name."""
        return printable(super().__str__())


class MeasurementError(_ToldError):
    """A measurement that cannot be made honestly; the bet's outcome is ERROR, with this text."""


class UnavailableError(_ToldError):
    """Something a bet needs cannot be had here; the bet is skipped, visibly, with this reason."""
