"""`--layerguard-shard` and `--layerguard-merge`: judge a part of the bets, and join all parts.

A part is a run like any other. Its JSON report also holds pytest's reports of its bets. A merge logs these
reports and runs no bet, as the controller of pytest-xdist does with the reports of its workers.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from pytest_layerguard.pytest_plugin import bet_items, reporting
from pytest_layerguard.pytest_plugin.options import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Sequence

PLUGIN: Final = "layerguard-sharding"


def configure(config: pytest.Config) -> None:
    """Register what a part or a merge needs.

    Raises:
        pytest.UsageError: a merge of files that do not make up a whole.
    """
    settings = config.stash[SETTINGS]
    if settings.shard is not None:
        config.pluginmanager.register(ShardPlugin(config, *settings.shard), PLUGIN)
    elif settings.merge is not None:
        from pytest_layerguard.catalogue.shard_plan import ShardError, join, read_shards

        try:
            reports = join(read_shards(settings.merge))
        except ShardError as error:
            raise pytest.UsageError(f"--layerguard-merge: {error}") from None
        config.pluginmanager.register(MergePlugin(config, reports), PLUGIN)


class ShardPlugin:
    """Runs one part of the bets, and keeps their reports for a merge."""

    def __init__(self, config: pytest.Config, index: int, count: int) -> None:
        self._config = config
        self._index = index
        self._count = count
        self._reports: list[str] = []
        shard = {"index": index, "of": count, "reports": self._reports}
        config.stash[reporting.RESULTS].more_json["shard"] = shard

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Deselect the bets of other parts, after `-k` and `-m` have deselected theirs."""
        from pytest_layerguard.catalogue.cost import shard_cost
        from pytest_layerguard.catalogue.model_facts import ModelLookup
        from pytest_layerguard.catalogue.shard_plan import BetCost, divide

        # Checkouts lie in different folders on different machines.
        root = str(self._config.rootpath)
        bets = {item.name: item for item in items if isinstance(item, bet_items.BetItem)}
        registry = bet_items.registry_of(self._config)
        lookup = ModelLookup(bet_items.conditions_of(self._config))
        costs = [
            BetCost(
                name,
                item.model.replace(root, ""),
                shard_cost(item.document, item.folder, registry, lookup),
            )
            for name, item in bets.items()
        ]
        own = {bet.id for bet in divide(costs, self._count)[self._index - 1]}
        others = [item for name, item in bets.items() if name not in own]
        if others:
            items[:] = [item for item in items if item not in others]
            self._config.hook.pytest_deselected(items=others)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the reports of bets."""
        path = self._config.rootpath / report.nodeid.partition("::")[0]
        if bet_items.folder_of_bets(path, self._config) is not None:
            hook = self._config.hook
            data = hook.pytest_report_to_serializable(config=self._config, report=report)
            # The controller of pytest-xdist adds the worker, which is no JSON.
            data.pop("node", None)
            # As a string: a property may be infinite, and JSON has no such number.
            self._reports.append(json.dumps(data))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Let a part without bets pass."""
        if session.exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
            session.exitstatus = pytest.ExitCode.OK


class MergePlugin:
    """Logs the reports of all parts, by node id, and runs no bet."""

    def __init__(self, config: pytest.Config, reports: dict[str, list[str]]) -> None:
        self._config = config
        self._reports = {
            nodeid: [self._report(text) for text in texts] for nodeid, texts in reports.items()
        }

    def _report(self, text: str) -> pytest.TestReport:
        report: pytest.TestReport = self._config.hook.pytest_report_from_serializable(
            config=self._config, data=json.loads(text)
        )
        skipped: Any = report.longrepr
        if isinstance(skipped, list):
            # pytest wants place and reason as a tuple, which JSON does not have.
            report.longrepr = (skipped[0], skipped[1], skipped[2])
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Refuse parts that did not judge exactly the bets of this run.

        Raises:
            pytest.UsageError: with the bets that are missing, unknown or changed.
        """
        from pytest_layerguard.bet.digest import digest

        bets = {item.nodeid: item for item in items if isinstance(item, bet_items.BetItem)}
        self._refuse("no part has judged", [each for each in bets if each not in self._reports])
        self._refuse(
            "parts have judged what is not here:",
            [each for each in self._reports if each not in bets],
        )
        judged = {
            bet.id: bet.digest
            for reports in self._reports.values()
            for bet in map(reporting.attached, reports)
            if bet is not None
        }
        self._refuse(
            "changed since a part has judged it:",
            [
                nodeid
                for nodeid, item in bets.items()
                if judged.get(item.name, "") not in ("", digest(item.document.bet))
            ],
        )

    def _refuse(self, what: str, nodeids: Sequence[str]) -> None:
        if nodeids:
            more = f" and {len(nodeids) - 5} more" if len(nodeids) > 5 else ""
            raise pytest.UsageError(
                f"--layerguard-merge: {what} {', '.join(nodeids[:5])}{more}; run all parts to their end "
                "and merge them at one commit, with the same arguments"
            )

    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        """Log a part's reports of a bet."""
        if not isinstance(item, bet_items.BetItem):
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports[item.nodeid]:
            item.ihook.pytest_runtest_logreport(report=report)
        # Fixtures of tests before it may end here, as after any test.
        item.session._setupstate.teardown_exact(nextitem)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True
