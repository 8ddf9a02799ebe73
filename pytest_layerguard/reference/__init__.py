"""The embedded reference models: small trained mixtures of experts that need no network.

Importing this module imports neither torch nor transformers. The recipe that trained the models is
in ``tools/reference_models`` of the repository.
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
QUESTIONS: Final = _HERE / "questions.jsonl"
MANIFEST: Final = _HERE / "manifest.json"


def folder(name: str) -> Path:
    """Return the folder of a reference model.

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
    """Read the manifest of the shipped files.

    Returns:
        ``models``: for each name, the sha256 digests of the files ``weights``, ``config`` and
        ``tokenizer``, and of the ``initial`` weights (see ``initial_weights.weights_digest``).
        ``heldout``: the digest ``sha256`` of the held-out text and its number of ``tokens`` and
        ``stories``. ``questions``: the digest ``sha256`` of the file of questions and how many it has.
    """
    return MappingProxyType(json.loads(MANIFEST.read_text(encoding="utf-8")))


def digest(name: str) -> str:
    """Return a short digest of a reference model's weights.

    Args:
        name: One of ``NAMES``.

    Returns:
        The first 12 hex digits of the sha256 of ``model.safetensors``, as the manifest has it.

    Raises:
        KeyError: There is no reference model of this name.
    """
    folder(name)
    weights: str = manifest()["models"][name]["weights"]
    return weights.removeprefix("sha256:")[:12]
