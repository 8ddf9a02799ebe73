"""The names that a bet is made of: its id, and the models of the package."""

from __future__ import annotations

from typing import Final, Literal, get_args

SLUG: Final = r"[a-z0-9][a-z0-9-]{0,79}"
"""The pattern of an id, and of the name of a record's file."""

SLUG_RULE: Final = "lower-case letters, digits and '-', at most 80, such as bet-40"

ReferenceName = Literal["reference", "reference-wide", "reference@init", "reference-wide@init"]
REFERENCE_NAMES: Final[tuple[str, ...]] = get_args(ReferenceName)

INIT: Final = "@init"
"""The end of a reference model's name that stands for the model before training."""
