"""`explain`: print what a bet would measure, what that costs, and which doors it stands in."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.bet.errors import BetFileError, many, printable
from pytest_layerguard.bet.reader import read_bets
from pytest_layerguard.bet.task_sources import LmEvalTask, QuestionFile
from pytest_layerguard.catalogue.bet_folders import NAMES, bets_of, root_of
from pytest_layerguard.catalogue.crossing.doors import challenging
from pytest_layerguard.catalogue.crossing.strength import is_weaker
from pytest_layerguard.catalogue.judge import CataloguedBet, Judge
from pytest_layerguard.catalogue.model_facts import ModelLookup
from pytest_layerguard.catalogue.outcome import CHANGED
from pytest_layerguard.catalogue.wording import (
    describe_closes,
    describe_intervention,
    describe_numbers,
)
from pytest_layerguard.cli.check import files
from pytest_layerguard.cli.command_output import (
    PROBLEMS,
    UserError,
    echo,
    echo_error,
    elsewhere,
    registry,
)
from pytest_layerguard.cli.obstacles import Obstacle, obstacles
from pytest_layerguard.environment.allowed_paths import AllowedPaths
from pytest_layerguard.environment.conditions import Conditions
from pytest_layerguard.environment.measurement_errors import MeasurementError, UnavailableError
from pytest_layerguard.measurement.metrics.task_metrics import ACCURACY
from pytest_layerguard.measurement.tasks.bet_tasks import check_criteria
from pytest_layerguard.measurement.tasks.task_size import TaskSize, size_of
from pytest_layerguard.models.loading import LARGEST_IN_FP32

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from pytest_layerguard.bet.arguments import Intervention
    from pytest_layerguard.bet.bet import Bet, Measure
    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.bet.task_sources import TaskSource
    from pytest_layerguard.bet.text_sources import TextSource
    from pytest_layerguard.catalogue.cost import Cost
    from pytest_layerguard.catalogue.model_facts import KnownModel
    from pytest_layerguard.catalogue.recognised import Recognised
    from pytest_layerguard.interventions.registry import Registry

_KEPT: Final = ".pytest_cache/d/layerguard"
"""Where pytest keeps results by default."""
_LABEL: Final = 12
_WIDTH: Final = 100
_FEWEST_WINDOWS: Final = 8
_CHARACTERS: Final = 2
"""The characters of a token, at least: small vocabularies have about 2.5 in English, large ones 4."""
_SPEED: Final = 5e10
"""Floating-point operations per second of one CPU core."""
_GPU_SPEED: Final = 1_000 * _SPEED


def run(given: argparse.Namespace) -> int:
    """Explain every bet of the files."""
    known = registry()
    conditions = Conditions(roots=tuple(given.root))
    lookup = ModelLookup(conditions)
    documents: list[BetDocument] = []
    sums: list[float | None] = []
    status = 0
    for path in files(given.files):
        try:
            documents += read_bets(path, kinds=known.arguments, metrics=known.metrics)
        except BetFileError as error:
            for line in (f"error: {path} cannot be explained", str(error)):
                echo_error(line)
            for line in elsewhere(error.problems):
                echo_error(line)
            status = PROBLEMS
    for place, document in enumerate(documents):
        if place:
            echo()
        explanation = _Explanation(document, known, conditions, lookup)
        try:
            for line in explanation.lines():
                echo(line)
            problems = [*explanation.problems()]
            sums.append(explanation.operations())
        except UserError as error:
            problems = [str(error)]
            sums.append(None)
        for problem in problems:
            echo_error(f"error: {problem}")
            status = PROBLEMS
    if any(path.is_dir() for path in given.files):
        echo()
        echo(_together([document.bet for document in documents], sums))
    return status


def _together(bets: Sequence[Bet], operations: Sequence[float | None]) -> str:
    """Return what all bets cost together, on one line."""
    known = [each for each in operations if each is not None]
    parts = [
        f"{many(len(bets), 'bet')}: about {sum(known):.1g} floating-point operations at most, "
        f"{_seconds(sum(known) / _SPEED)} of one CPU core and {_seconds(sum(known) / _GPU_SPEED)} on a GPU, "
        "loading and kept results aside"
    ]
    if len(known) < len(bets):
        parts.append(f"the cost of {many(len(bets) - len(known), 'bet')} is not known")
    wanted = [bet.needs.gpu for bet in bets if bet.needs is not None and bet.needs.gpu is not None]
    if wanted:
        need = "needs" if len(wanted) == 1 else "need"
        parts.append(f"{many(len(wanted), 'bet')} {need} a GPU, of up to {_bytes(max(wanted))}")
    else:
        parts.append("none needs a GPU")
    return "; ".join(parts)


@dataclass(frozen=True)
class _Explanation:
    """One bet in paragraphs, each with a word before it."""

    document: BetDocument
    known: Registry
    conditions: Conditions
    lookup: ModelLookup

    @cached_property
    def bets(self) -> Path:
        """The bet folder."""
        return bets_of(self.document.path)

    @cached_property
    def models(self) -> list[KnownModel]:
        """The checkpoints; raises UserError for one that is missing."""
        try:
            return list(self.lookup.checkpoints(self.document, self.bets).values())
        except MeasurementError as error:
            key = str(error).partition(":")[0]
            line, column = self.document.position(*key.split("."))
            raise UserError(f"{self.document.path}:{line}:{column}: {error}") from None

    @cached_property
    def candidates(self) -> Recognised:
        """What its candidates are; raises UserError for one that cannot be compared with the base."""
        try:
            return self.lookup.recognised(self.document, self.bets)
        except MeasurementError as error:
            whole = "intervention" if self.document.bet.intervention is not None else "arms"
            line, column = self.document.position(whole)
            raise UserError(f"{self.document.path}:{line}:{column}: {error}") from None

    @cached_property
    def catalogued(self) -> CataloguedBet:
        """The bet with what the catalogue knows of it."""
        judge = Judge(
            self.lookup,
            root_of(self.bets),
            NAMES,
            kinds=self.known.arguments,
            metrics=self.known.metrics,
        )
        return judge.find(self.document, self.bets)

    @cached_property
    def cost(self) -> tuple[Cost | None, str]:
        """What it costs, or None and why that is not known."""
        from pytest_layerguard.catalogue.cost import NoPlanError, cost_of

        model = self.models[0]
        layers = model.facts.layers
        if layers is None:
            return None, f"the model's layers are not known: {model.missing}"
        try:
            return cost_of(self.document.bet, self.known, layers, model.facts.experts or 0), ""
        except NoPlanError as error:
            return None, str(error)

    def lines(self) -> Iterator[str]:
        """Yield the whole explanation."""
        bet, model = self.document.bet, self.models[0]
        place = printable(f"{self.document.path}:{self.document.line}")
        yield f"{bet.id} ({printable(bet.title)}), {bet.status}, {place}"
        yield ""
        yield from _paragraph("claims", [bet.claim_line])
        yield from _paragraph("model", (_model(each, bet) for each in self.models))
        yield from _paragraph("does", _interventions(bet))
        for arm, candidate in self.candidates.items():
            named = () if arm is None else (f"{arm}:",)
            findings = (f"{kind}: {sentence}" for kind, sentence in candidate.findings)
            yield from _paragraph("candidate", (*named, *candidate.facts))
            yield from _paragraph("recognised", findings)
        cost, why = self.cost
        if cost is not None:
            names = f"{many(len(cost.variants), 'variant')}: {_few(cost.variants)}"
            yield from _paragraph("", [names])
        variants = len(cost.variants) if cost else 1
        yield from _paragraph("measures", _measurement(bet.measure, variants, self.sizes))
        yield from _paragraph("judges", _criteria(bet))
        costs = _costs(bet, cost, why, model, self.sizes, self.operations())
        yield from _paragraph("costs", (*costs, *self._took()))
        yield from _paragraph("doors", self._doors())

    def problems(self) -> Iterator[str]:
        """Yield what will prevent measuring it, as far as its files show."""
        found = [each.facts for each in self.models]
        depths = [facts.layers for facts in found if facts.layers is not None]
        dense = any(facts.experts == 0 for facts in found)
        file = printable(str(self.document.path))
        if self.catalogued.case.tampered:
            yield f"{file}:{self.document.line}: TAMPERED: {CHANGED}"
        found_here = [
            *obstacles(self.document, self.bets, self.conditions, depths, dense=dense),
            *self._of_tasks(),
        ] or [*self._impossible()]
        for each in found_here:
            line, column = self.document.position(*each.key)
            yield f"{file}:{line}:{column}: {printable(each.message)}"

    def operations(self) -> float | None:
        """Return about how many floating-point operations it takes at most, or None where that is not known."""
        bet, facts = self.document.bet, self.models[0].facts
        cost, _ = self.cost
        if cost is None or facts.parameters is None or bet.measure.tokens is None:
            return None
        known = [each for each in self.sizes.values() if isinstance(each, TaskSize)]
        work = cost.work(
            bet.measure,
            facts,
            sum(map(_tokens, known)),
            sum(each.generated for each in known) * (1 + len(cost.variants)),
        )
        # 2 operations for each parameter and token, all experts counted.
        return 2 * work * len(bet.model.checkpoints())

    @cached_property
    def sizes(self) -> Mapping[str, TaskSize | Exception]:
        """What each task asks, or why that is not known."""
        reach = AllowedPaths.of(self.document.path, self.bets, self.conditions)
        found: dict[str, TaskSize | Exception] = {}
        if self.document.bet.results is not None:
            return found
        for name, source in (self.document.bet.measure.tasks or {}).items():
            try:
                found[name] = size_of(source, f"measure.tasks.{name}", reach, self.conditions)
            except (MeasurementError, UnavailableError, OSError) as error:
                found[name] = error
        return found

    def _of_tasks(self) -> Iterator[Obstacle]:
        """Yield the tasks that cannot be asked, and criteria that name what a task does not give."""
        for name, found in self.sizes.items():
            try:
                if isinstance(found, TaskSize):
                    check_criteria(self.document.bet, name, found.gives)
                elif not isinstance(found, UnavailableError):
                    raise found
            except (MeasurementError, OSError) as error:
                key = str(error).partition(":")[0]
                yield Obstacle(tuple(key.split(".")), str(error))

    def _impossible(self) -> Iterator[Obstacle]:
        """Yield what an intervention refuses of a model of so many layers and experts."""
        from pytest_layerguard.catalogue.cost import ImpossiblePlanError, NoPlanError, cost_of

        facts = self.models[0].facts
        if facts.layers is None or facts.experts is None:
            return
        try:
            cost_of(self.document.bet, self.known, facts.layers, facts.experts)
        except ImpossiblePlanError as error:
            key = ("intervention",) if error.arm is None else ("arms", error.arm)
            yield Obstacle(key, str(error))
        except NoPlanError:
            return

    def _took(self) -> Iterator[str]:
        """Yield how long it took in this project, where pytest still has the result."""
        from pytest_layerguard.measurement.result_cache import ResultCache, identity, on_request

        try:
            key = identity(self.document, self.bets, self.conditions, self.known)
        except (MeasurementError, UnavailableError):
            return
        found = (
            None
            if key is None
            else ResultCache(root_of(self.bets) / _KEPT).find(key, on_request(self.document.bet))
        )
        if found is not None:
            yield f"Measured here already, in {found.seconds:.1f} s; nothing has changed since."

    def _doors(self) -> Iterator[str]:
        bet, found = self.document.bet, self.catalogued
        crossed, catalogue = found.crossed, found.catalogue
        if bet.closes is not None:
            yield f"It closes {describe_closes(bet.closes)}."
        if bet.closes is not None and crossed:
            others = ", ".join(dict.fromkeys(each.id for each in crossed))
            yield f"Closed too, for this model and what is done to it: by {others}."
            return
        for each in crossed:
            how = "perhaps stands" if each.doubt else "stands"
            at = each.entry.place(root_of(self.bets))
            yield f"It {how} in the door that {each.id} closed ({at}), with {'; '.join(each.parts)}."
            yield from (f"{line[:1].upper()}{line[1:]}." for line in describe_numbers(each.entry))
        yield from (f"Wrong: {mistake}." for mistake in found.mistaken)
        if crossed and not found.mistaken:
            yield from _consequence(found)
        for unread in catalogue.unreadable:
            yield f"Not read, and may close more: {unread}."
        if not crossed and not catalogue.unreadable:
            read = many(len(catalogue.entries), "bet")
            yield f"It stands in no closed door ({read} of the catalogue read)."


def _consequence(found: CataloguedBet) -> Iterator[str]:
    """Yield what follows for a bet that stands in doors."""
    bars = " and ".join(dict.fromkeys(each.bars for each in found.crossed))
    left = found.unnamed
    if left and found.case.is_newcomer:
        word = "SKIPPED" if all(each.absent for each in left) else "CROSSED"
        yield (
            f"So it will not be measured: {word}. With "
            f"{challenging(each.id for each in found.crossed)} it is, and must also meet {bars}."
        )
        for each in left:
            yield from (f"{line[:1].upper()}{line[1:]}." for line in each.strength(found.bet))
            if is_weaker(found.bet, each.entry):
                yield (
                    f"With 'acknowledges: [{each.id}]' it is measured too, judged by its own criteria, "
                    f"and must not be CATASTROPHIC by that of {each.id}."
                )
    elif found.challenged:
        named = ", ".join(dict.fromkeys(each.id for each in found.challenged))
        yield f"It challenges {named}, so it must also meet {bars}."
    elif found.acknowledged:
        named = ", ".join(dict.fromkeys(each.id for each in found.acknowledged))
        yield f"It acknowledges {named}, so it must not be CATASTROPHIC by that criterion either."


def _model(model: KnownModel, bet: Bet) -> str:
    numbers = (
        (model.facts.parameters, "parameters"),
        (model.facts.layers, "layers"),
        (model.facts.experts, "experts a layer"),
    )
    facts = ", ".join(f"{short(value)} {name}" for value, name in numbers if value)
    known = f": {facts}" if facts else ""
    partly = "" if model.facts.layers else "not all is known: "
    missing = f"; {partly}{model.missing}" if model.missing else ""
    stream = ", layers read from disk one by one" if bet.model.placement == "stream" else ""
    return f"{model.shown}{known}{stream}{missing}"


def _interventions(bet: Bet) -> Iterator[str]:
    for arm, interventions in bet.arm_interventions.items():
        steps = (f"{describe_intervention(each)}: {_meaning(each)}" for each in interventions)
        yield ("" if arm is None else f"{arm}: ") + ", then ".join(steps)


def _meaning(intervention: Intervention) -> str:
    meaning = (type(intervention.arguments).__doc__ or "").strip().splitlines()[0]
    # Docstrings mark code with backticks, which a terminal does not render.
    return f"{meaning[:1].lower()}{meaning[1:]}".rstrip(".").replace("``", "'")


def _tokens(size: TaskSize) -> int:
    """Return about how many tokens the texts of a task have, at most."""
    return size.characters // _CHARACTERS


def _measurement(
    measure: Measure, variants: int, sizes: Mapping[str, TaskSize | Exception]
) -> Iterator[str]:
    from pytest_layerguard.catalogue.cost import clusters, windows

    texts = list(measure.named_texts.items())
    for name, text in texts:
        amount = "all tokens" if measure.tokens is None else f"{measure.tokens:,} tokens"
        of = f"{name}, " if name is not None else ""
        yield f"{amount} of {of}{_text(text)}; base and variants on the same tokens"
    if measure.preset is not None:
        size = f", in windows of {measure.window} tokens" if measure.window else ""
        yield f"by the contract of {measure.preset}{size}"
    elif measure.tokens is not None:
        window = measure.window or 512
        count = windows(measure)
        default = "" if measure.window else ", or the model's context if that is shorter"
        yield f"{many(count, 'window')} of {window} tokens{default}"
        if clusters(measure) < _FEWEST_WINDOWS:
            apart = ", those that overlap counted as one" if measure.stride else ""
            yield f"fewer than 8 windows{apart}: no intervals, the points decide"
        else:
            together = f", which hold together over {variants} variants" if variants > 1 else ""
            yield f"95 % intervals, clustered by window{together}"
    if measure.sample is not None:
        prompts = many(len(measure.sample.prompts), "prompt")
        yield f"unique tokens of {measure.sample.tokens} greedy ones after {prompts}"
    if measure.generate is not None:
        prompts = many(len(measure.generate.prompts), "prompt")
        yield f"free-running text of up to {measure.generate.tokens} tokens after {prompts}"
    for name, task in (measure.tasks or {}).items():
        asked = sizes.get(name)
        gives = asked.gives if isinstance(asked, TaskSize) else ACCURACY
        unit, what = (
            ("question", "accuracy, with 95 % intervals, the change paired by question")
            if gives == ACCURACY
            else ("document", "perplexity, with 95 % intervals, the ratio paired by document")
        )
        if isinstance(asked, TaskSize):
            of = many(asked.questions, unit)
        else:
            of = f"the first {many(task.limit, unit)}" if task.limit else f"all {unit}s"
            if isinstance(task, LmEvalTask):
                what = "accuracy or perplexity, with 95 % intervals, the change paired"
        yield f"{name}, {of} of {_task(task)}: {what}"
    if measure.speak is not None:
        yield "the eye test: shown, never judged"


def _text(text: TextSource) -> str:
    given = text.model_dump(mode="json", exclude_none=True)
    if "reference" in given:
        return f"the package's {given['reference']} text"
    return str(given.get("file") or given.get("dataset"))


def _task(task: TaskSource) -> str:
    if isinstance(task, LmEvalTask):
        shots = "" if task.shots is None else f", {many(task.shots, 'example')} before each"
        chat = ", by the model's chat template" if task.chat else ""
        return f"{task.lm_eval} by lm-evaluation-harness{shots}{chat}"
    return task.file if isinstance(task, QuestionFile) else "the package's own"


def _criteria(bet: Bet) -> Iterator[str]:
    for word in ("strict", "lenient", "catastrophic"):
        criterion = getattr(bet.criteria, word)
        if criterion is not None:
            yield f"{word.upper()} if {criterion}"
    if bet.placeholders:
        yield f"Still placeholders, so that nothing is recorded: {', '.join(bet.placeholders)}."
    stands = "must not hold" if bet.status == "falsified" else "must hold"
    yield f"The claim {stands}, or the build fails."


def _costs(
    bet: Bet,
    cost: Cost | None,
    why: str,
    model: KnownModel,
    sizes: Mapping[str, TaskSize | Exception],
    operations: float | None,
) -> Iterator[str]:
    if bet.results is not None:
        yield "No model is loaded: it was measured elsewhere."
        return
    parameters, layers = model.facts.parameters, model.facts.layers
    if cost is None or layers is None:
        yield f"Not known: {why}"
    else:
        saved = "" if cost.alone == cost.shared else f"; {cost.alone:,} if nothing were shared"
        yield (
            f"{cost.shared:,} layer evaluations over all tokens, base included{saved}; "
            f"the base alone takes {layers:,}."
        )
        vocabulary = model.facts.vocabulary
        of = f" of a vocabulary of {vocabulary:,}" if vocabulary is not None else ""
        yield f"Then {many(cost.heads, 'head')}{of}, each over all scored tokens."
        texts = len(bet.measure.named_texts)
        if texts > 1:
            yield f"All that {texts} times: for each text."
        if cost.choosing:
            heads = f" and {many(cost.compared, 'head')}" if cost.compared else ""
            yield f"Before them {cost.choosing:,} evaluations{heads} to decide what is done."
        if cost.training:
            yield f"Training goes through {cost.training:,} windows, forward and backward."
    checkpoints = len(bet.model.checkpoints())
    if checkpoints > 1:
        yield f"All that {checkpoints} times: for each checkpoint."
    if parameters is not None:
        width = _width(bet, parameters)
        lies = "on disk" if bet.model.placement == "stream" else "in memory"
        yield f"About {_bytes(parameters * width)} of weights {lies}."
    for name, size in sizes.items():
        if not isinstance(size, TaskSize):
            reason = str(size).removeprefix(f"measure.tasks.{name}: ").partition(";")[0]
            why = f": {reason}" if isinstance(size, UnavailableError) else ""
            yield f"What {name} asks is not counted{why}."
            continue
        through = f" through the same {cost.shared:,} layer evaluations" if cost else ""
        writes = (
            f", and up to {size.generated:,} new tokens of each model" if size.generated else ""
        )
        yield (
            f"{name} takes {many(size.texts, 'text')} of {size.characters:,} characters{through}{writes}."
        )
    if operations is not None:
        yield (
            f"About {operations:.1g} floating-point operations at most: "
            f"{_seconds(operations / _SPEED)} of one CPU core, loading aside."
        )
    if bet.needs is not None and bet.needs.gpu is not None:
        yield f"It needs a GPU of {_bytes(bet.needs.gpu)}."


def _width(bet: Bet, parameters: int) -> int:
    given = bet.model.dtype
    if given is not None:
        return 4 if given == "float32" else 2
    return 4 if parameters <= LARGEST_IN_FP32 else 2


def _seconds(seconds: float) -> str:
    if seconds < 1:
        return "less than a second"
    if seconds < 120:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 7200 else f"about {seconds / 3600:.0f} h"


def _bytes(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:7])}, ... {names[-1]}"


def _paragraph(word: str, sentences: Iterable[str]) -> Iterator[str]:
    for place, sentence in enumerate(sentences):
        yield from textwrap.wrap(
            printable(sentence),
            _WIDTH,
            initial_indent=f"{word if place == 0 else '':<{_LABEL}}",
            subsequent_indent=" " * _LABEL,
            break_long_words=False,
            break_on_hyphens=False,
        )
