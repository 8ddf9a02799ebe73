"""A process of its own that loads models and texts on request.

The client libraries read where the hub is, where their cache is and whether they are offline when they are
imported, so a test that wants them otherwise needs a fresh process. One answers many questions: a line of JSON
on standard input is one question, a line on standard output its answer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

slept: list[float] = []


class Visitor:
    """The other end: starts the process, asks, and ends it."""

    def __init__(self, environment: dict[str, str]) -> None:
        inherited = {
            name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
        }
        path = os.pathsep.join(filter(None, sys.path))
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", __file__],
            env=inherited | environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> str:
        """End the process; returns what it wrote to standard error."""
        if self._process.returncode is not None:
            return ""
        return self._process.communicate(timeout=60)[1]

    def ask(self, **question: Any) -> dict[str, Any]:
        """Ask for ``model=``, ``bet=`` or ``text=``, with ``environment=`` and ``conditions=``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self.leave()
        return json.loads(line)


def answer(question: dict[str, Any]) -> dict[str, Any]:
    from pytest_layerguard.environment.conditions import Conditions
    from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError

    slept.clear()
    os.environ.update(question.get("environment", {}))
    reported: list[str] = []
    conditions = Conditions(
        device="cpu", progress=reported.append, **question.get("conditions", {})
    )
    try:
        if "model" in question:
            found = model(question["model"], conditions)
        elif "bet" in question:
            found = bet(question["bet"], question["roots"])
        else:
            found = text(question["text"], question.get("tokens"), conditions)
    except (MeasurementError, UnavailableError) as error:
        found = {"error": type(error).__name__, "message": str(error)}
    return found | {"slept": list(slept), "reported": reported}


def model(written: dict[str, Any], conditions: Any) -> dict[str, Any]:
    import torch

    from pytest_layerguard.bet.bet import ModelSpec
    from pytest_layerguard.models.loading import load

    spec = ModelSpec.model_validate(written)
    (source,) = spec.checkpoints().values()
    loaded = load(
        spec, source, bet_file=Path("bets/bet.yaml"), bets=Path("bets"), conditions=conditions
    )
    ids = torch.tensor([loaded.tokenizer("a b c").input_ids])
    return {
        "provenance": dict(loaded.provenance),
        "logits": float(loaded.model(ids).logits.double().sum()),
    }


def bet(written: dict[str, Any], roots: list[str]) -> dict[str, Any]:
    import pytest_layerguard

    result = pytest_layerguard.measure(written, device="cpu", roots=roots).result
    return {
        "metrics": {name: each.value for name, each in result.variants[0].metrics.items()},
        "candidate": result.provenance["checkpoints"][0]["candidates"][0],
    }


def text(written: dict[str, Any], tokens: int | None, conditions: Any) -> dict[str, Any]:
    from pydantic import TypeAdapter

    from hub.tiny import tokenizer
    from pytest_layerguard.bet.text_sources import TextSource
    from pytest_layerguard.texts.sources import Texts

    source = TypeAdapter(TextSource).validate_python(written)
    return {
        "text": Texts(conditions, Path("bets/bet.yaml"), Path("bets")).read(
            source, tokenizer(), tokens
        )
    }


if __name__ == "__main__":
    time.sleep = slept.append
    for asked in sys.stdin:
        print(json.dumps(answer(json.loads(asked))), flush=True)
    # Taking torch and datasets down in order takes seconds and proves nothing.
    sys.stderr.flush()
    os._exit(0)
