"""What must hold between the parts of a bet, so that it can be measured and judged at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError


def objections(parts: Mapping[str, Any], context: Mapping[str, Any]) -> Iterator[ValidationError]:
    """Yield what is wrong between the parts that are themselves sound."""
    yield from ()
