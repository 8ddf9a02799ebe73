"""`pytest_layerguard.measure`: a verdict, or numbers to look at, without `pytest bets/`, in a notebook or a test."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pytest_layerguard.bet.bet import Bet, Exploration
from pytest_layerguard.bet.criteria.evaluate import NoCriteria
from pytest_layerguard.bet.errors import BetFileError, many
from pytest_layerguard.bet.reader import BetDocument, one_bet, parse_bets, read_bets
from pytest_layerguard.bet.verdict import judge
from pytest_layerguard.catalogue.bet_folders import bets_of
from pytest_layerguard.environment.allowed_paths import expanded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pandas import DataFrame

    from pytest_layerguard.bet.verdict import Judgement, Verdict
    from pytest_layerguard.interventions.registry import Registry
    from pytest_layerguard.measurement.measurer import Measurer
    from pytest_layerguard.measurement.results import BetResult

    Given = BetDocument | Mapping[str, Any] | str | os.PathLike[str]

_DEFAULTS: Final = {
    "id": "unnamed",
    "title": "Unnamed",
    "claim": "The lenient criterion holds.",
    "status": "proposed",
}
"""Keys that a bet of a catalogue must have and a mapping need not."""
_CANDIDATE: Final[Mapping[str, Any]] = {
    "measure": {"text": {"reference": "heldout"}, "tokens": 8192, "window": 128},
    "criteria": {"lenient": "perplexity_ratio <= 1.1 and kl <= 0.1"},
}
"""What is measured of a candidate, and judged, unless the caller says otherwise."""


@dataclass(frozen=True, repr=False)
class Measured:
    """A bet that was measured.

    Attributes:
        document: The bet.
        result: Every number, with intervals, samples and provenance.
        judgement: The verdict of the bet's own criteria, without the catalogue; None without criteria.
    """

    document: BetDocument
    result: BetResult
    judgement: Judgement | None

    @property
    def verdict(self) -> Verdict | None:
        """STRICT, LENIENT, FALSIFIED, CATASTROPHIC or INCONCLUSIVE; None without criteria."""
        return None if self.judgement is None else self.judgement.verdict

    @property
    def holds(self) -> bool:
        """Whether the claim holds; INCONCLUSIVE does not, and what has no criteria does not either."""
        return self.verdict is not None and self.verdict.holds

    def to_frame(self) -> DataFrame:
        """Return a pandas DataFrame with a row for each variant, text, checkpoint and metric.

        Its columns are those of `pytest_layerguard.report.rows`; `target` is a number where a variant is
        one layer.

        Raises:
            ImportError: Without pandas, which the extra `pandas` installs.
        """
        from pytest_layerguard.report.rows import COLUMNS, rows

        try:
            from pandas import DataFrame
        except ImportError:
            raise ImportError(
                "to_frame() needs pandas; pip install 'pytest-layerguard[pandas]'"
            ) from None

        return DataFrame(list(rows(self.document.bet.id, self.result)), columns=list(COLUMNS))

    def __repr__(self) -> str:
        """Return the bet, the verdict and how much was measured, on one line."""
        size = many(len(self.result.variants), "variant")
        verdict = self.verdict or "no criteria"
        return (
            f"<Measured {self.document.bet.id}: {verdict}, {size}, {self.result.tokens:,} tokens>"
        )

    def __str__(self) -> str:
        """Return the verdict, what decided it, and a line for each variant."""
        return "\n".join(self._lines())

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the verdict, what decided it, and the chart of the page."""
        from pytest_layerguard.catalogue.outcome import Outcome, Word
        from pytest_layerguard.report import html
        from pytest_layerguard.report.make_report import make_report

        outcome = Outcome(
            Word.SKIPPED if self.verdict is None else Word(self.verdict),
            passed=self.holds,
            verdict=self.verdict,
            judgement=self.judgement,
            result=self.result,
        )
        return html.notebook(make_report(self.document, outcome, Path.cwd()))

    def _lines(self) -> Iterator[str]:
        from pytest_layerguard.report import variant_table

        bet, decided = self.document.bet, self.judgement
        if decided is None:
            yield f"{bet.id}: no criteria, so no verdict"
        else:
            yield f"{bet.id}: {decided.verdict}, by {decided.decided_by}: {decided.deciding.filled}"
        yield from variant_table.lines(self.result)


