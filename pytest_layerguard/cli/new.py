"""`new`: write a bet file that runs as it is."""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.bet import REFERENCE_NAMES, SLUG
from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.bet.criteria.metrics import METRICS
from pytest_layerguard.bet.criteria.parse import RESERVED
from pytest_layerguard.catalogue.bet_folders import Catalogue, bets_of
from pytest_layerguard.cli.bet_template import ARGUMENTS, TASK, NewBet
from pytest_layerguard.cli.command_output import UserError, echo, registry
from pytest_layerguard.environment import file_digests
from pytest_layerguard.environment.allowed_paths import expanded
from pytest_layerguard.environment.atomic_write import write_whole
from pytest_layerguard.environment.conditions import ROOT_FLAG, Conditions

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.interventions.registry import Registry

_SCHEMA: Final = "schema.json"
_HUB: Final = re.compile(r"([\w.-]+/[\w.-]+)(?:@([0-9a-f]{40}))?")

_LONGEST: Final = 36
"""Characters of a task's name, before a number where another task has the same."""
_BOUNDS: Final = {
    "<=": ("no more than", "at most"),
    "<": ("less than", "less than"),
    ">=": ("at least", "at least"),
    ">": ("more than", "more than"),
}
"""Words for a bound, of something that is counted and of something else."""


@dataclass(frozen=True)
class _Prompt:
    """Asks for values that were not given, if a user sits at the terminal."""

    given: argparse.Namespace
    interactive: bool

    def __call__(self, name: str, question: str, default: str, read: Callable[[str], Any]) -> Any:
        """Return the value given, the answer or the default, converted by `read`.

        Raises:
            UserError: If a value given cannot be read; after an invalid answer the user is asked again.
        """
        value = getattr(self.given, name)
        if value is not None or not self.interactive:
            return read(default if value is None else value)
        while True:
            answer = input(f"{question} [{default}]: ").strip() or default
            try:
                return read(answer)
            except UserError as error:
                echo(f"  {error}")


def run(given: argparse.Namespace) -> int:
    """Write the file, and print what to do next."""
    known = registry()
    ask = _Prompt(given, interactive=not given.no_input and sys.stdin.isatty())
    if ask.interactive and given.intervention is None:
        echo(f"interventions: {', '.join(known)}")
    if given.candidate is None:
        what, kinds, swept = ask(
            "intervention",
            "what is done to the model: a name, or such as prune_weights: {sparsity: 0.5}",
            "skip_layers",
            lambda text: intervention(text, known),
        )
        titled = _titled(kinds, swept)
    else:
        what, kinds, swept = "", (), False
        titled = f"Judge {given.candidate.resolve().name} against its base"
    title = ask("title", "title, a few words", titled, str)
    id_ = ask("id", "id", _slug(given.path.stem if given.path else title), _id)
    path = given.path or Path("bets", f"{id_}.yaml")
    _free(path)
    limit, strict = "perplexity_ratio <= 3", "perplexity_ratio <= 1.5"
    if given.candidate is not None:
        what = _candidate(given.candidate, path)
        # A perplexity below the base's is no merit, so the KL is judged as well.
        limit = "perplexity_ratio <= 1.1 and kl <= 0.1"
        strict = "perplexity_ratio <= 1.02 and kl <= 0.02"
    tasks: dict[str, str] = {}
    for each in given.task:
        tasks[_task_name(each, tasks)] = _task(each, path)
    elsewhere = kinds == ("load_results",)
    if elsewhere:
        tasks = tasks or {TASK: "{lm_eval: arc_easy}"}
    limit, strict = (
        _bars([] if elsewhere else [bar], tasks, lost, swept=swept)
        for bar, lost in ((limit, 0.05), (strict, 0.02))
    )
    subject = ask(
        "model",
        "model: reference, reference-wide, a folder, or ORG/NAME@COMMIT",
        "reference",
        lambda text: model(text, path),
    )
    read = ask(
        "text",
        "text to measure on: a file, or the package's own",
        "heldout",
        lambda text: _text(text, path),
    )
    lenient = ask("lenient", "the claim holds when", limit, str)
    claim = ask("claim", "claim, in a sentence", _claimed(kinds, lenient), str)
    chosen = given.lenient is not None or lenient != limit
    left = {"strict": chosen or given.strict is not None, "lenient": chosen}
    bet = NewBet(
        id=id_,
        title=title,
        claim=claim,
        status=given.status,
        model=subject,
        intervention=what,
        text=read,
        tokens=given.tokens,
        window=given.window,
        tasks=tasks,
        lenient=lenient,
        # A default bar beside one that the user chose could be the looser of the two.
        strict=given.strict or (None if chosen else strict),
        catastrophic=given.catastrophic,
        challenges=tuple(given.challenges),
        acknowledges=tuple(given.acknowledges),
        schema=_schema_line(path),
        placeholders=tuple(name for name, given_ in left.items() if not given_),
    )
    document = write(path, str(bet), known)
    roots = outside(document)
    for line in (*_next(document, roots), *_doors(document, Conditions(roots=roots), known)):
        echo(line)
    return 0


