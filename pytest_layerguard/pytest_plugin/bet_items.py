"""Bet files and bets as collectors and tests of pytest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_layerguard import LayerguardWarning
from pytest_layerguard.pytest_plugin import progress
from pytest_layerguard.pytest_plugin.options import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import PurePosixPath

    from pytest_layerguard.bet.reader import BetDocument
    from pytest_layerguard.catalogue.guard import Guard
    from pytest_layerguard.catalogue.judge import Judge
    from pytest_layerguard.catalogue.outcome import Outcome
    from pytest_layerguard.environment.conditions import Conditions
    from pytest_layerguard.interventions.registry import Registry
    from pytest_layerguard.measurement.measurer import Measurer
    from pytest_layerguard.report.bet_report import BetReport

SUFFIXES: Final = frozenset({".yaml", ".yml"})
RECORDS: Final = "records"
REPORT: Final[pytest.StashKey[BetReport]] = pytest.StashKey()
GUARD: Final[pytest.StashKey[Guard]] = pytest.StashKey()
REGISTRY: Final[pytest.StashKey[Registry]] = pytest.StashKey()
IDS: Final[pytest.StashKey[dict[str, tuple[Path, int]]]] = pytest.StashKey()
"""The place of each bet that was collected, by id."""
MEASURER: Final[pytest.StashKey[Measurer]] = pytest.StashKey()
JUDGE: Final[pytest.StashKey[Judge]] = pytest.StashKey()
FOLDERS: Final[pytest.StashKey[set[Path]]] = pytest.StashKey()
"""The bet folders whose records were looked at."""


def claim(path: Path, parent: pytest.Collector) -> BetFile | None:
    """Return a collector for a bet file, or None for any other file. Called for every file of every run."""
    folder = folder_of_bets(path, parent.config)
    if folder is None:
        return None
    file: BetFile = BetFile.from_parent(parent, path=path, **_harmless(path, parent.config))
    file.folder = folder
    return file


def _harmless(path: Path, config: pytest.Config) -> dict[str, Any]:
    """Return an escaped name and node id if those of the file hold control characters."""
    from pytest_layerguard.bet.errors import printable

    nodeid = shown(path, config).as_posix()
    if printable(nodeid) == nodeid:
        return {}
    return {"name": printable(path.name), "nodeid": printable(nodeid)}


def folder_of_bets(path: Path, config: pytest.Config) -> Path | None:
    """Return the bet folder of a bet file, or None for any other file."""
    if path.suffix.lower() not in SUFFIXES:
        return None
    folder = bet_folder(path, config)
    if folder is None or RECORDS in path.relative_to(folder).parts[:-1]:
        return None
    return folder


def bet_folder(path: Path, config: pytest.Config) -> Path | None:
    """Find the outermost bet folder that holds `path`, which need not exist."""
    return find_bet_folder(path, config, config.stash[SETTINGS].bets)


def find_bet_folder(
    path: Path, config: pytest.Config, names: Sequence[PurePosixPath]
) -> Path | None:
    """Find the outermost folder of one of these names that holds `path`, which need not exist.

    A folder counts by its name below the project: below the root directory where a configuration
    file makes it one, else below the top of the git checkout, else below the folder that pytest runs
    in. A project without a configuration file may be a bet folder itself.
    """
    for start in _projects(path, config):
        parts = path.relative_to(start).parts
        for end in range(1, len(parts)):
            for name in names:
                if parts[:end][-len(name.parts) :] == name.parts:
                    return start.joinpath(*parts[:end])
    return None


def _projects(path: Path, config: pytest.Config) -> Iterator[Path]:
    if config.inipath is not None and path.is_relative_to(config.rootpath):
        yield config.rootpath
        return
    checkout = next((each for each in path.parents if (each / ".git").exists()), None)
    if checkout is not None:
        yield checkout
        yield checkout.parent
        return
    above = config.invocation_params.dir.parent
    yield above if path.is_relative_to(above) else Path(path.anchor)


class BetFile(pytest.File):
    """A file of bets."""

    folder: Path
    """The bet folder: the catalogue that the file belongs to."""

    def collect(self) -> Iterator[BetItem]:
        """Read every bet of the file; all their errors are raised as one."""
        from pytest_layerguard.bet.errors import BetFileError
        from pytest_layerguard.bet.reader import read_bets

        try:
            known = registry_of(self.config)
            documents = read_bets(self.path, kinds=known.arguments, metrics=known.metrics)
        except BetFileError as error:
            path = shown(self.path, self.config)
            problems = (str(replace(problem, path=path)) for problem in error.problems)
            raise self.CollectError("\n".join(problems)) from None
        faults = "\n".join([*self._duplicates(documents), *self._orphaned_records()])
        if faults:
            raise self.CollectError(faults)
        for document in documents:
            yield BetItem.from_parent(self, name=document.bet.id, document=document)

    def _duplicates(self, documents: Sequence[BetDocument]) -> Iterator[str]:
        """Yield an error for each bet whose id another file has, as records and challenges would be ambiguous."""
        places = self.session.stash.setdefault(IDS, {})
        for document in documents:
            here = (self.path, document.line)
            path, line = places.setdefault(document.bet.id, here)
            if path != self.path:
                yield (
                    f"{shown(self.path, self.config)}:{document.line}:1: id: {document.bet.id!r} "
                    f"is the id of another bet, {shown(path, self.config)}:{line}; "
                    "allowed: an id that no other bet has"
                )

    def _orphaned_records(self) -> Iterator[str]:
        """Yield an error for each record whose bet is gone, in the folder's first file of the run."""
        from pytest_layerguard.catalogue.orphans import orphaned_records

        looked_at = self.session.stash.setdefault(FOLDERS, set())
        if self.folder in looked_at:
            return
        looked_at.add(self.folder)
        catalogue = judge_of(self.config).catalogue(self.folder)
        for fault in orphaned_records(catalogue, self.config.rootpath):
            yield f"{shown(self.path, self.config)}:1:1: {fault}"


