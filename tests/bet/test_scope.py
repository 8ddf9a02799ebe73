from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_layerguard.bet.criteria import CriterionError
from pytest_layerguard.bet.interval import Truth
from pytest_layerguard.bet.scope import FACTS, ModelScope

SMALL = {
    "parameters": 8e5,
    "layers": 4,
    "experts": 16,
    "hidden_size": 16,
    "family": "qwen3_moe",
    "name": "reference",
}


@pytest.mark.parametrize(
    ("text", "covers"),
    [
        ("parameters <= 1e8", True),
        ("parameters > 1e8", False),
        ("1e5 < parameters <= 1e8", True),
        ("layers < 8 and experts > 1", True),
        ("layers > 8 or experts > 1", True),
        ("not layers > 8", True),
        ('family == "qwen3_moe"', True),
        ("family != 'qwen3_moe'", False),
        ('name == "reference" and hidden_size * 2 <= 64', True),
        ("parameters / layers >= 2e5", True),
        ("-layers < 0", True),
        ("layers - experts == -12", True),
        ("layers + 1 == 5", True),
    ],
)
def test_scope(text, covers):
    scope = ModelScope.parse(text)
    assert scope.covers(SMALL) is Truth.of(covers)
    assert ModelScope.parse(scope.canonical) == scope
    assert scope.facts <= set(FACTS)


@pytest.mark.parametrize(
    ("text", "truth"),
    [
        ("experts > 1", Truth.UNDECIDED),
        ("-experts * 2 > 1", Truth.UNDECIDED),
        ("experts > 1 and layers > 8", Truth.FALSE),
        ("experts > 1 or layers < 8", Truth.TRUE),
        ("layers / 0 > 1", Truth.UNDECIDED),
    ],
)
def test_what_is_not_known_is_undecided(text, truth):
    facts = {**SMALL, "experts": None}
    assert ModelScope.parse(text).covers(facts) is truth
    facts.pop("experts")
    assert ModelScope.parse(text).covers(facts) is truth


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("parameter <= 1", 0, "did you mean 'parameters'?"),
        ("a.layers <= 1", 0, "is not known of a model"),
        ("layers", 0, "is a number, neither true nor false"),
        ("family", 0, "is a number, neither true nor false"),
        ('family < "a"', 0, "text can only be compared with == or !="),
        ("family == 3", 0, "compares text with a number"),
        ('layers == "3"', 0, "compares text with a number"),
        ('layers + "a" == 3', 9, "is text where a number is wanted"),
        ("name * 2 > 3", 0, "is text where a number is wanted"),
        ("-name > 3", 1, "is text where a number is wanted"),
        ("max(layers) > 3", 0, "no functions"),
        ('name == "a\\n"', 8, "is not part of an expression"),
        ('name == "\x1b"', 8, "plain printable"),
        ('name == "é"', 8, "plain printable"),
    ],
)
def test_what_is_no_scope(text, column, message):
    with pytest.raises(CriterionError) as caught:
        ModelScope.parse(text)
    assert message in caught.value.message
    assert caught.value.column == column


def taken(text: str) -> ModelScope | None:
    try:
        return ModelScope.parse(text)
    except CriterionError:
        return None


WORDS = "( ) and or not < <= == != + - * / 1 2e3 'a' \"b\" layers family name experts . ,"


@given(st.text(max_size=200) | st.lists(st.sampled_from(WORDS.split())).map(" ".join))
def test_no_text_crashes_the_parser_or_the_evaluation(text):
    scope = taken(text)
    if scope is not None:
        assert scope.covers(SMALL) in set(Truth)
        assert scope.covers({}) in set(Truth)


def test_a_scope_equals_other_spellings_of_itself_only():
    assert ModelScope.parse("layers<4") == ModelScope.parse("(layers) < 4")
    assert ModelScope.parse("layers < 4") != ModelScope.parse("layers < 5")
    assert ModelScope.parse("layers < 4") != "layers < 4"


@pytest.mark.parametrize(
    ("text", "facts", "truth"),
    [
        ('name == "x"', {}, Truth.UNDECIDED),
        ('name != "x"', {"name": None}, Truth.UNDECIDED),
        ('"x" == name', {"name": "x"}, Truth.TRUE),
        ('name != "x"', {"name": "x"}, Truth.FALSE),
        ("1 < layers < 4", {"layers": 4}, Truth.FALSE),
        ("1 < layers <= 4", {"layers": 4}, Truth.TRUE),
        ("-layers * 2 + 1 < -hidden_size / 2 - 3", {"layers": 9, "hidden_size": 8}, Truth.TRUE),
        ("-layers < 0", {"layers": None}, Truth.UNDECIDED),
        ("layers + hidden_size < 0", {"layers": 3}, Truth.UNDECIDED),
        ('layers < 4 and family == "m"', {"family": "n"}, Truth.FALSE),
        ('layers < 4 or family == "m"', {"family": "m"}, Truth.TRUE),
        ("not layers < 4", {"layers": 4}, Truth.TRUE),
    ],
)
def test_what_is_covered_fact_by_fact(text, facts, truth):
    assert ModelScope.parse(text).covers(facts) is truth
