"""`export`: write a variant of a bet as a checkpoint that transformers loads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_layerguard.bet.digest import digest
from pytest_layerguard.bet.errors import BetFileError
from pytest_layerguard.bet.reader import one_bet, read_bets
from pytest_layerguard.catalogue.bet_folders import bets_of
from pytest_layerguard.catalogue.records import RecordError, path_of, read_record
from pytest_layerguard.catalogue.wording import code, describe_interventions, literal
from pytest_layerguard.cli.command_output import UserError, echo, registry
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.measurement.variant_export import Exported


def run(given: argparse.Namespace) -> int:
    """Write the checkpoint, and print how to judge it.

    Raises:
        UserError: If the bet, the variant or the folder is not one that can be exported.
    """
    from pytest_layerguard.measurement.measurer import LocalMeasurer

    known = registry()
    try:
        documents = read_bets(given.file, kinds=known.arguments, metrics=known.metrics)
        document = one_bet(documents, given.file, given.id)
    except (BetFileError, ValueError) as error:
        raise UserError(str(error)) from None
    measurer = LocalMeasurer(Conditions(roots=tuple(given.root)), known)
    bets = bets_of(document.path)
    try:
        variant = measurer.export(
            document,
            bets=bets,
            variant=given.variant,
            folder=given.to,
            readme=lambda made: "\n".join(_readme(document, bets, made)),
        )
    except (MeasurementError, UnavailableError) as error:
        raise UserError(f"{document.path}:{document.line}: {error}") from None
    echo(f"wrote {given.to}: {variant} of {document.bet.id}")
    echo(f"judge it: python -m pytest_layerguard new --candidate {given.to}")
    return 0


def _readme(document: BetDocument, bets: Path, made: Exported) -> Iterator[str]:
    bet = document.bet
    yield f"# {made.variant} of {bet.id}"
    yield ""
    yield f"Written by `python -m pytest_layerguard export` from the bet {code(bet.id)}: {literal(bet.title)}"
    yield ""
    yield f"- claim: {literal(bet.claim_line)}"
    yield from (f"- done: {literal(each)}" for each in describe_interventions(bet))
    yield f"- verdict: {_verdict(document, bets)}"
    yield f"- digest of the bet: {digest(bet)}"
    yield f"- base: {literal(bet.model.name)}"
    yield from (f"- digest of its {name}: {each}" for name, each in made.base["digests"].items())
    yield ""


def _verdict(document: BetDocument, bets: Path) -> str:
    try:
        record = read_record(path_of(bets, document.bet.id))
    except RecordError:
        record = None
    if record is None or not record.is_of(document.bet):
        return "not recorded"
    return str(record.verdict)
