"""`comment`: comment on a pull request with what its run found, or bring that comment up to date.

It runs in a workflow of the default branch once the run of a pull request is over (`workflow_run`), with a token that
may write comments. That run may have been a stranger's: nothing of it is executed, its artifact is read as data, and
which pull request it belongs to is asked of GitHub.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from pytest_layerguard.bet.bet import SLUG
from pytest_layerguard.cli.command_output import UserError, echo
from pytest_layerguard.cli.github_api import GitHub, NotThereError, TooLargeError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from pytest_layerguard.catalogue.records import Record
    from pytest_layerguard.report.run_file import RunFile

ARTIFACT: Final = "layerguard-comment"
"""The artifact of the run that holds the file `--layerguard-comment` has written."""
FILE: Final = "comment.json"
_ZIPPED: Final = 4 * 2**20
"""Bytes of an artifact that is fetched."""
_RECORD: Final = 8 * 2**20
"""Bytes of a record that is fetched."""
_RECORD_NAME: Final = re.compile(rf"{SLUG}\.json")
_RECORDS: Final = 200
"""Records that are compared at most: each is a request, of which a workflow has 1,000 an hour."""
_AUTHOR: Final = "github-actions[bot]"
"""Whoever comments with the token of a workflow; a comment of anybody else is left alone."""
_BROKEN: Final = ("failure", "timed_out", "startup_failure")


class _NoReportError(Exception):
    """A run without a report that can be read; the text says why."""


def run(given: argparse.Namespace) -> int:
    """Comment on the pull requests whose head the run was of."""
    event = _event()
    if event["event"] != "pull_request":
        echo(f"the run was of {event['event']}, not of a pull request: no comment")
        return 0
    github = GitHub(*map(_variable, ("GITHUB_API_URL", "GITHUB_REPOSITORY", "GITHUB_TOKEN")))
    pulls = _pulls(github, event)
    if not pulls:
        echo(f"no open pull request has the head {event['head_sha']}: no comment")
    for pull in pulls:
        echo(f"pull request {pull['number']}: {_comment(github, event, pull, given.bets)}")
    return 0


def _variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise UserError(
            f"{name} is not set; comment runs in a workflow of GitHub Actions, see docs/guides/ci.md"
        )
    return value


def _event() -> dict[str, Any]:
    """Return the run that is over, as the event that started this workflow describes it."""
    path = Path(_variable("GITHUB_EVENT_PATH"))
    try:
        event: dict[str, Any] = json.loads(path.read_bytes())["workflow_run"]
    except (OSError, ValueError, KeyError):
        raise UserError(
            f"{path}: is no event of workflow_run, which must start the workflow that comments"
        ) from None
    return event


def _pulls(github: GitHub, event: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the open pull requests whose head is the commit of the run.

    The event has nothing on pull requests from forks.
    """
    source = event["head_repository"]
    if source is None:
        return []
    head = f"{source['owner']['login']}:{event['head_branch']}"
    return [
        pull
        for pull in github.pages("/pulls", state="open", head=head)
        if pull["head"]["sha"] == event["head_sha"]
        and (pull["head"]["repo"] or {}).get("id") == source["id"]
    ]


def _comment(github: GitHub, event: dict[str, Any], pull: dict[str, Any], bets: str) -> str:
    """Write, change or leave the comment on one pull request; return what was done."""
    from pytest_layerguard.report import pull_request

    there = _own_comment(github, pull["number"])
    source = event["head_repository"]["html_url"]
    shown = pull_request.Run(
        event["html_url"], event["head_sha"], f"{source}/blob/{event['head_sha']}"
    )
    try:
        found = _report(github, event["id"])
        recorded, records = _recorded(github, bets, pull["base"]["sha"], found)
        changed = [*pull_request.changes(found, recorded, records)]
        body = pull_request.body(found, changed, pull["base"]["ref"], shown)
        worth = bool(changed or found.unreadable or any(bet.failed for bet in found.bets))
    except _NoReportError as error:
        body = pull_request.without_report(
            f"The run ended in {event['conclusion']}: {error}.", shown
        )
        worth = event["conclusion"] in _BROKEN
    if there is None and not worth:
        return "nothing failed or changed: no comment"
    if there is None:
        github.send("POST", f"/issues/{pull['number']}/comments", {"body": body})
        return "commented"
    if there["body"].rstrip() == body.rstrip():
        return "the comment is up to date"
    github.send("PATCH", f"/issues/comments/{there['id']}", {"body": body})
    return "changed the comment"


def _own_comment(github: GitHub, number: int) -> dict[str, Any] | None:
    from pytest_layerguard.report.pull_request import MARKER

    for each in github.pages(f"/issues/{number}/comments"):
        if (each["user"] or {}).get("login") == _AUTHOR and each["body"].startswith(MARKER):
            own: dict[str, Any] = each
            return own
    return None


def _report(github: GitHub, run_id: int) -> RunFile:
    """Return what the run found; raises _NoReportError."""
    from pytest_layerguard.report import run_file

    listed = github.get(f"/actions/runs/{run_id}/artifacts", name=ARTIFACT)["artifacts"]
    found = [each for each in listed if not each["expired"]]
    if not found:
        raise _NoReportError("it left no report")
    newest = max(found, key=lambda each: each["id"])
    try:
        return run_file.read(_unzipped(github.artifact(newest["id"], _ZIPPED)))
    except TooLargeError:
        raise _NoReportError(f"its report has more than {_ZIPPED:,} bytes") from None
    except NotThereError:
        raise _NoReportError("its report is gone") from None
    except run_file.RunFileError as error:
        raise _NoReportError(f"its report cannot be read: {error}") from None


def _unzipped(data: bytes) -> bytes:
    """Return the one file of an artifact, in memory; no name in a zip file becomes a path."""
    from pytest_layerguard.report.run_file import LARGEST

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(FILE) as file:
            return file.read(LARGEST + 1)
    except KeyError:
        raise _NoReportError(f"its report has no {FILE}") from None
    except Exception as error:  # zipfile and its decoders raise many kinds of errors for damage
        reason = f"{type(error).__name__}: {error}"[:200]
        raise _NoReportError(f"its report cannot be unpacked ({reason})") from None


def _recorded(
    github: GitHub, bets: str, base: str, found: RunFile
) -> tuple[set[str], dict[str, Record]]:
    """Return which ids have a record in the base branch, and those records that bear on the run."""
    folder = f"/contents/{quote(bets.strip('/'))}/records"
    try:
        listed = github.get(folder, ref=base)
    except NotThereError:
        listed = []
    names = [each["name"] for each in listed if each["type"] == "file"]
    recorded = {name.removesuffix(".json") for name in names if _RECORD_NAME.fullmatch(name)}
    measured = {bet.id for bet in found.bets if bet.result is not None}
    gone = recorded - {bet.id for bet in found.bets}
    wanted = sorted(recorded & measured | gone)[:_RECORDS]
    return recorded, dict(_read(github, folder, base, wanted))


def _read(
    github: GitHub, folder: str, base: str, ids: Iterable[str]
) -> Iterator[tuple[str, Record]]:
    """Yield records of the base branch; one that cannot be read is the guard's business there."""
    from pytest_layerguard.catalogue.records import RecordError, parse_record

    for id_ in ids:
        try:
            path = f"{folder}/{id_}.json"
            yield id_, parse_record(github.raw(path, _RECORD, ref=base), PurePosixPath(path))
        except (NotThereError, TooLargeError, RecordError):
            continue
