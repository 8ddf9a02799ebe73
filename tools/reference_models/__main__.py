"""Train, compare, measure and describe the embedded reference models, offline."""

import argparse
import json
import sys
from pathlib import Path

from pytest_layerguard.reference import NAMES, folder


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments after the program's name; by default those of the process.

    Returns:
        The exit status: 1 where ``verify`` finds other weights or no model, else 0.
    """
    options = _parser().parse_args(arguments)
    if options.command == "train":
        from tools.reference_models.train import make

        for name in [options.only] if options.only else NAMES:
            print(make(name, options.out, seed=options.seed, steps=options.steps))
    elif options.command == "verify":
        return _verify(options.run)
    elif options.command == "loss":
        from tools.reference_models.figures import losses

        for name in NAMES:
            print(json.dumps(losses(name)))
    elif options.command == "measure":
        from tools.reference_models.publish import write_figures

        write_figures(options.again)
    else:
        from tools.reference_models.publish import write_cards

        write_cards()
    return 0


def _verify(run: Path) -> int:
    from tools.reference_models.figures import compare

    homes = {name: run / folder(name).name for name in NAMES}
    found = {name: compare(name, home) for name, home in homes.items() if home.is_dir()}
    print(json.dumps(found, indent=2))
    return 0 if found and all(each["identical"] for each in found.values()) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.reference_models", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train the models and write their folders")
    train.add_argument("--only", choices=NAMES, help="the model to train (default: both)")
    train.add_argument(
        "--out",
        type=Path,
        default=Path("reference-models"),
        metavar="DIR",
        help="where the model folders are written (default: %(default)s)",
    )
    train.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    train.add_argument("--steps", type=int, metavar="N", help="fewer or more than the recipe's")
    verify = commands.add_parser("verify", help="compare a run with the shipped models")
    verify.add_argument("run", type=Path, metavar="DIR", help="the --out of the run")
    commands.add_parser(
        "loss", help="print the held-out loss of the shipped models under this transformers"
    )
    measure = commands.add_parser("measure", help="measure the shipped models and damaged copies")
    measure.add_argument(
        "--again",
        type=Path,
        metavar="DIR",
        action="append",
        default=[],
        help="a further run to compare with them; repeatable",
    )
    commands.add_parser("card", help="write the manifest and the cards of the shipped models")
    return parser


if __name__ == "__main__":
    sys.exit(main())
