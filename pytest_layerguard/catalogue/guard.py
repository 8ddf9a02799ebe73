"""The guard of one process: the catalogue judges bets, and a measurer measures those that need it.

Knows nothing of pytest, and imports what is heavy when it is needed: a bet that is refused
unmeasured costs no import of torch.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.catalogue.judge import Judge
    from pytest_layerguard.catalogue.outcome import Outcome
    from pytest_layerguard.measurement.measurer import Measurer
    from pytest_layerguard.measurement.results import BetResult


class Guard:
    """Judges bets; `measurer` is called when the first one has to be measured.

    `expected` are the bets of this process, each with its bet folder.
    """

    def __init__(
        self,
        judge: Judge,
        measurer: Callable[[], Measurer],
        expected: Iterable[tuple[BetDocument, Path]] = (),
    ) -> None:
        self._judge = judge
        self._open = measurer
        self._expected = expected
        self._measurer: Measurer | None = None

    def judge(self, document: BetDocument, bets: Path) -> Outcome:
        """Return the outcome of a bet of the folder `bets`."""

        def measure() -> BetResult:
            with library_warnings_shown():
                if self._measurer is None:
                    self._measurer = self._open()
                    # A bet that is refused must not be swept along with those that are not.
                    self._measurer.expect(
                        each for each in self._expected if self._judge.measures(*each)
                    )
                return self._measurer.measure(document, bets=bets)

        return self._judge.judge(document, bets, measure)


@contextmanager
def library_warnings_shown() -> Iterator[None]:
    """Show libraries' warnings as warnings, even if the user's `-W error` would raise them.

    An error raised in the middle of a library is no verdict on a bet, and may leave the library
    in a state that no test covers.
    """
    with warnings.catch_warnings():
        warnings.filters = [
            ("default" if action == "error" else action, message, category, module, line)
            for action, message, category, module, line in warnings.filters
        ]
        yield
