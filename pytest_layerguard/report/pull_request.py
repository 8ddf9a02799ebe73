"""The comment on a pull request: what failed, what changed against the base branch's records, the rest folded.

The picture of a bet is text in a code block. GitHub strips inline SVG and `data:` addresses from a comment, and
an image elsewhere would be a request to a host that the comment's reader did not choose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from pytest_layerguard.bet.errors import many
from pytest_layerguard.catalogue.wording import code, cut, literal
from pytest_layerguard.report import markdown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from pytest_layerguard.bet.criteria.evaluate import Decider
    from pytest_layerguard.catalogue.records import Record
    from pytest_layerguard.report.bet_report import BetReport
    from pytest_layerguard.report.run_file import RunFile

MARKER: Final = "<!-- layerguard: the comment on bets -->"
"""The first line of the comment, by which it is found again."""
_ROWS: Final = 60


class Run(NamedTuple):
    """A run of a workflow, as GitHub describes it."""

    url: str
    commit: str
    files: str
    """The web address of the files of that commit."""


class Change(NamedTuple):
    """A bet that is not as the base branch has it recorded; an empty string where there is nothing."""

    id: str
    before: str
    now: str


def changes(
    found: RunFile, recorded: Collection[str], records: Mapping[str, Record]
) -> Iterator[Change]:
    """Yield what a run has otherwise than the records of the base branch.

    Args:
        found: The run.
        recorded: The ids that have a record there.
        records: Those records that could be read.
    """
    for bet in found.bets:
        if bet.result is None:
            continue
        now = _now(bet)
        if bet.id not in recorded:
            yield Change(bet.id, "", now)
        elif bet.id in records and (before := _before(records[bet.id])) != now:
            yield Change(bet.id, before, now)
    here = {bet.id for bet in found.bets}
    # Where a file could not be read, whose bets are gone is not known.
    for id_ in sorted(recorded) if not found.unreadable else ():
        if id_ not in here:
            yield Change(id_, _before(records[id_]) if id_ in records else "recorded", "")


def _now(bet: BetReport) -> str:
    deciding = bet.deciding
    decider = deciding.decider if deciding is not None else None
    return _stands(bet.status, bet.verdict or bet.word, decider)


def _before(record: Record) -> str:
    return _stands(record.status, record.verdict, record.judgement.deciding.decider)


def _stands(status: str, verdict: str, decider: Decider | None) -> str:
    """Return status, verdict and what decided it, with as many digits as a table shows."""
    if decider is None:
        return f"{status}, {verdict}"
    number = decider.interval
    ends = "" if number.is_point else f" [{number.low:.3g}, {number.high:.3g}]"
    who = f" of {decider.variant}" if decider.variant else ""
    return cut(f"{status}, {verdict}: {decider.metric}{who} {number.value:.3g}{ends}", 300)


def body(found: RunFile, changed: Sequence[Change], base: str, run: Run) -> str:
    """Return the whole comment, short enough for GitHub."""
    sheet = markdown.Sheet(markdown.COMMENT)
    sheet.add(f"{MARKER}\n{markdown.heading(found.bets, found.unreadable)}", _origin(run))
    markdown.add_failed(sheet, found.bets, found.unreadable, run.files)
    sheet.add(*_changes(changed, base))
    rest = [bet for bet in found.bets if not bet.failed]
    folded = f"<details><summary>{many(len(rest), 'bet')} that did not fail</summary>\n"
    if rest and sheet.add(folded):
        markdown.add_rest(sheet, found.bets, run.files)
        return f"{sheet.text}\n</details>\n"
    return sheet.text


def without_report(why: str, run: Run) -> str:
    """Return the comment on a run that left no report that could be read."""
    sheet = markdown.Sheet(markdown.COMMENT)
    sheet.add(f"{MARKER}\n## layerguard: no verdict\n", f"{literal(why)}\n", _origin(run))
    return sheet.text


def _origin(run: Run) -> str:
    return f"What [the run]({run.url}) of {run.commit[:10]} says of the bets.\n"


def _changes(changed: Sequence[Change], base: str) -> Iterator[str]:
    if not changed:
        yield f"Nothing that was measured is otherwise than in the records of {code(base)}.\n"
        return
    yield f"### Against the records of {code(base)}\n"
    rows = [f"| bet | {code(base)} | here |", "|---|---|---|"]
    rows += [
        f"| {each.id} | {literal(each.before) or 'no record'} | {literal(each.now) or 'no bet'} |"
        for each in changed[:_ROWS]
    ]
    left = len(changed) - _ROWS
    yield "\n".join([*rows, f"\n_and {left} more_" if left > 0 else ""])
