from __future__ import annotations

import itertools

import pytest

from pytest_layerguard.bet.criteria.evaluate import Criteria, Row
from pytest_layerguard.bet.criteria.interval import Interval, Truth
from pytest_layerguard.bet.verdict import Verdict, judge

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
