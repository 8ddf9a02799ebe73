"""The versions of everything that a number may depend on."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Final

_PACKAGES: Final = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "datasets",
    "lm-eval",
)


@cache
def versions() -> MappingProxyType[str, str]:
    """Return the versions of this package, of Python and of the libraries that are installed."""
    from pytest_layerguard import __version__

    found = {"pytest-layerguard": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return MappingProxyType(found)
