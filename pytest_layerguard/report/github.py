"""What GitHub Actions is told: a step's summary, annotations at file and line, grouped logs.

A runner obeys lines that it finds in a step's output. So nothing that a bet, a model or a text
says may begin a line, and every value inside a command is escaped as the runner's own toolkit does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from pytest_layerguard.bet.errors import printable
from pytest_layerguard.report import charts, markdown, text
from pytest_layerguard.report.words import outranks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pytest_layerguard.report.bet_report import BetReport
    from pytest_layerguard.report.refused import Refused
    from pytest_layerguard.report.story import Door

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
    """Whether this run is a step of GitHub Actions."""
    return environ.get("GITHUB_ACTIONS") == "true"


def command(name: str, message: str, **properties: str | int) -> str:
    """Return a workflow command, escaped so that its values can be nothing but values."""
    told = ",".join(f"{key}={_property(str(value))}" for key, value in properties.items())
    return f"::{name}{' ' if told else ''}{told}::{_data(message)}"


def _data(value: str) -> str:
    lines = (printable(line) for line in value.split("\n"))
    return "\n".join(lines).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(value: str) -> str:
    return _data(value).replace(":", "%3A").replace(",", "%2C")


def address(environ: Mapping[str, str], root: Path) -> str | None:
    """Return where the files below `root` can be seen in a browser, if the runner says so."""
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
    bets: Sequence[BetReport], refused: Sequence[Refused], environ: Mapping[str, str], root: Path
) -> Iterator[str]:
    """Yield a command for each failure, each fault of a bet file and each warning."""
    inside = _inside(environ, root) or Path()
    errors = [
        *(_fault(each.file, fault, inside) for each in refused for fault in each.faults()),
        *(_error(told, inside) for told in sorted(bets, key=outranks) if _failed(told)),
    ]
    warnings = [_warning(told, warning, inside) for told in bets for warning in told.story.warnings]
    for name, told in (("error", errors), ("warning", warnings)):
        for message, properties in told[:ANNOTATIONS]:
            yield command(name, message, **properties)


Annotation = tuple[str, dict[str, str | int]]


def _failed(told: BetReport) -> bool:
    return bool(told.entry["outcome"] == "failed")


def _fault(file: str, fault: tuple[int, int, str], inside: Path) -> Annotation:
    line, column, message = fault
    place: dict[str, str | int] = {"file": (inside / file).as_posix(), "line": line, "col": column}
    return message[:_MESSAGE], {**place, "title": "bet file"}


def _error(told: BetReport, inside: Path) -> Annotation:
    entry, story = told.entry, told.story
    deciding = next((each for each in story.criteria if each.decided and each.filled), None)
    parts = [
        f"Claim: {story.claim}" if story.claim else "",
        f"{deciding.level} {deciding.filled}" if deciding is not None else "",
        *story.messages,
        *(line for door in story.crossed for line in _crossed(door)),
    ]
    message = "\n".join(part for part in parts if part)
    return (message or entry["word"])[:_MESSAGE], {
        **_place(told, inside),
        "title": text.plain(f"{entry['id']}: {entry['word']}", _TITLE),
    }


def _crossed(door: Door) -> Iterator[str]:
    yield f"{door.id} ({door.title}), {door.file}:{door.line}"
    yield f"Its claim failed: {door.claim}"
    yield from door.numbers
    if door.instead:
        yield door.instead


def _warning(told: BetReport, warning: str, inside: Path) -> Annotation:
    return warning[:_MESSAGE], {
        **_place(told, inside),
        "title": text.plain(f"{told.entry['id']}: {told.entry['word']}", _TITLE),
    }


def _place(told: BetReport, inside: Path) -> dict[str, str | int]:
    return {"file": (inside / told.entry["file"]).as_posix(), "line": told.entry["line"]}


def groups(bets: Sequence[BetReport]) -> Iterator[str]:
    """Yield a fold of the log for each bet that was measured: its criteria and its figures."""
    for told in bets:
        if told.story.result is None:
            continue
        entry = told.entry
        yield command("group", f"{entry['id']}: {entry['word']}, {entry['outcome']}")
        yield from (f"| {printable(line)}" for line in _logged(told))
        yield command("endgroup", "")


def _logged(told: BetReport) -> Iterator[str]:
    yield f"claim: {text.plain(told.story.claim, 600)}"
    for each in told.story.criteria:
        yield f"{each.level}: {text.plain(each.written, 300)}"
        if each.filled:
            yield f"  {text.plain(each.filled, 600)}"
    for metric in told.story.metrics[:3]:
        figure = charts.rows(told.story, metric)
        if figure is not None:
            yield from markdown.drawn(figure)


def summarise(
    bets: Sequence[BetReport], refused: Sequence[Refused], environ: Mapping[str, str], root: Path
) -> str | None:
    """Append to the step's summary, if there is one with room; return what went wrong, if anything.

    A summary is a convenience: that it cannot be written is said, and fails nothing.
    """
    path = environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return None
    try:
        there = Path(path).stat().st_size if Path(path).exists() else 0
        room = SUMMARY - there - 1
        if room < _WORTH:
            return "the step's summary has no room left"
        words = markdown.render(bets, refused, address=address(environ, root), limit=room)
        with Path(path).open("ab") as file:
            file.write(b"\n" + words.encode("utf-8", "replace"))
    except OSError as error:
        return f"cannot write the step's summary: {error.strerror}"
    return None
