from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pytest_layerguard.bet.criteria.interval import Truth
from pytest_layerguard.bet.criteria.parse import CriterionError
from pytest_layerguard.bet.criteria.scope import FACTS, ModelScope

SMALL = {
    "parameters": 8e5,
    "layers": 4,
    "experts": 16,
    "hidden_size": 16,
    "family": "qwen3_moe",
    "name": "reference",
}


ALLOWED = "parameters, layers, experts, hidden_size, family, name"
EXAMPLE = "compare it, as in 'parameters <= 1e8'"
MIXED = "compares text with a number; family and name are text in quotes, the others are numbers"


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
        (
            "layers < 4 and parameter <= 1",
            15,
            f"'parameter' is not known of a model, did you mean 'parameters'? allowed: {ALLOWED}",
        ),
        ("zzz <= 1", 0, f"'zzz' is not known of a model; allowed: {ALLOWED}"),
        (
            "1 < 2*a.b.layers",
            6,
            f"'a.b.layers' is not known of a model, did you mean 'layers'? allowed: {ALLOWED}",
        ),
        (
            " layers.a < 1",
            1,
            f"'layers.a' is not known of a model, did you mean 'layers'? allowed: {ALLOWED}",
        ),
        # A name that is not known is reported before what a known one may be compared with.
        ("family < 3 and zzz < 3", 15, f"'zzz' is not known of a model; allowed: {ALLOWED}"),
        (" layers", 1, f"is a number or text, neither true nor false; {EXAMPLE}"),
        ("family", 0, f"is a number or text, neither true nor false; {EXAMPLE}"),
        (
            "layers < 4 and family",
            15,
            f"is a number or text where something true or false is wanted; {EXAMPLE}",
        ),
        (" ", 0, "must not be empty; an expression such as 'parameters <= 1e8'"),
        (
            "layers < 4, layers < 8",
            0,
            "is not part of an expression here; allowed: names, quoted text, numbers, "
            "comparisons, and, or, not, + - * /",
        ),
        ('layers < 4 and family < "a"', 15, "text can only be compared with == or !="),
        ('  family != name <= "a"', 2, "text can only be compared with == or !="),
        ("1 < layers and family == 3", 15, MIXED),
        ('layers == "3"', 0, MIXED),
        ('name == "3" == layers', 0, MIXED),
        ('layers + "a" == 3', 9, "is text where a number is wanted"),
        ("3 == 1 + name", 9, "is text where a number is wanted"),
        ("name * 2 > 3", 0, "is text where a number is wanted"),
        ("3 > -name", 5, "is text where a number is wanted"),
        ("max(layers) > 3", 0, "'max(...)' is not known; allowed: no functions"),
        ("any(layers > 3)", 0, "'any(...)' is not known; allowed: no functions"),
        (
            'name == "a\\n"',
            8,
            "'\"' is not part of an expression; allowed: names, numbers, < <= > >= == != "
            "+ - * / ( ), and, or, not",
        ),
        ('name == "\x1b"', 8, "quoted text may hold plain printable characters only"),
        ('name == "é"', 8, "quoted text may hold plain printable characters only"),
    ],
)
def test_what_is_no_scope(text, column, message):
    with pytest.raises(CriterionError) as caught:
        ModelScope.parse(text)
    assert (caught.value.column, caught.value.message) == (column, message)


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
    spellings = ("layers<4", "(layers) < 4", "layers < 5")
    assert len({ModelScope.parse(text) for text in spellings}) == 2
    assert len({hash(ModelScope.parse(text)) for text in spellings}) == 2


def test_a_scope_is_shown_as_it_was_written_and_kept_in_one_spelling():
    scope = ModelScope.parse(" (layers)<\t4\n or  name=='a' ")
    assert scope.text == "(layers)<\t4\n or  name=='a'"
    assert str(scope) == "(layers)< 4 or name=='a'"
    assert repr(scope) == "ModelScope.parse(\"(layers)< 4 or name=='a'\")"
    assert scope.canonical == 'layers < 4 or name == "a"'
    assert scope.facts == {"layers", "name"}
    assert ModelScope.parse("1 < 2").facts == frozenset()


def test_a_field_takes_a_scope_or_the_text_of_one_and_keeps_the_one_spelling():
    field = TypeAdapter(ModelScope)
    scope = field.validate_python("(layers)<4")
    assert scope == ModelScope.parse("layers < 4")
    assert field.validate_python(scope) is scope
    assert field.dump_python(scope) == "layers < 4"
    for mode in ("validation", "serialization"):
        schema = {"type": "string", "minLength": 1, "maxLength": 2000}
        assert field.json_schema(mode=mode) == schema


@pytest.mark.parametrize(
    ("value", "context"),
    [
        (3, {"message": "must be an expression such as 'parameters <= 1e8', not 3"}),
        (None, {"message": "must be an expression such as 'parameters <= 1e8', not null"}),
        (" family < 'a'", {"message": "text can only be compared with == or !=", "offset": 1}),
    ],
)
def test_a_field_says_what_is_wrong_and_where(value, context):
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(ModelScope).validate_python(value)
    (found,) = caught.value.errors()
    assert (found["msg"], found["ctx"]) == (context["message"], context)


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
        ('name == family == "x"', {"name": "x", "family": "x"}, Truth.TRUE),
        ('name == family == "x"', {"name": "y", "family": "x"}, Truth.FALSE),
        ('name == family == "x"', {"name": "x"}, Truth.UNDECIDED),
        ("1 < layers < hidden_size < 9", {"layers": 2, "hidden_size": 9}, Truth.FALSE),
        ("1 < layers < hidden_size < 9", {"layers": 0}, Truth.FALSE),
        ("layers / hidden_size == 0.5", {"layers": 2, "hidden_size": 4}, Truth.TRUE),
        ("layers * hidden_size == 8", {"layers": 2, "hidden_size": 4}, Truth.TRUE),
        ("layers / hidden_size < 1", {"hidden_size": 4}, Truth.UNDECIDED),
        # Whoever fills in the facts: a word where a number belongs decides nothing.
        ("layers < 4", {"layers": "4"}, Truth.UNDECIDED),
        ("-layers < 4", {"layers": "4"}, Truth.UNDECIDED),
        ("layers + 1 < 4", {"layers": "4"}, Truth.UNDECIDED),
        ('name == "4"', {"name": 4}, Truth.UNDECIDED),
    ],
)
def test_what_is_covered_fact_by_fact(text, facts, truth):
    assert ModelScope.parse(text).covers(facts) is truth
