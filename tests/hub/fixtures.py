"""The hub, a process that visits it, and a tiny model on it; import them into a conftest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from hub.server import Hub
from hub.tiny import files, save
from hub.visitor import Visitor

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def hub_of_the_session() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def hub(hub_of_the_session: Hub) -> Iterator[Hub]:
    """A hub that is out of trouble; what was put on it earlier may still be there."""
    hub_of_the_session.reset()
    yield hub_of_the_session
    hub_of_the_session.reset()


@pytest.fixture(scope="session")
def hub_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the visitors keep their cache."""
    return tmp_path_factory.mktemp("hub-home")


@pytest.fixture(scope="session")
def visitor(hub_of_the_session: Hub, hub_home: Path) -> Iterator[Visitor]:
    with Visitor(hub_of_the_session.environment(hub_home)) as visitor:
        yield visitor
        assert visitor.leave() == ""


@pytest.fixture(scope="session")
def offline_visitor(hub_of_the_session: Hub, hub_home: Path) -> Iterator[Visitor]:
    """A visitor of the same cache that may not use the network."""
    with Visitor(hub_of_the_session.environment(hub_home, offline=True)) as visitor:
        yield visitor
        assert visitor.leave() == ""


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model; copy it before changing it."""
    return save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_files(tiny_folder: Path) -> dict[str, bytes]:
    return files(tiny_folder)
