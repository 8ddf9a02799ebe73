"""Naming a reference model costs nothing: no torch, no transformers, no file but the manifest."""

import subprocess
import sys

import pytest

from pytest_layerguard import reference

HEAVY = ("torch", "transformers", "numpy", "tokenizers", "safetensors")


def test_naming_a_model_imports_nothing_heavy():
    code = (
        "import sys; from pytest_layerguard import reference as r; "
        "[(r.folder(n), r.digest(n)) for n in r.NAMES]; r.manifest(); "
        "from pytest_layerguard.reference import initial_weights, story_generator; "
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_answered_with_what_there_is():
    with pytest.raises(KeyError, match=r"no reference model 'refrence'.*reference-wide"):
        reference.folder("refrence")
    with pytest.raises(KeyError, match="no reference model"):
        reference.digest("refrence")


@pytest.mark.parametrize("name", reference.NAMES)
def test_the_short_digest_is_the_start_of_the_weights(name):
    assert len(reference.digest(name)) == 12
    weights = reference.manifest()["models"][name]["weights"]
    assert weights.startswith(f"sha256:{reference.digest(name)}")
