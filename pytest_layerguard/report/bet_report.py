"""One view of a judged bet: what every report shows of it, as plain data that crosses processes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping  # noqa: TC003 - pydantic reads the annotations
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

from pydantic import TypeAdapter

from pytest_layerguard.bet.criteria.evaluate import Decider  # noqa: TC001 - as above
from pytest_layerguard.bet.criteria.interval import short
from pytest_layerguard.catalogue.outcome import MissedBar  # noqa: TC001 - as above
from pytest_layerguard.environment.measurement_errors import Lack  # noqa: TC001 - as above
from pytest_layerguard.measurement.results import (  # noqa: TC001 - as above
    BaseResult,
    BetResult,
    VariantResult,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

OUTCOMES: Final = ("failed", "passed", "skipped")
_ORDER: Final = (
    "TAMPERED", "STALE", "OVERTURNED", "REGRESSED", "CROSSED", "ERROR", "UNMEASURED", "UNRECORDED", "CATASTROPHIC",
    "FALSIFIED",
    "INCONCLUSIVE", "LENIENT", "STRICT", "SKIPPED",
)  # fmt: skip
_PLACE: Final = re.compile(r"^(?P<file>.+?):(?P<line>\d+):(?P<column>\d+): (?P<message>.*)$")
_LONGEST: Final = 20_000


@dataclass(frozen=True)
class Criterion:
    """A criterion as written; with its truth and the numbers filled in, where it was judged."""

    level: str
    written: str
    truth: str | None = None
    filled: str | None = None
    decided: bool = False
    deciders: tuple[Decider, ...] = ()

    @property
    def decider(self) -> Decider | None:
        """The first comparison that its truth rests on."""
        return next(iter(self.deciders), None)


@dataclass(frozen=True)
class Threshold:
    """A number that a criterion compares a metric with: ``strict`` wants ``metric <= 1.5``."""

    level: str
    prefix: tuple[str, ...]
    metric: str
    sign: str
    value: float

    @property
    def label(self) -> str:
        """The comparison as it is printed: ``strict \u2264 1.5``."""
        sign = {"<=": "\u2264", ">=": "\u2265"}.get(self.sign, self.sign)
        return f"{self.level} {sign} {short(self.value)}"

    def met(self, value: float) -> bool:
        """Return whether a value satisfies the comparison."""
        return {
            "<": value < self.value,
            "<=": value <= self.value,
            ">": value > self.value,
            ">=": value >= self.value,
        }[self.sign]

    def is_about(self, variant: VariantResult) -> bool:
        """Return whether the criterion compares this variant."""
        return all(name in (variant.arm, variant.text, variant.checkpoint) for name in self.prefix)


@dataclass(frozen=True)
class PublishedEvidence:
    """A piece of evidence: shown, never compared as if it had been measured."""

    source: str
    model: str | None
    text: str | None
    verdict: str | None
    figures: Mapping[str, Mapping[str, float]]
    note: str | None


@dataclass(frozen=True)
class ClosedDoor:
    """A falsification whose door a bet stands in: its place, its numbers, and what to do instead."""

    id: str
    title: str
    claim: str
    file: str
    line: int
    closes: str
    numbers: tuple[str, ...]
    standing: str
    instead: str


@dataclass(frozen=True)
class CandidateReport:
    """What a checkpoint is that was put in the base's place.

    Attributes:
        name: The variant's name, after its arm where there are several.
        facts: What the files are, a line each.
        findings: What was done to the base: the kind and a sentence.
        floor: What its dtype alone does to the base, where it computes in another one; or None.
    """

    name: str
    facts: tuple[str, ...] = ()
    findings: tuple[tuple[str, str], ...] = ()
    floor: str | None = None

    def lines(self) -> Iterator[str]:
        """Yield all of it, a line each."""
        yield f"{self.name} is {'; '.join(each.strip() for each in self.facts)}"
        for kind, sentence in self.findings:
            yield f"{self.name} is recognised as {kind}: {sentence}"
        if self.floor is not None:
            yield f"{self.name}: {self.floor}"


@dataclass(frozen=True)
class BetReport:
    """A bet and its outcome, cut to a readable length.

    Attributes:
        id: The bet's id.
        file: Its path from the root directory.
        line: The line on which it begins, counted from 1.
        status: Its status in the bet file: proposed, upheld or falsified.
        outcome: pytest's word for the test: passed, failed or skipped.
        word: The word for its outcome, such as STRICT or CROSSED.
        digest: The bet's digest.
        model: The model's name.
        intervention: What is done to the model, in a few words.
        verdict: What its criteria say of the measurement, or None without one.
        verdict_before: The verdict of its record before this run, or None without one.
        title: Its title.
        claim: Its claim, on one line.
        notes: Its notes, or None.
        links: Its links.
        steps: What is done to the model with all arguments, one line for each arm.
        criteria: Its criteria, as written and as measured.
        metrics: The metrics that the criteria name, in their order.
        thresholds: The numbers that the criteria compare a metric with.
        evidence: Published figures, which were not measured here.
        messages: Why it failed or was skipped.
        warnings: What to look at, whether it passed or not.
        remarks: What was reviewed with its record: nothing to do.
        error_at: The line and column of the key that an ERROR is about, or None.
        recorded: Which record was written, and what it closes, or None.
        lack: What was wanting to measure it, as far as that is known by name.
        missed: The bars of falsifications that decided against it.
        differs: What is not as in its record, a line for each key or file.
        doors: The falsifications whose door it stands in.
        candidates: The checkpoints that were put in the base's place.
        result: The measurement; continuations, loss profiles and tails only of the variants in `shown`.
        shown: The positions of those variants in the result, the mildest first.
        facts: Provenance and diagnostics of the measurement, by name.
        made_with: Versions of this package, Python and the libraries, device and dtype, by name; empty where nothing
            was measured.
        devices: The devices that it was measured on.
        matched: The arms that are trained towards the output of the original's layers.
    """

    id: str
    file: str
    line: int
    status: str
    outcome: str
    word: str
    digest: str
    model: str
    intervention: str
    verdict: str | None = None
    verdict_before: str | None = None
    title: str = ""
    claim: str = ""
    notes: str | None = None
    links: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    criteria: tuple[Criterion, ...] = ()
    metrics: tuple[str, ...] = ()
    thresholds: tuple[Threshold, ...] = ()
    evidence: tuple[PublishedEvidence, ...] = ()
    messages: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    error_at: tuple[int, int] | None = None
    recorded: str | None = None
    lack: Lack | None = None
    missed: tuple[MissedBar, ...] = ()
    differs: tuple[str, ...] = ()
    doors: tuple[ClosedDoor, ...] = ()
    candidates: tuple[CandidateReport, ...] = ()
    result: BetResult | None = None
    shown: tuple[int, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    made_with: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    matched: tuple[str | None, ...] = ()

    def to_json(self) -> str:
        """Return the report as one string, the form in which pytest-xdist sends an attribute.

        It is not strict JSON: a number may be infinite.
        """
        return json.dumps(_adapter().dump_python(self))

    @classmethod
    def from_json(cls, text: str) -> BetReport:
        """Read what `to_json` returned."""
        return _adapter().validate_python(json.loads(text))

    @property
    def failed(self) -> bool:
        """Whether it fails the build."""
        return self.outcome == "failed"

    @property
    def cached(self) -> bool:
        """Whether the measurement came from the result cache."""
        return self.result is not None and self.result.cached

    @property
    def changed(self) -> bool:
        """Whether its verdict is another than that of its record."""
        return self.verdict_before not in (None, self.verdict)

    @property
    def seconds(self) -> float:
        """The time that this run spent on it: a cached result has that of its measurement."""
        return 0.0 if self.result is None or self.cached else round(self.result.seconds, 3)

    @property
    def bases(self) -> tuple[BaseResult, ...]:
        """The untouched model on each text and checkpoint; none where nothing was measured."""
        return self.result.bases if self.result is not None else ()

    @property
    def variants(self) -> tuple[VariantResult, ...]:
        """All variants; none where nothing was measured."""
        return self.result.variants if self.result is not None else ()

    @property
    def shown_variants(self) -> tuple[VariantResult, ...]:
        """The variants whose continuations are shown, the mildest first."""
        return tuple(self.variants[at] for at in self.shown)

    @property
    def deciding(self) -> Criterion | None:
        """The criterion that decided, if any did."""
        return next((each for each in self.criteria if each.decided and each.filled), None)

    @property
    def decider(self) -> Decider | None:
        """The comparison that decided, where one did; a falsification's bar has its id after it."""
        own = self.deciding.decider if self.deciding is not None else None
        if self.missed and (own is None or self.word == "CROSSED"):
            missed = self.missed[0]
            return replace(missed.decider, bar=f"{missed.decider.bar} ({missed.of})")
        return own

    @property
    def own_messages(self) -> tuple[str, ...]:
        """The messages without those on closed doors, which `doors` has in parts."""
        starts = tuple(f"{door.id} (" for door in self.doors)
        return tuple(each for each in self.messages if not each.startswith(starts))

    def points(self, metric: str) -> list[float]:
        """Return the metric's value in every variant that has one."""
        return [
            float(each.metrics[metric].value) for each in self.variants if metric in each.metrics
        ]


