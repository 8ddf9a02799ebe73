from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest

from pytest_layerguard.bet import power
from pytest_layerguard.bet.criteria import Interval, Row
from pytest_layerguard.bet.interval import Truth
from pytest_layerguard.bet.model import Criteria
from pytest_layerguard.bet.verdict import Verdict, judge, tokens_for_verdict

# A value of kl below, across and above the bar 1.
ENDS = {
    Truth.TRUE: Interval(0.5, 0.4, 0.6),
    Truth.UNDECIDED: Interval(1, 0.5, 1.5),
    Truth.FALSE: Interval(2, 1.9, 2.1),
}


def rows(strict: Truth, lenient: Truth, catastrophic: Truth) -> list[Row]:
    metrics = {
        "kl": ENDS[strict],
        "perplexity_ratio": ENDS[lenient],
        "top1_agreement": ENDS[catastrophic],
    }
    return [Row("skip-0", "0", None, None, None, metrics)]


FULL = Criteria.model_validate(
    {"strict": "kl <= 1", "lenient": "perplexity_ratio <= 1", "catastrophic": "top1_agreement <= 1"}
)


def expected(strict: Truth, lenient: Truth, catastrophic: Truth) -> tuple[Verdict, str]:
    """The table, read from top to bottom."""
    if catastrophic is Truth.TRUE:
        return Verdict.CATASTROPHIC, "catastrophic"
    if catastrophic is Truth.FALSE:
        if strict is Truth.TRUE:
            return Verdict.STRICT, "strict"
        if lenient is Truth.TRUE:
            return Verdict.LENIENT, "lenient"
    if lenient is Truth.FALSE:
        return Verdict.FALSIFIED, "lenient"
    return Verdict.INCONCLUSIVE, "lenient" if lenient is Truth.UNDECIDED else "catastrophic"


@pytest.mark.parametrize("truths", list(itertools.product(Truth, repeat=3)))
def test_the_table(truths):
    judgement = judge(FULL, rows(*truths))
    assert (judgement.verdict, judgement.decided_by) == expected(*truths)
    assert judgement.deciding is getattr(judgement, judgement.decided_by)
    assert bool(judgement.straddling) is (judgement.verdict is Verdict.INCONCLUSIVE)


@pytest.mark.parametrize(
    ("lenient", "verdict"),
    [
        (Truth.TRUE, Verdict.LENIENT),
        (Truth.UNDECIDED, Verdict.INCONCLUSIVE),
        (Truth.FALSE, Verdict.FALSIFIED),
    ],
)
def test_lenient_alone(lenient, verdict):
    criteria = Criteria.model_validate({"lenient": "perplexity_ratio <= 1"})
    judgement = judge(criteria, rows(Truth.FALSE, lenient, Truth.FALSE))
    assert judgement.verdict is verdict
    assert judgement.strict is None
    assert judgement.catastrophic is None


def test_what_holds_and_what_fails():
    assert [verdict.name for verdict in Verdict if verdict.holds] == ["STRICT", "LENIENT"]
    assert [verdict.name for verdict in Verdict if verdict.fails] == ["FALSIFIED", "CATASTROPHIC"]
    assert f"{Verdict.STRICT}" == "STRICT"


@dataclass
class Asked:
    """What the number of tokens was asked of."""

    decided: Callable[[Sequence[Row]], bool]
    rows: Sequence[Row]
    ground: tuple[int, ...]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    found: list[Asked] = []

    def answer(decided: Callable[[Sequence[Row]], bool], rows: Sequence[Row], *ground: int) -> int:
        found.append(Asked(decided, rows, ground))
        return 4096

    monkeypatch.setattr(power, "tokens_for_rows", answer)
    return found


MEASURED = {
    name: Interval(1, 0.5, 1.5)
    for name in ("size_ratio", "top1_agreement", "kl", "perplexity", "perplexity_ratio", "swap_kl")
}


def test_tokens_are_told_of_what_the_criteria_name_alone(asked: list[Asked]) -> None:
    row = Row("skip-0", "0", "arm", "text", "checkpoint", MEASURED)
    other = replace(row, variant="skip-1", metrics={"swap_kl": Interval(1, 0.5, 1.5)})
    assert tokens_for_verdict(FULL, [row, other], 1024, 8, 2) == 4096
    (one,) = asked
    assert one.ground == (1024, 8, 2)
    names = ("top1_agreement", "kl", "perplexity_ratio")
    assert one.rows == [
        replace(row, metrics={name: MEASURED[name] for name in names}),
        replace(other, metrics={}),
    ]


def test_tokens_are_the_same_in_every_process(asked: list[Asked]) -> None:
    # The draws of a metric hang on its place among the metrics, which no order of a set may decide.
    criteria = Criteria.model_validate({"lenient": " + ".join(MEASURED) + " <= 1"})
    for metrics in (MEASURED, dict(reversed(MEASURED.items()))):
        tokens_for_verdict(criteria, [Row("skip-0", "0", None, None, None, metrics)], 1024, 8, 1)
        assert list(asked.pop().rows[0].metrics) == list(metrics)


def test_tokens_suffice_where_there_is_a_verdict(asked: list[Asked]) -> None:
    lenient = Criteria.model_validate({"lenient": "perplexity_ratio <= 1"})
    for criteria in (FULL, lenient):
        tokens_for_verdict(criteria, rows(*[Truth.UNDECIDED] * 3), 1024, 8, 1)
        for truths in itertools.product(Truth, repeat=3):
            decided = judge(criteria, rows(*truths)).verdict is not Verdict.INCONCLUSIVE
            assert asked[-1].decided(rows(*truths)) is decided
