"""The schedulers of pytest-xdist, taught that bets on one model belong together.

Imported only where pytest-xdist deals out tests and there are bets among them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from xdist.scheduler import LoadFileScheduling, LoadGroupScheduling, LoadScopeScheduling

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


class _ByItself(LoadScopeScheduling):  # type: ignore[misc]
    """Each test by itself, as `--dist load` and `worksteal` have it."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid


_BASES: Final[dict[str, type[LoadScopeScheduling]]] = {
    "load": _ByItself,
    "worksteal": _ByItself,
    "loadscope": LoadScopeScheduling,
    "loadfile": LoadFileScheduling,
    "loadgroup": LoadGroupScheduling,
}
"""What scheduling other tests get, by `--dist`; `each` runs every test everywhere and stays as it is."""


def scheduler(
    config: pytest.Config, log: Any, model_of: Callable[[str], str | None]
) -> LoadScopeScheduling | None:
    """Return a scheduler that keeps all bets on one model on one worker.

    `model_of` tells the model of a bet by its node id, and None of what is no bet. Marks that group
    tests would have to change node ids, and file by file would load a model once per file.
    """
    base = _BASES.get(config.getvalue("dist"))
    if base is None:
        return None

    class ByModel(base):  # type: ignore[misc, valid-type]
        def _split_scope(self, nodeid: str) -> str:
            model = model_of(nodeid)
            if model is not None:
                return f"bets on {model}"
            scope: str = super()._split_scope(nodeid)
            return scope

        def remove_node(self, node: Any) -> str | None:
            """Take a dead worker's tests back, but for the one that it died of.

            pytest-xdist 3.8 gives that one to the next worker, which dies of it too, until there is
            none left for the tests behind it.
            """
            units: dict[str, dict[str, bool]] = self.assigned_work.pop(node)
            waiting = [nodeid for unit in units.values() for nodeid in unit if not unit[nodeid]]
            if not waiting:
                return None
            for scope, unit in units.items():
                unit.pop(waiting[0], None)
                if not all(unit.values()):
                    self.workqueue[scope] = unit
            for other in self.assigned_work:
                self._reschedule(other)
            return waiting[0]

    return ByModel(config, log)
