"""Every decision to the letter: `decisions.txt` has the words of each, and all the cases that come to it.

PYTHONPATH=tests python tests/catalogue/test_outcome_words.py    # writes it anew; read the difference
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from support.outcomes import EVERY, Key

from pytest_layerguard.bet.criteria.interval import Truth
from pytest_layerguard.bet.verdict import Verdict
from pytest_layerguard.catalogue.outcome import Case, Decision, Word, decide, error, unavailable

GOLDEN = Path(__file__).with_name("decisions.txt")
BARS = {
    "won": Truth.TRUE,
    "undecided": Truth.UNDECIDED,
    "lost": Truth.FALSE,
    "inside": Truth.FALSE,
    "inside-won": Truth.TRUE,
}


def case_of(key: Key) -> Case:
    status, record, challenge, verdict = key
    inside = challenge.startswith("inside")
    held_to = challenge in BARS and (not inside or status == "upheld")
    return Case(
        status=status,  # type: ignore[arg-type]
        verdict=Verdict(verdict),
        recorded=None if record == "none" else Verdict("LENIENT" if record == "short" else record),
        recorded_bar=Truth.FALSE if record == "short" else Truth.TRUE,
        inside=("bet-40",) if inside else (),
        undecided=("bet-40",) if challenge == "unknown" else (),
        challenged=("bet-40",) if held_to and not inside else (),
        bars={"bet-40": BARS[challenge]} if held_to else {},
    )


def cases() -> Iterator[tuple[str, Case]]:
    for key in EVERY:
        case = case_of(key)
        yield "/".join(key), case
        yield f"{'/'.join(key[:3])} unmeasured", replace(case, verdict=None)
    for key in EVERY[::11]:
        case = case_of(key)
        name = "/".join(key)
        yield f"{name} tampered", replace(case, tampered=True)
        yield f"{name} amended", replace(case, amended=True)
        yield f"{name} amended before", replace(case, amended_before=True)
        yield f"{name} records required", replace(case, require_records=True)
        yield f"{name} recording", replace(case, recording=True)
        yield (
            f"{name} amended, records required",
            replace(case, amended=True, require_records=True),
        )
        doors = {name: (*ids, "bet-41") for name, ids in vars(case).items() if ids == ("bet-40",)}
        bars = {**case.bars, "bet-41": Truth.TRUE} if case.bars else {}
        yield f"{name} two doors", replace(case, **doors, bars=bars)  # type: ignore[arg-type]


def words() -> str:
    found: dict[Decision, dict[str, None]] = {}
    for name, case in cases():
        found.setdefault(decide(case), {})[name] = None
    blocks = []
    for decision, names in found.items():
        head = f"{decision.word or 'measure'}{', passes' if decision.passed else ''}"
        lines = [head, *(f"  message: {each}" for each in decision.messages)]
        lines += [f"  warning: {each}" for each in decision.warnings]
        lines += [f"  remark: {each}" for each in decision.remarks]
        blocks.append("\n".join([*lines, *(f"    {name}" for name in names)]))
    return "\n\n".join(blocks) + "\n"


def test_every_decision_says_what_it_said() -> None:
    assert words() == GOLDEN.read_text(encoding="utf-8")


def test_what_cannot_be_measured() -> None:
    reported = error("no such file")
    assert (reported.word, reported.passed, reported.messages) == (
        Word.ERROR,
        False,
        ("no such file",),
    )
    reported = unavailable("no GPU", required=False)
    assert (reported.word, reported.passed, reported.messages) == (Word.SKIPPED, False, ("no GPU",))
    reported = unavailable("no GPU", required=True)
    assert (reported.word, reported.passed) == (Word.UNMEASURED, False)
    assert reported.messages == (
        "no GPU",
        "--layerguard-require all: a bet that cannot be measured here is a failure",
    )


if __name__ == "__main__":
    GOLDEN.write_text(words(), encoding="utf-8")
