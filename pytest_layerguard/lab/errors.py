"""What can go wrong in the laboratory, told to people."""

from __future__ import annotations


class LabError(Exception):
    """A measurement that cannot be made honestly; the bet's outcome is ERROR, with this text."""


class UnavailableError(Exception):
    """Something a bet needs cannot be had here; the bet is skipped, visibly, with this reason."""
