"""The source of one checkpoint: of a model, or of a candidate that takes its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Dtype = Literal["float32", "bfloat16", "float16"]
"""What a model may compute in."""


@dataclass(frozen=True)
class ModelSource:
    """The source of one checkpoint.

    ``name`` is a reference name (``reference@init`` for the untrained one), a path as written in
    the bet file (relative to it), or ``ORG/NAME``. ``revision`` is for ``hub`` only: 40 hex digits
    or ``unpinned``, which takes ``branch`` as it is today, or the default branch where it is None.
    ``sha256`` is for ``gguf`` only.
    """

    kind: Literal["reference", "path", "hub", "gguf", "adapter"]
    name: str
    revision: str | None = None
    branch: str | None = None
    sha256: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether the name is a path."""
        return self.kind in ("path", "gguf", "adapter")
