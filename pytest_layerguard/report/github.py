"""Reports for GitHub Actions: a step's summary, annotations at file and line, grouped logs.

A runner executes commands that it finds in a step's output. So no text of a bet, a model or a data set
may begin a line, and every value inside a command is escaped as the runner's own toolkit does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from pytest_layerguard.bet.errors import printable
from pytest_layerguard.catalogue.wording import cut
from pytest_layerguard.report import charts, markdown
from pytest_layerguard.report.bet_report import by_urgency

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_layerguard.report.bet_report import BetReport, ClosedDoor, UnreadableFile

ANNOTATIONS: Final = 10
"""Errors, and likewise warnings, of one step that GitHub shows."""
SUMMARY: Final = 1024 * 1024
"""Bytes of a step's summary; GitHub drops a larger one whole."""
_WORTH: Final = 2_000
"""Bytes below which a summary is not worth adding."""
_MESSAGE: Final = 3_000
_TITLE: Final = 150
_SERVER: Final = re.compile(r"https://[A-Za-z0-9.-]+(:\d{1,5})?")
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
_COMMIT: Final = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def active(environ: Mapping[str, str]) -> bool:
    """Return whether this run is a step of GitHub Actions."""
    return environ.get("GITHUB_ACTIONS") == "true"


def command(name: str, message: str, **properties: str | int) -> str:
    """Return a workflow command; its values are escaped, so that none can add a command."""
    written = ",".join(f"{key}={_property(str(value))}" for key, value in properties.items())
    return f"::{name}{' ' if written else ''}{written}::{_data(message)}"


def _data(value: str) -> str:
    lines = (printable(line) for line in value.split("\n"))
    return "\n".join(lines).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")


def address(environ: Mapping[str, str], root: Path) -> str | None:
    """Return the web address of the files below `root`, or None if the runner does not name it."""
    server, name = environ.get("GITHUB_SERVER_URL", ""), environ.get("GITHUB_REPOSITORY", "")
    commit = environ.get("GITHUB_SHA", "")
    inside = _inside(environ, root)
    if inside is None or not (
        _SERVER.fullmatch(server) and _REPOSITORY.fullmatch(name) and _COMMIT.fullmatch(commit)
    ):
        return None
    below = "" if inside == Path() else f"/{quote(inside.as_posix())}"
    return f"{server}/{name}/blob/{commit}{below}"


def _inside(environ: Mapping[str, str], root: Path) -> Path | None:
    """Return the root as a path from the checkout, which is what GitHub names files from."""
    workspace = environ.get("GITHUB_WORKSPACE")
    if not workspace:
        return Path()
    try:
        return root.resolve().relative_to(Path(workspace).resolve())
    except (ValueError, OSError):
        return None


def annotated(
    bets: Sequence[BetReport],
    unreadable: Sequence[UnreadableFile],
    environ: Mapping[str, str],
    root: Path,
) -> Iterator[str]:
    """Yield a command for each failure, each fault of a bet file and each warning."""
    inside = _inside(environ, root) or Path()
    errors = [
        *(_fault(each.file, fault, inside) for each in unreadable for fault in each.faults()),
        *(_annotation(bet, _failure(bet), inside) for bet in by_urgency(bets) if bet.failed),
    ]
    warnings = [_annotation(bet, warning, inside) for bet in bets for warning in bet.warnings]
    for name, found in (("error", errors), ("warning", warnings)):
        for message, properties in found[:ANNOTATIONS]:
            yield command(name, message, **properties)


Annotation = tuple[str, dict[str, str | int]]


def _fault(file: str, fault: tuple[int, int, str], inside: Path) -> Annotation:
    line, column, message = fault
    place: dict[str, str | int] = {"file": (inside / file).as_posix(), "line": line, "col": column}
    return message[:_MESSAGE], {**place, "title": "bet file"}


def _annotation(bet: BetReport, message: str, inside: Path) -> Annotation:
    return message[:_MESSAGE], {
        "file": (inside / bet.file).as_posix(),
        "line": bet.line,
        "title": cut(f"{bet.id}: {bet.word}", _TITLE),
    }


def _failure(bet: BetReport) -> str:
    parts = [
        f"Claim: {bet.claim}" if bet.claim else "",
        f"{bet.deciding.level} {bet.deciding.filled}" if bet.deciding is not None else "",
        *bet.own_messages,
        *(line for door in bet.doors for line in _door(door)),
    ]
    return "\n".join(part for part in parts if part) or bet.word


def _door(door: ClosedDoor) -> Iterator[str]:
    yield f"{door.id} ({door.title}), {door.file}:{door.line}"
    yield f"Its claim failed: {door.claim}"
    yield from door.numbers
    if door.instead:
        yield door.instead


def groups(bets: Sequence[BetReport]) -> Iterator[str]:
    """Yield a group of log lines for each bet that was measured: its criteria and its figures."""
    for bet in bets:
        if bet.result is None:
            continue
        yield command("group", f"{bet.id}: {bet.word}, {bet.outcome}")
        yield from (f"| {printable(line)}" for line in _logged(bet))
        yield command("endgroup", "")


def _logged(bet: BetReport) -> Iterator[str]:
    yield f"claim: {cut(bet.claim, 600)}"
    for each in bet.criteria:
        yield f"{each.level}: {cut(each.written, 300)}"
        if each.filled:
            yield f"  {cut(each.filled, 600)}"
    for metric in bet.metrics[:3]:
        figure = charts.bar_chart(bet, metric)
        if figure is not None:
            yield from markdown.drawn(figure)


def summarise(
    bets: Sequence[BetReport],
    unreadable: Sequence[UnreadableFile],
    environ: Mapping[str, str],
    root: Path,
) -> str | None:
    """Append to the step's summary, if there is one with room; return an error message or None.

    A summary is a convenience: the run passes where it cannot be written.
    """
    path = environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return None
    try:
        there = Path(path).stat().st_size if Path(path).exists() else 0
        room = SUMMARY - there - 1
        if room < _WORTH:
            return "the step's summary has no room left"
        added = markdown.render(bets, unreadable, address=address(environ, root), limit=room)
        with Path(path).open("ab") as file:
            file.write(b"\n" + added.encode("utf-8", "replace"))
    except OSError as error:
        return f"cannot write the step's summary: {error.strerror}"
    return None
