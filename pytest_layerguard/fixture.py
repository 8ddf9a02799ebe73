"""The `layerguard` fixture: verdicts in a test of one's own."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest

from pytest_layerguard import collect
from pytest_layerguard.options import SETTINGS

if TYPE_CHECKING:
    from pytest_layerguard.api import Measuring
    from pytest_layerguard.guard import Laboratory


def measuring(config: pytest.Config) -> Measuring:
    """Return what measures bets in this session; models are loaded when the first bet is measured."""
    from pytest_layerguard.api import Measuring

    @cache
    def laboratory() -> Laboratory:
        made: Laboratory = config.hook.pytest_layerguard_laboratory(config=config)
        return made

    return Measuring(
        laboratory, collect.registry_of(config), config.rootpath, lambda why: _skip(config, why)
    )


def _skip(config: pytest.Config, why: str) -> None:
    if "all" in config.stash[SETTINGS].require:
        pytest.fail(f"{why}\n--layerguard-require all: what cannot be measured here is a failure")
    pytest.skip(why)
