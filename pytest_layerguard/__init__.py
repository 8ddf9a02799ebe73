"""Judge bets on compressing language models, and remember which ones were lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pytest_layerguard.api import Measured as Measured
    from pytest_layerguard.api import measure as measure

__all__ = ["LayerguardWarning", "Measured", "__version__", "measure"]

__version__ = "0.1.0"


class LayerguardWarning(UserWarning):
    """Something a reader of the verdicts should know that does not fail the build."""


def __getattr__(name: str) -> object:
    """Import the public API only when it is asked for: every pytest run imports this package."""
    if name in ("Measured", "measure"):
        from pytest_layerguard import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
