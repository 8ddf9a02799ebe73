"""Mask access tokens in everything that the process prints or writes."""

from __future__ import annotations

import os
import re
from typing import Final

_VARIABLES: Final = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GITHUB_TOKEN", "GH_TOKEN")
_SHORTEST: Final = 8
"""The fewest characters of a token; a shorter value is taken for an ordinary word."""

_TOKEN: Final = re.compile(r"\b(?:hf|api_org|ghp|gho|ghu|ghs|ghr|github_pat)_[A-Za-z0-9_]{10,}")


def without_secrets(text: str) -> str:
    """Return text with ``***`` for every token of the environment, and for all that looks like one."""
    for variable in _VARIABLES:
        token = os.environ.get(variable, "").strip()
        if len(token) >= _SHORTEST:
            text = text.replace(token, "***")
    return _TOKEN.sub("***", text)
