"""`--layerguard-ray` where Ray is not installed, and where it cannot be meant."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.pytest_plugin.conftest import Project


def test_without_ray_the_extra_is_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None)
    project.bet("a")
    result = project.run("bets/", "--layerguard-ray=auto")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [
            "ERROR: --layerguard-ray: Ray is not installed; it comes with an extra: "
            "pip install 'pytest-layerguard[[]ray]'"
        ]
    )


def test_workers_of_two_kinds_are_refused(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = ModuleSpec("ray", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: spec)
    project.bet("a")
    result = project.run("bets/", "--layerguard-ray=auto", "-n", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --layerguard-ray has no use for the workers of pytest-xdist*"]
    )
