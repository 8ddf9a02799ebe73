"""Limits on the size of a bet. It is untrusted text and must not exhaust a machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Limits:
    """The largest sizes that are accepted. A command-line option may set others.

    ``nodes`` counts YAML nodes of a whole file with every alias expanded, ``depth`` their nesting,
    ``scalar`` the characters of one text. ``targets`` bounds a list of layers or pairs.
    """

    file_bytes: int = 262_144
    documents: int = 200
    nodes: int = 20_000
    depth: int = 32
    scalar: int = 20_000
    tokens: int = 10_000_000
    sample_tokens: int = 4_096
    prompts: int = 64
    steps: int = 100_000
    batch: int = 4_096
    arms: int = 16
    texts: int = 16
    checkpoints: int = 256
    interventions: int = 16
    targets: int = 4_096


DEFAULT_LIMITS: Final = Limits()

LARGEST_LAYER: Final = 9_999
"""No decoder has more layers. A larger index is an error that would show only after loading the model."""
