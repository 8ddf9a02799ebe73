"""Counting the bytes of weights that were read from disk and are still in use."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

from pytest_layerguard.models.streaming import LayerStore


class HeldWeights:
    """Bytes of weights held now, and the most at a time since :meth:`restart`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.most = 0
        read = LayerStore._read

        def counting(store: LayerStore, *given: Any) -> Any:
            tensor = read(store, *given)
            self.now += tensor.nbytes
            self.most = max(self.most, self.now)
            weakref.finalize(tensor, self._let_go, tensor.nbytes)
            return tensor

        monkeypatch.setattr(LayerStore, "_read", counting)

    def restart(self) -> None:
        self.most = self.now

    def _let_go(self, size: int) -> None:
        self.now -= size