class BetItem(pytest.Item):
    """A bet as a test; running it judges it."""

    def __init__(self, *, document: BetDocument, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.document = document
        bet = document.bet
        kinds = (each.kind for each in bet.interventions)
        self.extra_keyword_matches.update([bet.status, bet.model.name, *kinds])

    @property
    def folder(self) -> Path:
        """Return the bet folder that the bet belongs to."""
        assert isinstance(self.parent, BetFile)
        return self.parent.folder

    @property
    def model(self) -> str:
        """Return the identity of the model, which bets that share a load have in common."""
        return self.document.model_identity

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return the file and line of the bet, counted from 0 as pytest does."""
        return self.path, self.document.line - 1, self.name

    def runtest(self) -> None:
        """Judge the bet, then fail, skip or warn according to its outcome."""
        with progress.display(self.config).bet(self.name):
            outcome = guard_of(self.session).judge(self.document, self.folder)
        bet = self.stash[REPORT] = self.make_report(outcome)
        if outcome.passed and outcome.word == "INCONCLUSIVE":
            # Other notes are printed below the table only, so that they cannot fail under -W error.
            self.warn(LayerguardWarning("; ".join(outcome.warnings)))
        if bet.outcome == "skipped":
            from pytest_layerguard.report.words import why_skipped_in_brief

            pytest.skip(why_skipped_in_brief(bet))
        if bet.failed:
            from pytest_layerguard.report import failure

            style = self.config.getoption("tbstyle")
            lines = [*failure.lines(bet, short=style == "short")]
            # pytest prints the brief one below it.
            text = lines[0] if style == "line" else "\n".join(lines)
            raise BetFailedError(text, failure.brief(bet), bet.error_at)

    def make_report(self, outcome: Outcome) -> BetReport:
        """Return the view of the bet that every report reads."""
        from pytest_layerguard.report.make_report import make_report

        return make_report(self.document, outcome, self.config.rootpath)

    def repr_failure(
        self, excinfo: pytest.ExceptionInfo[BaseException], *args: Any, **kwargs: Any
    ) -> Any:
        """Show a failed bet without a traceback, which only an unknown exception has."""
        error = excinfo.value
        if not isinstance(error, BetFailedError | LayerguardWarning):
            return super().repr_failure(excinfo, *args, **kwargs)
        shown = excinfo.getrepr(style="value", chain=False)
        if shown.reprcrash is not None:
            # The summary, JUnit and --tb=line name this place: the bet, not a line of this package.
            shown.reprcrash.path = str(self.path)
            place = error.place if isinstance(error, BetFailedError) else None
            shown.reprcrash.lineno = place[0] if place else self.document.line
            shown.reprcrash.message = (
                error.brief if isinstance(error, BetFailedError) else str(error)
            )
        return shown


class BetFailedError(Exception):
    """A bet that fails the build, with the whole text, a short one, and the place of an ERROR."""

    def __init__(self, text: str, brief: str, place: tuple[int, int] | None) -> None:
        super().__init__(text, brief, place)
        self.brief = brief
        self.place = place

    def __str__(self) -> str:
        """Return the whole text."""
        return str(self.args[0])


def guard_of(session: pytest.Session) -> Guard:
    """Return the guard of this process, made when the first bet runs."""
    if GUARD not in session.stash:
        from pytest_layerguard.catalogue.guard import Guard

        config = session.config
        session.stash[GUARD] = Guard(
            judge_of(config),
            lambda: measurer_of(config),
            [(item.document, item.folder) for item in session.items if isinstance(item, BetItem)],
        )
    return session.stash[GUARD]


def judge_of(config: pytest.Config) -> Judge:
    """Return the judge of this process, which reads each catalogue once."""
    if JUDGE not in config.stash:
        from pytest_layerguard.catalogue.judge import Judge
        from pytest_layerguard.catalogue.model_facts import ModelLookup

        settings, registry = config.stash[SETTINGS], registry_of(config)
        config.stash[JUDGE] = Judge(
            ModelLookup(conditions_of(config)),
            root=config.rootpath,
            names=settings.bets,
            require=settings.require,
            recording=settings.record,
            kinds=registry.arguments,
            metrics=registry.metrics,
        )
    return config.stash[JUDGE]


def registry_of(config: pytest.Config) -> Registry:
    """Return the interventions and metrics of this package, of installed ones and of conftest files.

    Raises:
        pytest.UsageError: when two of them have one name.
    """
    if REGISTRY not in config.stash:
        from pytest_layerguard.interventions.registry import Registry

        kinds = config.hook.pytest_layerguard_interventions(config=config)
        metrics = config.hook.pytest_layerguard_metrics(config=config)
        try:
            config.stash[REGISTRY] = Registry.of(
                (kind for some in kinds for kind in some),
                (metric for some in metrics for metric in some),
            )
        except ValueError as error:
            raise pytest.UsageError(str(error)) from None
    return config.stash[REGISTRY]


def conditions_of(config: pytest.Config) -> Conditions:
    """Return what the user of this run allows in this process."""
    from pytest_layerguard.environment.budget import Budget
    from pytest_layerguard.environment.conditions import Conditions

    worker = getattr(config, "workerinput", {}).get("workerid", "gw0")
    # The attribute is missing if pytest's cache plugin is disabled.
    cache: pytest.Cache | None = getattr(config, "cache", None)
    kept = cache.mkdir("layerguard") if cache is not None else None
    settings = config.stash[SETTINGS]
    display = progress.display(config)
    return Conditions(
        device=settings.device,
        worker=int(worker.removeprefix("gw")),
        roots=settings.roots,
        cache=settings.cache or kept,
        fresh=settings.fresh,
        device_wait=settings.device_wait,
        timeout=settings.timeout,
        budget=Budget(**settings.limits),
        allow_unpinned=settings.allow_unpinned,
        allow_remote_code=settings.allow_remote_code,
        progress=display.begin,
        counting=display.counting,
    )


def measurer_of(config: pytest.Config) -> Measurer:
    """Return the measurer of this process: a second one would wait for the GPU that the first one holds."""
    if MEASURER not in config.stash:
        config.stash[MEASURER] = config.hook.pytest_layerguard_measurer(config=config)
    return config.stash[MEASURER]


def own_measurer(config: pytest.Config) -> Measurer:
    """Build the measurer of this package, by the options of this run."""
    from pytest_layerguard.measurement.result_cache import CachingMeasurer

    terms, registry, settings = conditions_of(config), registry_of(config), config.stash[SETTINGS]
    if settings.ray is None:
        return CachingMeasurer(terms, registry)
    from pytest_layerguard.measurement.ray_cluster import RayMeasurer

    # The nodes share a cache only if the user names a folder that they share.
    return RayMeasurer(replace(terms, cache=settings.cache), registry, settings.ray)


def group_by_model(items: list[pytest.Item]) -> None:
    """Move bets on one model next to each other, so that it is loaded once; keep the order of the rest."""
    bets = {at: item for at, item in enumerate(items) if isinstance(item, BetItem)}
    groups: dict[str, list[BetItem]] = {}
    for item in bets.values():
        groups.setdefault(item.model, []).append(item)
    ordered = (item for group in groups.values() for item in group)
    for at, item in zip(bets, ordered, strict=True):
        items[at] = item


def asked_paths(config: pytest.Config) -> Iterator[Path]:
    """Yield the files and folders that the arguments of pytest name."""
    for arg in config.args:
        yield config.invocation_params.dir / arg.split("::")[0]


def shown(path: Path, config: pytest.Config) -> Path:
    """Return a path relative to the root directory, like a node id."""
    return path.relative_to(config.rootpath) if path.is_relative_to(config.rootpath) else path