def measure(
    bet: Given | None = None,
    *,
    model: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    candidate: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    id: str | None = None,  # noqa: A002 - it is the bet's id
    device: str = "auto",
    roots: Sequence[str | os.PathLike[str]] = (),
    cache: str | os.PathLike[str] | None = None,
    allow_unpinned: bool = False,
    allow_remote_code: bool = False,
) -> Measured:
    """Measure a bet and judge it by its own criteria.

    No catalogue is read, nothing is recorded and no door is closed: that is what `pytest bets/` does.

    Args:
        bet: A bet file, a document that was read from one, or a mapping with a bet's keys, of which
            `id`, `title`, `claim` and `status` may be left out, and `criteria` too, to explore: then every
            built-in metric is measured and there is no verdict. Paths in a mapping start from the current
            directory.
        model: With `candidate`, the base: a folder, `reference`, or what a bet's `model` may be.
        candidate: A checkpoint to judge against `model`: a folder, a GGUF file, a LoRA adapter, or
            what `load_checkpoint` takes. `bet` is then a mapping with what else is to be decided;
            by default 8,192 tokens of the held-out text, and `perplexity_ratio <= 1.1 and kl <= 0.1`.
        id: Which bet of a file that holds several.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        roots: Folders outside the bets' own tree from which the bet may read.
        cache: A folder where results are kept, so that an unchanged bet is not measured twice.
        allow_unpinned: Whether hub revisions that are not pinned may be measured.
        allow_remote_code: Whether a model may bring Python code of its own.

    Raises:
        BetFileError: With every error in the bet.
        ValueError: If the file holds several bets and `id` names none of them.
        TypeError: If there is neither a bet, nor a model and a candidate.
        MeasurementError: If no honest measurement can be made.
        UnavailableError: If the machine or the hub lacks what the bet needs.
    """
    from pytest_layerguard.environment.conditions import Conditions
    from pytest_layerguard.interventions.registry import Registry
    from pytest_layerguard.measurement.result_cache import CachingMeasurer

    known = Registry.of()
    if model is not None and candidate is not None and (bet is None or isinstance(bet, Mapping)):
        given = [each for each in (model, candidate) if isinstance(each, str | os.PathLike)]
        # Who names a path in Python allows it.
        roots = (*roots, *(expanded(each) for each in given))
        bet = {**_CANDIDATE, **(bet or {}), **_against(model, candidate)}
    if bet is None or (model is None) != (candidate is None):
        raise TypeError("measure() takes a bet, or a model and a candidate")
    conditions = Conditions(
        device=device,
        roots=tuple(Path(root) for root in roots),
        cache=None if cache is None else Path(cache),
        allow_unpinned=allow_unpinned,
        allow_remote_code=allow_remote_code,
    )
    document = read(bet, known, start=Path.cwd(), id=id)
    return measured(document, CachingMeasurer(conditions, known))


def _against(
    model: str | os.PathLike[str] | Mapping[str, Any],
    candidate: str | os.PathLike[str] | Mapping[str, Any],
) -> dict[str, Any]:
    """Return the keys of a bet that name a base and a candidate."""
    from pytest_layerguard.bet.bet import REFERENCE_NAMES
    from pytest_layerguard.models.model_folder import as_candidate

    if isinstance(model, str | os.PathLike) and model not in REFERENCE_NAMES:
        model = as_candidate(expanded(model))
    if isinstance(candidate, str | os.PathLike):
        candidate = as_candidate(expanded(candidate))
    return {"model": model, "intervention": {"load_checkpoint": candidate}}


def read(
    bet: Given,
    known: Registry,
    *,
    start: Path,
    id: str | None = None,  # noqa: A002
) -> BetDocument:
    """Return the bet that `bet` stands for. Relative paths, also those in a mapping, start from `start`.

    Raises:
        BetFileError: With every error in the bet.
        ValueError: If the file holds several bets and `id` names none of them.
    """
    if isinstance(bet, BetDocument):
        return bet
    if isinstance(bet, Mapping):
        # As text, so that it has the errors of a file.
        text = json.dumps({**_DEFAULTS, **bet}, indent=2, ensure_ascii=False)
        path = start / "a mapping"
        form = Bet if "criteria" in bet else Exploration
        try:
            return parse_bets(text, path, kinds=known.arguments, metrics=known.metrics, form=form)[
                0
            ]
        except BetFileError as error:
            # The lines are of a text that only this function has.
            problems = (replace(each, path=None, excerpt="") for each in error.problems)
            raise BetFileError(problems) from None
    path = start / expanded(bet)
    documents = read_bets(path, kinds=known.arguments, metrics=known.metrics)
    return one_bet(documents, path, id)


def measured(document: BetDocument, measurer: Measurer) -> Measured:
    """Measure a bet, and judge it by its own criteria.

    Raises:
        MeasurementError: If no honest measurement can be made.
        UnavailableError: If the machine or the hub lacks what the bet needs.
    """
    # A mapping belongs to no bet folder: it may read what lies beside it.
    mapping = not document.path.suffix
    bets = document.path if mapping else bets_of(document.path)
    result = measurer.measure(document, bets=bets)
    criteria = document.bet.criteria
    explored = isinstance(criteria, NoCriteria)
    return Measured(document, result, None if explored else judge(criteria, result.rows()))


@dataclass(frozen=True)
class Measuring:
    """The `layerguard` fixture: measures bets with the options of this pytest run.

    Attributes:
        measurer: Returns the measurer; called when the first bet is measured.
        registry: The interventions and metrics of this run, those of conftest files too.
        start: Where relative paths start.
        skip: Called with the reason where a bet cannot be measured here.
    """

    measurer: Callable[[], Measurer]
    registry: Registry
    start: Path
    skip: Callable[[str], object]

    def measure(self, bet: Given, *, id: str | None = None) -> Measured:  # noqa: A002
        """Measure a bet and judge it by its own criteria; see `pytest_layerguard.measure`.

        The test is skipped if the model is not available here, and fails under
        `--layerguard-require all`.
        """
        from pytest_layerguard.catalogue.guard import library_warnings_shown
        from pytest_layerguard.environment.measurement_errors import UnavailableError

        document = read(bet, self.registry, start=self.start, id=id)
        with library_warnings_shown():
            try:
                return measured(document, self.measurer())
            except UnavailableError as error:
                self.skip(str(error))
                raise
