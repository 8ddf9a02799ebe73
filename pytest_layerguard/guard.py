"""The guard of one process: the catalogue judges bets, and the laboratory measures those it must.

Knows nothing of pytest, and imports what is heavy when it is needed: a bet that is refused
unmeasured costs no import of torch.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pytest_layerguard.bet.reading import BetDocument
    from pytest_layerguard.catalogue.judging import Judge
    from pytest_layerguard.catalogue.outcome import Outcome
    from pytest_layerguard.interventions.registry import Registry
    from pytest_layerguard.lab.conditions import Conditions
    from pytest_layerguard.lab.results import BetResult
    from pytest_layerguard.options import Settings


class Laboratory(Protocol):
    """Whatever measures a bet."""

    def measure(self, document: BetDocument, *, bets: Path) -> BetResult:
        """Measure the bet, whose bet folder is `bets`.

        Raises:
            LabError: a measurement that cannot be made honestly.
            UnavailableError: something the bet needs cannot be had here.
        """


class Guard:
    """Judges bets; `laboratory` makes what measures them, and is asked when the first one must be."""

    def __init__(self, judge: Judge, laboratory: Callable[[], Laboratory]) -> None:
        self._judge = judge
        self._open = laboratory
        self._laboratory: Laboratory | None = None

    def judge(self, document: BetDocument, bets: Path) -> Outcome:
        """Return what a bet of the folder `bets` comes to."""

        def measure() -> BetResult:
            with library_warnings_shown():
                if self._laboratory is None:
                    self._laboratory = self._open()
                return self._laboratory.measure(document, bets=bets)

        return self._judge.judge(document, bets, measure)


@contextmanager
def library_warnings_shown() -> Iterator[None]:
    """Show what libraries warn of, also where the user's `-W error` would raise it.

    An error raised in the middle of a library is no verdict on a bet, and may leave the library
    in a state that nobody has tested.
    """
    with warnings.catch_warnings():
        warnings.filters = [
            ("default" if action == "error" else action, message, category, module, line)
            for action, message, category, module, line in warnings.filters
        ]
        yield


def conditions(settings: Settings, worker: int) -> Conditions:
    """What the user allows; `worker` numbers this process among those that share the machine."""
    from pytest_layerguard.lab.conditions import Conditions

    return Conditions(
        device=settings.device,
        worker=worker,
        roots=settings.roots,
        allow_unpinned=settings.allow_unpinned,
        allow_remote_code=settings.allow_remote_code,
    )


def judge(settings: Settings, terms: Conditions, registry: Registry, root: Path) -> Judge:
    """Build the judge of a project whose root directory is `root`."""
    from pytest_layerguard.catalogue.judging import Judge
    from pytest_layerguard.catalogue.sight import Scout

    return Judge(
        Scout(terms),
        root=root,
        names=settings.bets,
        require=settings.require,
        recording=settings.record,
        kinds=registry.arguments,
    )


def laboratory(terms: Conditions, registry: Registry) -> Laboratory:
    """Build this package's own laboratory, for which torch is imported."""
    from pytest_layerguard.lab.laboratory import Laboratory

    return Laboratory(terms, registry)
