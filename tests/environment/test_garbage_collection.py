"""Pause the garbage collector: what is made meanwhile counts as old, and the collector is as it was before."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from pytest_layerguard.environment.garbage_collection import no_garbage_collection


@pytest.fixture(autouse=True)
def _enabled_afterwards() -> Iterator[None]:
    yield
    gc.enable()


def test_nothing_is_collected_within_and_no_young_object_is_left_to_go_through() -> None:
    with no_garbage_collection():
        assert not gc.isenabled()
        made = [[each] for each in range(10_000)]
    assert gc.isenabled()
    young = {id(each) for each in gc.get_objects(generation=0)}
    assert not young & {id(each) for each in made}


def test_the_collector_runs_again_after_an_error() -> None:
    with pytest.raises(ImportError), no_garbage_collection():
        raise ImportError
    assert gc.isenabled()


def test_a_collector_that_the_user_turned_off_stays_off() -> None:
    gc.disable()
    with no_garbage_collection():
        pass
    assert not gc.isenabled()
