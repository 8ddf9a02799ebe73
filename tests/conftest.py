"""What holds for every test."""

from __future__ import annotations

import gc
import os

import pytest
from hypothesis import settings

import pytest_layerguard

# Before torch is imported, here and in the processes that tests start: the models are tiny and several
# processes share the cores, where threads would mostly wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Hundreds of tests start processes that would each compile the package anew where no bytecode may be kept.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Before any run inside a test: pytester forgets what such a run imported, and these cannot be imported twice.
import numpy  # noqa: F401
import scipy.special  # noqa: F401

# No test asserts a time, and on a busy machine any example may take long.
settings.register_profile("quick", deadline=None, max_examples=25)
settings.register_profile("thorough", deadline=None, max_examples=100)
settings.load_profile("quick")

TINY = """\
id: tiny
title: Skip the first layer, layers on disk
claim: It can go.
status: proposed
model: {reference: reference, placement: stream}
intervention: {skip_layers: {layers: 0}}
measure: {text: {reference: heldout}, tokens: 64, window: 32, sample: {prompts: [Once], tokens: 1}}
criteria: {lenient: perplexity_ratio <= 3}
"""


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import what measuring imports: pytest inside pytest forgets its imports, and torch cannot be imported twice."""
    path = tmp_path_factory.mktemp("measured") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    pytest_layerguard.measure(path)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking again and again what the imported libraries made."""
    gc.freeze()
