"""`--layerguard-shard` and `--layerguard-merge`: what pytest does of either."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_layerguard import collect
from pytest_layerguard.options import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping

    from pytest_layerguard.catalogue.shards import Share
    from pytest_layerguard.guard import Laboratory
    from pytest_layerguard.lab.answers import Answer, NotingLaboratory

PLUGIN: Final = "layerguard-sharding"
ATTRIBUTE: Final = "layerguard_answer"
"""The attribute of a test report that carries what the laboratory said, as a JSON string."""
OUTPUT: Final = "layerguard_plan"
"""Where a worker of pytest-xdist leaves the plan for its controller."""


def configure(config: pytest.Config) -> None:
    """Take part in a run that measures a part, or that merges parts."""
    settings = config.stash[SETTINGS]
    if settings.shard is not None:
        config.pluginmanager.register(Part(config, *settings.shard), PLUGIN)
    elif settings.merge is not None:
        config.pluginmanager.register(Merge(config), PLUGIN)


def laboratory(config: pytest.Config) -> Laboratory:
    """The laboratory of this run: one that measures, or one that says what others have measured."""
    plugin = config.pluginmanager.get_plugin(PLUGIN)
    if isinstance(plugin, Merge):
        from pytest_layerguard.catalogue.shards import MergedLaboratory

        return MergedLaboratory(plugin.answers)
    made: Laboratory = config.hook.pytest_layerguard_laboratory(config=config)
    if isinstance(plugin, Part):
        from pytest_layerguard.lab.answers import NotingLaboratory

        plugin.noted = NotingLaboratory(made)
        return plugin.noted
    return made


def told(config: pytest.Config) -> Mapping[str, Any]:
    """What the JSON report says of the part that was measured; nothing for a whole run."""
    plugin = config.pluginmanager.get_plugin(PLUGIN)
    return {"shard": plugin.told()} if isinstance(plugin, Part) else {}


class Part:
    """Measures one part of the catalogue, and keeps what a merge needs of it."""

    def __init__(self, config: pytest.Config, index: int, count: int) -> None:
        self._config = config
        self._index = index
        self._count = count
        self._plan: tuple[Share, ...] = ()
        self._answers: dict[str, Answer] = {}
        self.noted: NotingLaboratory | None = None

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out the bets of other parts, when all else that is left out is gone."""
        from pytest_layerguard.catalogue.shards import divide

        bets = [item for item in items if isinstance(item, collect.BetItem)]
        self._plan = divide(_shares(bets), self._count)
        others = {share.id for share in self._plan if share.shard != self._index}
        left_out = [item for item in bets if item.name in others]
        if left_out:
            items[:] = [item for item in items if item not in left_out]
            self._config.hook.pytest_deselected(items=left_out)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Let a bet's report carry what the laboratory said of it."""
        from pytest_layerguard.catalogue.shards import UNMEASURED

        report = yield
        if isinstance(item, collect.BetItem) and report.when == "call":
            answers = self.noted.answers if self.noted is not None else {}
            answer = {"id": item.name, "answer": answers.pop(item.name, UNMEASURED)}
            setattr(report, ATTRIBUTE, json.dumps(answer))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what a report carries."""
        text = getattr(report, ATTRIBUTE, None)
        if text is not None:
            carried = json.loads(text)
            self._answers[carried["id"]] = carried["answer"]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Take over the plan of a worker, which collects in the controller's stead."""
        from pytest_layerguard.catalogue.shards import Share

        plan = getattr(node, "workeroutput", {}).get(OUTPUT)
        if plan is not None:
            self._plan = tuple(Share(**share) for share in json.loads(plan))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Leave the plan for the controller; a part that has nothing to do is no failure."""
        if hasattr(self._config, "workeroutput"):
            plan = json.dumps([vars(share) for share in self._plan])
            self._config.workeroutput[OUTPUT] = plan
        if self._plan and session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK

    def told(self) -> dict[str, Any]:
        """The part as plain data."""
        from pytest_layerguard.catalogue.shards import Shard
        from pytest_layerguard.lab.identity import code
        from pytest_layerguard.lab.versions import versions

        made_by = {**versions(), "code": code()}
        return Shard(self._index, self._count, self._plan, made_by, self._answers).to_json()


class Merge:
    """Judges what all parts have measured."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self.answers: Mapping[str, Answer] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None]:
        """Compare the parts with all bets that there are, and with those that are chosen."""
        bets = [item for item in items if isinstance(item, collect.BetItem)]
        here = {share.id: share for share in _shares(bets)}
        yield
        self._read(here, [item.name for item in items if isinstance(item, collect.BetItem)])

    def _read(self, here: Mapping[str, Share], chosen: Iterable[str]) -> None:
        """Read the parts, and refuse those that do not make up what is to be judged.

        Raises:
            pytest.UsageError: with what is wrong, and what to do.
        """
        from pytest_layerguard import __version__
        from pytest_layerguard.catalogue.shards import ShardError, merged, read_shards
        from pytest_layerguard.lab.identity import code

        folder = self._config.stash[SETTINGS].merge
        assert folder is not None
        made_by = {"pytest-layerguard": __version__, "code": code()}
        try:
            self.answers = merged(read_shards(folder), made_by, here)
        except ShardError as error:
            raise pytest.UsageError(f"--layerguard-merge: {error}") from None
        if missing := [name for name in chosen if name not in self.answers]:
            raise pytest.UsageError(
                f"--layerguard-merge: no part has measured {', '.join(missing[:5])}; choose by -k and -m "
                "as the parts did"
            )


def _shares(bets: Iterable[collect.BetItem]) -> list[Share]:
    from pytest_layerguard.bet.digest import digest
    from pytest_layerguard.catalogue.costs import cost
    from pytest_layerguard.catalogue.shards import Share

    return [
        Share(
            file=collect.shown(item.path, item.config).as_posix(),
            id=item.name,
            digest=digest(item.document.bet),
            model=_model(item),
            cost=cost(item.document, item.folder),
        )
        for item in bets
    ]


def _model(item: collect.BetItem) -> str:
    """What tells models apart, without the folder that the checkout has on this machine."""
    here = str(item.config.rootpath)
    return item.model.replace(here, "")
