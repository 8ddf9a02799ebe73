"""What every combination of status, record, challenge and verdict must come to."""

from __future__ import annotations

import itertools
from typing import Final

VERDICTS: Final = ("STRICT", "LENIENT", "INCONCLUSIVE", "FALSIFIED", "CATASTROPHIC")
STATUSES: Final = ("proposed", "upheld", "falsified")
RECORDS: Final = ("none", *VERDICTS, "short")
"""The verdict of the record; `short`: held by its own criteria, short of the bar it challenged."""
CHALLENGES: Final = ("none", "won", "undecided", "lost", "inside", "inside-won", "unknown")
"""`won` to `lost`: a challenge and its bar. `inside`: in a closed door without a challenge, where
the bar would be missed, or (`inside-won`) met. `unknown`: whether it is inside is not known."""

GROUPS: Final = {
    "*": RECORDS,
    "held": ("STRICT", "LENIENT"),
    "lost": ("FALSIFIED", "CATASTROPHIC", "short"),
    "not-held": ("INCONCLUSIVE", "FALSIFIED", "CATASTROPHIC", "short"),
    "not-lost": ("none", "STRICT", "LENIENT", "INCONCLUSIVE"),
}
"""What stands for several records in the table."""
CHALLENGE_GROUPS: Final = {
    "*": CHALLENGES,
    "not-barred": ("none", "won", "inside", "inside-won", "unknown"),
}

TABLE: Final = """
status    record   challenge         | STRICT       LENIENT      INCONCLUSIVE FALSIFIED    CATASTROPHIC
proposed  not-lost none              | pass         pass         undecided    fails        fails
proposed  not-lost won               | won          won          undecided    loses        loses
proposed  not-lost undecided         | open         open         undecided    loses        loses
proposed  not-lost lost              | short        short        short        loses        loses
proposed  not-lost inside,inside-won | crossed      crossed      crossed      crossed      crossed
proposed  not-lost unknown           | skip         skip         skip         skip         skip
proposed  lost     *                 | has-lost     *            *            *            *
upheld    none     none              | new          new          new-unproven new-fails    new-fails
upheld    none     won               | new          new          new-unproven new-fails    new-fails
upheld    none     undecided         | open         open         new-unproven new-fails    new-fails
upheld    none     lost              | short        short        new-unproven new-fails    new-fails
upheld    none     inside,inside-won | crossed-new  *            *            *            *
upheld    none     unknown           | skip         skip         skip         skip         skip
upheld    STRICT   none,won,unknown  | pass         worse        worse-unsure regressed    regressed
upheld    STRICT   undecided         | open         worse        worse-unsure regressed    regressed
upheld    STRICT   lost              | short        worse        worse-unsure regressed    regressed
upheld    STRICT   inside            | elsewhere    worse        worse-unsure regressed    regressed
upheld    STRICT   inside-won        | contradicts  worse        worse-unsure regressed    regressed
upheld    LENIENT  none,won,unknown  | pass         pass         worse-unsure regressed    regressed
upheld    LENIENT  undecided         | open         open         worse-unsure regressed    regressed
upheld    LENIENT  lost              | short        short        worse-unsure regressed    regressed
upheld    LENIENT  inside            | elsewhere    elsewhere    worse-unsure regressed    regressed
upheld    LENIENT  inside-won        | contradicts  contradicts  worse-unsure regressed    regressed
upheld    not-held *                 | never-held   *            *            *            *
falsified none     not-barred        | overturned   overturned   new-unsure   new-stands   new-stands
falsified none     undecided         | new-unsure   new-unsure   new-unsure   new-stands   new-stands
falsified none     lost              | new-short    new-short    new-short    new-stands   new-stands
falsified held     *                 | has-won      *            *            *            *
falsified not-held not-barred        | overturned   overturned   unsure       stands       stands
falsified not-held undecided         | unsure       unsure       unsure       stands       stands
falsified not-held lost              | stays-short  stays-short  stays-short  stands       stands
"""

