"""The embedded reference models: real trained mixtures of experts that need no network.

This module only says where their files lie and what their digests are, so that naming them costs
no import of torch or transformers; the recipe that made them is in the modules beside it.
"""

import json
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

NAMES: Final = ("reference", "reference-wide")

_HERE: Final = Path(__file__).parent
_FOLDERS: Final = MappingProxyType({"reference": "narrow", "reference-wide": "wide"})

HELDOUT: Final = _HERE / "heldout.txt"
MANIFEST: Final = _HERE / "manifest.json"


def folder(name: str) -> Path:
    """Says where a reference model lies.

    Args:
        name: One of ``NAMES``.

    Returns:
        A folder that ``AutoModelForCausalLM.from_pretrained`` loads.

    Raises:
        KeyError: There is no reference model of this name.
    """
    if name not in _FOLDERS:
        raise KeyError(f"no reference model {name!r}; there are {', '.join(NAMES)}")
    return _HERE / _FOLDERS[name]


@cache
def manifest() -> MappingProxyType[str, Any]:
    """Reads what was shipped.

    Returns:
        ``models``: by name, the sha256 digests ``weights``, ``config`` and ``tokenizer`` of files
        and ``initial`` of the weights before training (see ``initial.weights_digest``);
        ``heldout``: its digest ``sha256``, the ``tokens`` it has and the ``stories``.
    """
    return MappingProxyType(json.loads(MANIFEST.read_text(encoding="utf-8")))


def digest(name: str) -> str:
    """Says which weights a reference model has, in a few letters for a line of a report.

    Args:
        name: One of ``NAMES``.

    Returns:
        The first 12 hex digits of the sha256 of the weights' file, as the manifest has it.

    Raises:
        KeyError: There is no reference model of this name.
    """
    folder(name)
    weights: str = manifest()["models"][name]["weights"]
    return weights.removeprefix("sha256:")[:12]
