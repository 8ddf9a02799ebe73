"""``python -m pytest_layerguard.reference``: trains the reference models again, offline.

Without --verify, --loss, --measure and --card it trains, on one CPU thread, and writes the model
folders.
"""

import argparse
import json
import sys
from pathlib import Path

from pytest_layerguard.reference import MANIFEST, NAMES, folder


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: What stands after the command; by default what this process was given.

    Returns:
        The exit status: 1 where a run that was to be verified made other weights, else 0.
    """
    options = _parser().parse_args(arguments)
    if options.verify is not None:
        return _verify(options.verify)
    if options.loss:
        return _losses()
    if options.measure or options.card:
        from pytest_layerguard.reference.shipping import measure_models, write_cards

        if options.measure:
            measure_models(options.out, options.again)
        if options.card:
            write_cards(options.out)
        return 0
    from pytest_layerguard.reference.recipe import make

    for name in [options.only] if options.only else NAMES:
        print(make(name, options.out, seed=options.seed, steps=options.steps))
    return 0


def _verify(run: Path) -> int:
    from pytest_layerguard.reference.figures import compare

    shipped = MANIFEST.parent
    found = {
        name: compare(name, shipped, run) for name in NAMES if (run / folder(name).name).is_dir()
    }
    print(json.dumps(found, indent=2))
    return 0 if found and all(said["identical"] for said in found.values()) else 1


def _losses() -> int:
    from pytest_layerguard.reference.figures import losses

    for name in NAMES:
        print(json.dumps(losses(name)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pytest_layerguard.reference", description=__doc__
    )
    parser.add_argument("--only", choices=NAMES, help="the model to train (default: both)")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("reference-models"),
        metavar="DIR",
        help="where the model folders are written (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, metavar="N", help="fewer or more than the recipe's")
    parser.add_argument(
        "--verify", type=Path, metavar="DIR", help="compare the run in DIR with the shipped models"
    )
    parser.add_argument(
        "--loss",
        action="store_true",
        help="measure the shipped models on the held-out text under this version of transformers",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="measure the models in --out, harm them, and write measured.json beside each",
    )
    parser.add_argument(
        "--card",
        action="store_true",
        help="write the manifest and the cards of the models in --out from their figures",
    )
    parser.add_argument(
        "--again",
        type=Path,
        metavar="DIR",
        action="append",
        default=[],
        help="with --measure: a further run to compare with those in --out; repeatable",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