def intervention(text: str, known: Registry) -> tuple[str, tuple[str, ...], bool]:
    """Read an intervention: a name alone, or YAML such as `skip_layers: {layers: 3}`.

    Returns:
        YAML on one line, the kinds in order, and whether they sweep.

    Raises:
        UserError: If there is no such intervention, or its arguments are wrong.
    """
    from pydantic import TypeAdapter, ValidationError

    from pytest_layerguard.bet.arguments import Interventions
    from pytest_layerguard.bet.reader import key_of
    from pytest_layerguard.bet.yaml import read_documents

    text = " ".join(text.split())
    if text in ARGUMENTS:
        text = f"{text}: {ARGUMENTS[text]}"
    documents, fault = read_documents(text)
    faults = [*(fault for document in documents for fault in document.faults)]
    if fault is not None or faults or len(documents) != 1:
        raise UserError(
            f"intervention: {(fault or faults[0]).message if fault or faults else text}"
        )
    try:
        done: Any = TypeAdapter(Interventions).validate_python(
            documents[0].data, context={"kinds": known.arguments}
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = key_of(first["loc"], documents[0], "intervention")
        raise UserError(f"{key}: {first['msg']}") from None
    swept = any(each.arguments.is_sweep for each in done)
    return text, tuple(each.kind for each in done), swept


def _candidate(given: Path, bet: Path) -> str:
    """Return the intervention that puts a checkpoint in the base's place, as YAML.

    Raises:
        UserError: If there is none.
    """
    from pytest_layerguard.environment.measurement_errors import MeasurementError
    from pytest_layerguard.models.model_folder import as_candidate

    try:
        arguments = as_candidate(expanded(given))
    except MeasurementError as error:
        raise UserError(f"candidate: {error}") from None
    (key, found), *digest = arguments.items()
    more = "".join(f", {name}: {value}" for name, value in digest)
    return f"load_checkpoint: {{{key}: {_from(bet, Path(found))}{more}}}"


def model(text: str, bet: Path) -> str:
    """Read a model as the YAML of a bet file at `bet`.

    Raises:
        UserError: If there is no such model, or no commit of it is given and the hub does not answer.
    """
    from pytest_layerguard.bet.errors import suggestion

    if text in REFERENCE_NAMES:
        return text
    folder = expanded(text)
    if folder.is_dir():
        _refuse_parts(folder, text)
        if not (folder / "config.json").is_file():
            raise UserError(f"model: {text} has no config.json; allowed: a folder with a model")
        return f"{{path: {_from(bet, folder)}}}"
    found = _HUB.fullmatch(text)
    if found is None or text.startswith("."):
        close = suggestion(text, REFERENCE_NAMES) or ";"
        raise UserError(
            f"model: there is no {text!r}{close} allowed: {', '.join(REFERENCE_NAMES)}, "
            "a folder with a model, ORG/NAME@COMMIT"
        )
    # In quotes: a commit of digits alone is a number in YAML.
    return f'{{hub: {found[1]}, revision: "{found[2] or _commit(found[1])}"}}'


def _refuse_parts(folder: Path, text: str) -> None:
    from pytest_layerguard.environment.measurement_errors import MeasurementError
    from pytest_layerguard.models.model_folder import refuse_parts

    try:
        refuse_parts({entry.name for entry in folder.iterdir()}, f"model: {text}")
    except MeasurementError as error:
        raise UserError(str(error)) from None


def _commit(name: str) -> str:
    """Return the current commit of a model on the hub; a branch may move, a bet is about one commit."""
    from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
    from pytest_layerguard.models.hub import Repository

    try:
        return Repository("model", name, None).listing()[0]
    except (MeasurementError, UnavailableError) as error:
        raise UserError(f"model: no commit was given and the hub has no answer: {error}") from None


def _text(text: str, bet: Path) -> str:
    if text in ("heldout", "training"):
        return f"{{reference: {text}}}"
    file = expanded(text)
    if not file.is_file():
        raise UserError(f"text: there is no file {text!r}; allowed: a text file, or heldout")
    form = "dataset: parquet, " if file.suffix == ".parquet" else ""
    digest = file_digests.of_file(file).removeprefix("sha256:")
    return f"{{{form}file: {_from(bet, file)}, sha256: {digest}}}"


def _task(text: str, bet: Path) -> str:
    """Read a task as the YAML of a bet file at `bet`."""
    if text == "questions":
        return "{reference: questions}"
    file = expanded(text)
    if file.suffix != ".jsonl":
        return f"{{lm_eval: {text}}}"
    if not file.is_file():
        raise UserError(f"task: there is no file {text!r}; allowed: a file of questions")
    digest = file_digests.of_file(file).removeprefix("sha256:")
    return f"{{file: {_from(bet, file)}, sha256: {digest}}}"


def _task_name(text: str, taken: Collection[str]) -> str:
    """Return the name of a task in the bet, which the criteria write before a dot and no other task has."""
    stem = "stories" if text == "questions" else Path(text).stem
    name = re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_")
    if not name[:1].isalpha() or name in METRICS or name in RESERVED:
        name = f"{TASK}_{name}".rstrip("_")
    name = name[:_LONGEST]
    numbered = (f"{name}_{number}" for number in count(2))
    return next(each for each in (name, *islice(numbered, len(taken))) if each not in taken)


def _bars(bars: Sequence[str], tasks: Iterable[str], lost: float, *, swept: bool) -> str:
    """Return a criterion of bars, and of how much of its accuracy a task may lose."""
    joined = " and ".join([*bars, *(f"{task}.accuracy_change >= -{lost}" for task in tasks)])
    return f"any({joined})" if swept else joined


def write(path: Path, text: str, known: Registry) -> BetDocument:
    """Write a valid bet file that does not exist yet, and the schema for editors.

    Returns:
        The bet.

    Raises:
        UserError: With every error in it, or why it cannot be written.
    """
    from pytest_layerguard.bet.errors import BetFileError
    from pytest_layerguard.bet.reader import parse_bets
    from pytest_layerguard.bet.schema import bet_schema, written

    try:
        (document,) = parse_bets(text, path, kinds=known.arguments, metrics=known.metrics)
    except BetFileError as error:
        raise UserError(f"what was given is no sound bet; nothing was written\n{error}") from None
    catalogue = Catalogue.load([bets_of(path)], kinds=known.arguments, metrics=known.metrics)
    for entry in catalogue.of(document.bet.id):
        raise UserError(
            f"{document.bet.id!r} is the id of {entry.document.path}:{entry.document.line}; "
            "give another with --id"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        beside = path.parent / _SCHEMA
        if _schema_line(path) == _SCHEMA and not beside.exists():
            write_whole(beside, written(bet_schema(known.arguments)))
    except FileExistsError:
        _free(path)
        raise UserError(f"{path} cannot be written: {path.parent} is no folder") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
    return document


def outside(document: BetDocument) -> tuple[Path, ...]:
    """Return the folders outside the bet's own tree that it reads from, which the user must allow."""
    from pytest_layerguard.bet.arguments import LoadCheckpoint
    from pytest_layerguard.bet.text_sources import FileText, LocalDatasetText
    from pytest_layerguard.environment.allowed_paths import AllowedPaths
    from pytest_layerguard.environment.conditions import Conditions

    bet = document.bet
    reach = AllowedPaths.of(document.path, bets_of(document.path), Conditions())
    texts = bet.measure.named_texts.values()
    files = [text.file for text in texts if isinstance(text, FileText | LocalDatasetText)]
    folders = [reach.folder.joinpath(file).resolve().parent for file in files]
    sources = [*bet.model.checkpoints().values()]
    sources += [
        each.arguments.source
        for each in bet.interventions
        if isinstance(each.arguments, LoadCheckpoint)
    ]
    folders += [
        reach.folder.joinpath(source.name).resolve() for source in sources if source.is_local
    ]
    found = (each.parent if each.is_file() else each for each in folders)
    return tuple(folder for folder in dict.fromkeys(found) if not reach.holds(folder))


def _schema_line(path: Path) -> str:
    """Return where editors find the schema: in the package if that lies in this project, or beside the bet."""
    from pytest_layerguard.bet.schema import SHIPPED

    here = Path.cwd()
    inside = SHIPPED.is_relative_to(here) and path.absolute().is_relative_to(here)
    return _from(path, SHIPPED) if inside and "site-packages" not in SHIPPED.parts else _SCHEMA


def _free(path: Path) -> None:
    if path.exists():
        raise UserError(f"{path} exists and is not overwritten; give another path")
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise UserError(f"{path} is no bet file; allowed: a name that ends in .yaml or .yml")


def _id(text: str) -> str:
    if not re.fullmatch(SLUG, text):
        raise UserError(f"id: {text!r}; allowed: lower-case letters, digits and '-', at most 80")
    return text


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80] or "bet"


def _from(bet: Path, target: Path) -> str:
    """Return a path as YAML: relative to the bet file, but as it was given if it is absolute and leaves the project."""
    project = bets_of(bet.absolute()).parent.resolve()
    if target.is_absolute() and not target.resolve().is_relative_to(project):
        written = target.as_posix()
    else:
        try:
            written = Path(os.path.relpath(target.resolve(), bet.parent.resolve())).as_posix()
        except ValueError:
            raise UserError(f"{target} lies on another drive than the bet file") from None
    return written if re.fullmatch(r"[\w./-]+", written) else f'"{written}"'


def _titled(kinds: tuple[str, ...], swept: bool) -> str:
    done = ", then ".join(kind.replace("_", " ") for kind in kinds)
    each = ", one at a time" if swept else ""
    return f"{done[:1].upper()}{done[1:]}{each}"


def _claimed(kinds: tuple[str, ...], lenient: str) -> str:
    """Return the claim that a criterion makes true, of a candidate where nothing is done."""
    from pytest_layerguard.bet.criteria.evaluate import Expression
    from pytest_layerguard.bet.criteria.implication import normal
    from pytest_layerguard.bet.criteria.parse import (
        Comparison,
        CriterionError,
        Junction,
        Name,
        Number,
        Quantifier,
    )

    done = f"After {' and then '.join(kinds)}" if kinds else ""
    plain = f"{done or 'Of the candidate'}, {lenient}."
    try:
        node = normal(Expression.parse(lenient).node)
    except CriterionError:
        # Said when the file is written, with its place.
        return plain
    subject = f"{done} the model has" if kinds else "The candidate has"
    if isinstance(node, Quantifier):
        each = {"any": "at least one of its variants has", "all": "each of its variants has"}
        if node.word not in each:
            return plain
        subject, node = f"{done} {each[node.word]}", node.operand
    bars = node.operands if isinstance(node, Junction) and node.word == "and" else (node,)
    bounds: list[str] = []
    for bar in bars:
        match bar:
            case Comparison((Name() as metric, Number() as limit), (sign,)) if sign in _BOUNDS:
                bounds.append(_bounded(str(metric), sign, short(limit.value)))
            case _:
                return plain
    return f"{subject} {' and '.join(bounds)}."


def _bounded(metric: str, sign: str, bar: str) -> str:
    counted, of = _BOUNDS[sign]
    match metric:
        case "perplexity_ratio":
            return f"{counted} {bar}x the perplexity"
        case "unique_tokens":
            return f"{counted} {bar} unique tokens"
        case _:
            return f"{metric} of {of} {bar}"


def _next(document: BetDocument, roots: Sequence[Path]) -> list[str]:
    path, left = document.path, document.bet.placeholders
    bets = bets_of(path)
    # Joined by '=': pytest takes a folder that stands alone as an argument and derives its root from it.
    allowed = "".join(f" {ROOT_FLAG}={shlex.quote(str(root))}" for root in roots)
    named = "" if bets.name == "bets" else f" -o layerguard_bets={bets.name}"
    lines = [
        f"wrote {path}",
        *([f"set your own bars:   {', '.join(left)} in place of the placeholders"] if left else []),
        f"what it would cost: python -m pytest_layerguard explain {path}{allowed}",
        f"judge it:            pytest{named} {path}{allowed}",
    ]
    if roots:
        lines.append(
            f"It reads outside of {bets.absolute().parent}, which a run must allow; what lies inside "
            "needs no option."
        )
    return lines


def _doors(document: BetDocument, conditions: Conditions, known: Registry) -> Iterator[str]:
    """Yield each closed door that a new bet stands in."""
    from pytest_layerguard.bet.errors import printable
    from pytest_layerguard.catalogue.bet_folders import NAMES, root_of
    from pytest_layerguard.catalogue.judge import Judge
    from pytest_layerguard.catalogue.model_facts import ModelLookup
    from pytest_layerguard.environment.measurement_errors import MeasurementError

    bets = bets_of(document.path)
    judge = Judge(
        ModelLookup(conditions), root_of(bets), NAMES, kinds=known.arguments, metrics=known.metrics
    )
    try:
        found = judge.find(document, bets)
    except MeasurementError as error:
        yield f"not measurable yet:  {printable(str(error))}"
        return
    for each in found.unnamed if found.case.is_newcomer else ():
        how = "perhaps closed" if each.doubt else "closed"
        at = each.entry.place(judge.root)
        yield f"{how} by {each.id} ({at}): {'; '.join(each.parts)}; so CROSSED, unmeasured, as it is"
