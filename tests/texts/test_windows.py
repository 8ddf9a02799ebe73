"""Windows, held to tables of what each contract reads and scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pytest_layerguard.bet.bet import Measure
from pytest_layerguard.catalogue import cost
from pytest_layerguard.environment.measurement_errors import MeasurementError
from pytest_layerguard.texts.windows import (
    IGNORED,
    Contract,
    TokenPositions,
    batched,
    cut,
    cut_chunks,
    cut_rolling,
)

BOS = 900


def reported(windows: list[tuple[Tensor, Tensor]]) -> list[tuple[list[int], list[int]]]:
    """What each window reads and what it scores."""
    for inputs, labels in windows:
        assert inputs.shape == labels.shape
    return [
        (inputs.tolist(), [each for each in labels.tolist() if each != IGNORED])
        for inputs, labels in windows
    ]


def span(first: int, last: int) -> list[int]:
    return list(range(first, last + 1))


@pytest.mark.parametrize(
    ("contract", "expected"),
    [
        (
            Contract(tokens=8, window=4, stride=4, start=(BOS,)),
            [([BOS, 0, 1, 2], span(0, 3)), ([BOS, 4, 5, 6], span(4, 7))],
        ),
        (
            Contract(tokens=6, window=4, stride=4, start=(-7, BOS)),
            [
                ([-7, BOS, 0, 1, 2], span(0, 3)),
                ([-7, BOS, 4], span(4, 5)),
            ],
        ),
        (
            Contract(tokens=8, window=4, stride=4, start=()),
            [(span(0, 3), span(1, 4)), (span(4, 7), span(5, 8))],
        ),
        (
            Contract(tokens=6, window=4, stride=4, start=(BOS,)),
            [([BOS, 0, 1, 2], span(0, 3)), ([BOS, 4], span(4, 5))],
        ),
        (
            Contract(tokens=6, window=4, stride=4, start=()),
            [(span(0, 3), span(1, 4)), (span(4, 5), span(5, 6))],
        ),
        (
            Contract(tokens=8, window=4, stride=2, start=()),
            [(span(0, 3), span(1, 4)), (span(2, 5), span(5, 6)), (span(4, 7), span(7, 8))],
        ),
        (
            Contract(tokens=8, window=4, stride=2, start=(BOS,)),
            [
                ([BOS, 0, 1, 2], span(0, 3)),
                ([BOS, 2, 3, 4], span(4, 5)),
                ([BOS, 4, 5, 6], span(6, 7)),
            ],
        ),
        (
            Contract(tokens=8, window=4, stride=4, start=(BOS,), last_only=True),
            [([BOS, 0, 1, 2], [3]), ([BOS, 4, 5, 6], [7])],
        ),
    ],
)
def test_the_default_contract(contract: Contract, expected: object) -> None:
    assert reported(cut(span(0, 99), contract)) == expected


@given(st.integers(1, 40), st.integers(1, 12), st.data())
def test_every_token_is_scored_once_after_the_one_before_it(
    tokens: int, window: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window))
    start = data.draw(st.sampled_from([(), (BOS,), (BOS, BOS + 1)]))
    contract = Contract(tokens, window, stride, start)
    windows = cut(span(0, contract.needed - 1), contract)
    first = 0 if start else 1
    scored = [each for _, labels in reported(windows) for each in labels]
    assert scored == span(first, first + tokens - 1)
    for inputs, labels in windows:
        assert len(inputs) <= window + len(start[1:])
        for before, after in zip(inputs.tolist(), labels.tolist(), strict=True):
            assert after == IGNORED or before == after - 1 or before in start[-1:]


def test_the_last_windows_rest_is_scored_with_all_the_context_that_fits() -> None:
    # The cases that lm-evaluation-harness tests its own function with: 34 tokens, 10 at a time, 1 of context.
    assert reported(cut_rolling(span(0, 33), 10, -7)) == [
        ([-7, *span(0, 8)], span(0, 9)),
        (span(9, 18), span(10, 19)),
        (span(19, 28), span(20, 29)),
        (span(23, 32), span(30, 33)),
    ]


@pytest.mark.parametrize(
    ("count", "context", "expected"),
    [
        (3, 10, [([-7, 0, 1], [0, 1, 2])]),
        (10, 10, [([-7, *span(0, 8)], span(0, 9))]),
        (11, 10, [([-7, *span(0, 8)], span(0, 9)), (span(0, 9), [10])]),
        (20, 10, [([-7, *span(0, 8)], span(0, 9)), (span(9, 18), span(10, 19))]),
        (3, 1, [([-7], [0]), ([0], [1]), ([1], [2])]),
    ],
)
def test_rolling_windows_at_the_edges(count: int, context: int, expected: object) -> None:
    assert reported(cut_rolling(span(0, count - 1), context, -7)) == expected


def test_an_empty_text_has_no_rolling_window() -> None:
    with pytest.raises(MeasurementError, match="no tokens"):
        cut_rolling([], 10, -7)


def test_chunks_leave_out_their_first_token_and_what_is_left_at_the_end() -> None:
    assert reported(cut_chunks(span(0, 10), 4, None)) == [
        (span(0, 2), span(1, 3)),
        (span(4, 6), span(5, 7)),
    ]
    assert reported(cut_chunks(span(0, 10), 4, 5)) == [(span(0, 2), span(1, 3))]
    with pytest.raises(MeasurementError, match="not one whole chunk"):
        cut_chunks(span(0, 10), 4, 2)


def test_a_text_that_is_too_short_is_reported() -> None:
    with pytest.raises(MeasurementError, match="7 tokens and 9 are needed to score 8"):
        cut(span(0, 6), Contract(8, 4, 4, ()))


def clusters(tokens: int, window: int, stride: int, neighbours: int) -> list[int]:
    windows = cut(span(0, tokens), Contract(tokens, window, stride, ()))
    return np.bincount(TokenPositions.of(batched(windows, 3), neighbours).windows).tolist()  # type: ignore[no-any-return]


@given(
    st.integers(1, 200),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from(["all", "last"]),
)
def test_what_explain_counts_is_what_is_cut(
    tokens: int, window: int, stride: int, positions: str
) -> None:
    stride = min(stride, window)
    measure = Measure.model_validate(
        {
            "text": {"file": "a.txt"},
            "tokens": tokens,
            "window": window,
            "stride": stride,
            "positions": positions,
        }
    )
    contract = Contract(tokens, window, stride, (BOS,), positions == "last")
    made = cut(span(0, tokens), contract)
    shared = -(-window // stride)
    assert cost.windows(measure) == len(made)
    assert cost.clusters(measure) == TokenPositions.of(batched(made, 3), shared).count


def test_a_window_is_a_cluster() -> None:
    assert clusters(32, 8, 8, 1) == [8, 8, 8, 8]
    assert clusters(28, 8, 8, 1) == [8, 8, 8, 4]


def test_less_than_half_a_window_at_the_end_is_no_cluster_of_its_own() -> None:
    assert clusters(27, 8, 8, 1) == [8, 8, 11]
    assert clusters(3, 8, 8, 1) == [3]


def test_windows_that_reach_over_the_same_text_are_one_cluster() -> None:
    assert clusters(32, 8, 2, 4) == [14, 8, 10]
    assert clusters(32, 8, 4, 2) == [12, 8, 12]


def test_ground_keeps_positions_and_tokens() -> None:
    windows = cut(span(0, 10), Contract(10, 4, 2, ()))
    ground = TokenPositions.of(batched(windows, 2), 2)
    assert ground.tokens.tolist() == span(1, 10)
    assert ground.positions.tolist() == [0, 1, 2, 3, 2, 3, 2, 3, 2, 3]
    assert ground.windows.tolist() == [0] * 6 + [1] * 4
