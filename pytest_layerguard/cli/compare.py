"""`compare`: describe two checkpoints, and what was done to the one to get the other."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard import reference
from pytest_layerguard.bet.errors import printable
from pytest_layerguard.cli.command_output import UserError, echo

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from pytest_layerguard.checkpoints.checkpoint import Checkpoint
    from pytest_layerguard.checkpoints.facts import CheckpointFacts
    from pytest_layerguard.checkpoints.recognition import Recognition

_WIDTH: Final = 80


def run(given: argparse.Namespace) -> int:
    """Compare two checkpoints tensor by tensor; loads no model.

    Raises:
        UserError: If one cannot be read, or they are not two forms of one model.
    """
    from pytest_layerguard.checkpoints.checkpoint_errors import CheckpointError, MissingLibraryError
    from pytest_layerguard.checkpoints.facts import CheckpointFacts
    from pytest_layerguard.checkpoints.recognition import recognise

    try:
        base, candidate = _opened(given.base), _opened(given.candidate)
        facts = CheckpointFacts.of(base), CheckpointFacts.of(candidate)
        recognition = recognise(base, candidate)
    except (CheckpointError, MissingLibraryError) as error:
        raise UserError(str(error)) from None
    if given.json:
        echo(json.dumps(_data(base, candidate, facts, recognition), indent=2))
    else:
        _print((base, candidate), facts, recognition)
    return 0


def _opened(name: str) -> Checkpoint:
    from pytest_layerguard.checkpoints.checkpoint import open_checkpoint

    path = reference.folder(name) if name in reference.NAMES else Path(name)
    return open_checkpoint(path, name)


def _data(
    base: Checkpoint,
    candidate: Checkpoint,
    facts: tuple[CheckpointFacts, CheckpointFacts],
    recognition: Recognition,
) -> dict[str, Any]:
    return {
        "base": {"path": base.name, **asdict(facts[0])},
        "candidate": {"path": candidate.name, **asdict(facts[1])},
        "size_ratio": facts[1].bytes / facts[0].bytes,
        "kinds": sorted(recognition.kinds),
        "findings": [asdict(finding) for finding in recognition.findings],
    }


def _print(
    both: Iterable[Checkpoint],
    facts: tuple[CheckpointFacts, CheckpointFacts],
    recognition: Recognition,
) -> None:
    for word, checkpoint, known in zip(("base", "candidate"), both, facts, strict=True):
        echo(f"{word}: {printable(checkpoint.name)}")
        for line in known.lines():
            _echo(line, "  ")
        echo()
    echo(f"the candidate has {facts[1].bytes / facts[0].bytes:.3g} of the base's bytes")
    echo()
    echo("recognised:")
    for finding in recognition.findings:
        _echo(f"{finding.kind}: {finding.sentence}", "  ")


def _echo(line: str, indent: str) -> None:
    echo(
        textwrap.fill(
            printable(line),
            _WIDTH,
            initial_indent=indent,
            subsequent_indent=indent + "    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    )