MEASURED: Final = "measured"
"""Stands for the verdict that was measured, as the word."""

ENDS: Final[dict[str, tuple[str, bool, str]]] = {
    # cell: the word, whether the test passes, what its messages or else its warnings say
    "pass": (MEASURED, True, ""),
    "fails": (MEASURED, False, "the claim does not hold; keep the bet as status: falsified"),
    "undecided": ("INCONCLUSIVE", False, "an interval straddles a bar; measure more"),
    "open": ("INCONCLUSIVE", False, "the claim holds, but whether it meets the bar"),
    "won": (MEASURED, True, "the challenge of bet-40 won: the catalogue should be revisited"),
    "loses": ("CROSSED", False, "the claim does not hold: {verdict}; bet-40 stands"),
    "short": ("CROSSED", False, "short of the bar (the lenient criterion) of bet-40, which stands"),
    "crossed": ("CROSSED", False, "bet-40 closed this door, so nothing was measured"),
    "crossed-new": ("CROSSED", False, "says upheld but has no record"),
    "skip": ("SKIPPED", False, "whether bet-40 closed this door is not known"),
    "has-lost": ("{lost}", False, "status: proposed contradicts the record"),
    "never-held": ("REGRESSED", False, "status: upheld contradicts the record"),
    "has-won": ("OVERTURNED", False, "status: falsified contradicts the record"),
    "new": (MEASURED, True, "unrecorded"),
    "new-unproven": ("REGRESSED", False, "the claim is not known to hold: {verdict}"),
    "new-fails": ("REGRESSED", False, "the claim does not hold: {verdict}"),
    "worse": ("REGRESSED", False, "recorded as STRICT, now only LENIENT"),
    "regressed": ("REGRESSED", False, "the claim no longer holds: {verdict}, recorded as"),
    "worse-unsure": ("REGRESSED", False, "is no longer known to hold: INCONCLUSIVE"),
    "elsewhere": (MEASURED, True, "without the bar of bet-40: see that its claim is another one"),
    "contradicts": (MEASURED, True, "the catalogue contradicts itself"),
    "overturned": ("OVERTURNED", False, "the claim holds here: {verdict}"),
    "stands": (MEASURED, True, ""),
    "new-stands": (MEASURED, True, "unrecorded"),
    "unsure": ("INCONCLUSIVE", True, "could neither be confirmed nor overturned here"),
    "new-unsure": ("INCONCLUSIVE", True, "could neither be confirmed nor overturned here"),
    "stays-short": (MEASURED, True, "short of the bar (the lenient criterion) of bet-40"),
    "new-short": (MEASURED, True, "short of the bar (the lenient criterion) of bet-40"),
}
REFUSED: Final = frozenset({"crossed", "crossed-new", "skip", "has-lost", "never-held", "has-won"})
"""Cells that are decided without measuring."""

Key = tuple[str, str, str, str]


def expanded() -> dict[Key, str]:
    cells: dict[Key, str] = {}
    for line in TABLE.strip().splitlines()[1:]:
        left, right = line.split("|")
        status, records, challenges = left.split()
        columns = right.split()
        columns = [column if column != "*" else columns[0] for column in columns]
        for record, challenge in itertools.product(
            GROUPS.get(records, (records,)),
            CHALLENGE_GROUPS.get(challenges) or challenges.split(","),
        ):
            for verdict, cell in zip(VERDICTS, columns, strict=True):
                key = (status, record, challenge, verdict)
                assert key not in cells, f"twice in the table: {key}"
                cells[key] = cell
    return cells


CELLS: Final = expanded()
EVERY: Final = list(itertools.product(STATUSES, RECORDS, CHALLENGES, VERDICTS))


def expected(key: Key) -> tuple[str, bool, str]:
    _, record, _, verdict = key
    word, passed, reported = ENDS[CELLS[key]]
    lost = "CROSSED" if record == "short" else record
    word = verdict if word == MEASURED else word.format(lost=lost)
    return word, passed, reported.format(verdict=verdict)
