"""Bet files that could not be read, as the pull request and the page tell of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

_PLACE: Final = re.compile(r"^(?P<file>.+?):(?P<line>\d+):(?P<column>\d+): (?P<message>.*)$")
LONGEST: Final = 20_000


class Fault(NamedTuple):
    """One thing that is wrong in a bet file."""

    line: int
    column: int
    message: str


@dataclass(frozen=True)
class Refused:
    """A bet file that was not collected, and all that is wrong with it, as pytest shows it."""

    file: str
    text: str

    @classmethod
    def of(cls, file: str, text: str) -> Refused:
        """Keep what a reader can take in."""
        return cls(file, text if len(text) <= LONGEST else f"{text[:LONGEST]}...")

    def faults(self) -> Iterator[Fault]:
        """Yield every place that is named; one without a place where none is."""
        found = [match for line in self.text.splitlines() if (match := _PLACE.match(line))]
        for match in found:
            yield Fault(int(match["line"]), int(match["column"]), match["message"])
        if not found:
            yield Fault(1, 1, next(iter(self.text.splitlines()), "could not be read"))