class FileFault(NamedTuple):
    """One error in a bet file."""

    line: int
    column: int
    message: str


@dataclass(frozen=True)
class UnreadableFile:
    """A bet file that was not collected, with its errors as pytest shows them."""

    file: str
    text: str

    @classmethod
    def of(cls, file: str, text: str) -> UnreadableFile:
        """Return the file with its errors, cut to a readable length."""
        return cls(file, text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...")

    def faults(self) -> Iterator[FileFault]:
        """Yield every fault that has a place, or else the first line of the text, at the file's start."""
        found = [match for line in self.text.splitlines() if (match := _PLACE.match(line))]
        for match in found:
            yield FileFault(int(match["line"]), int(match["column"]), match["message"])
        if not found:
            yield FileFault(1, 1, next(iter(self.text.splitlines()), "could not be read"))


@cache
def _adapter() -> TypeAdapter[BetReport]:
    return TypeAdapter(BetReport)


def by_place(bets: Iterable[BetReport]) -> list[BetReport]:
    """Return bets in the order of their files and lines, whichever worker finished first."""
    return sorted(bets, key=lambda bet: (bet.file, bet.line))


def by_urgency(bets: Iterable[BetReport]) -> list[BetReport]:
    """Return the bets that fail the build first, then by word, then by place."""

    def urgency(bet: BetReport) -> tuple[int, int]:
        word = _ORDER.index(bet.word) if bet.word in _ORDER else len(_ORDER)
        return OUTCOMES.index(bet.outcome), word

    return sorted(by_place(bets), key=urgency)
