"""Parse the expressions of a bet into a small tree, by a whitelist, never by ``eval``.

The text is split into tokens and bounded first. So ``ast.parse`` sees only a short line of names, numbers
and operators.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from pytest_layerguard.bet.errors import printable, suggestion

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LONGEST: Final = 2_000
_MOST_TOKENS: Final = 250
_DEEPEST: Final = 24
_LONGEST_NUMBER: Final = 30

_TOKEN = re.compile(
    r"(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"""|(?P<string>"[^"\\\n]*"|'[^'\\\n]*')"""
    r"|(?P<operator><=|>=|==|!=|\*\*|//|<|>|[-+*/().,])"
    r"|(?P<space>[ \t\r\n]+)"
)
_HINTS: Final = {
    "=": "write == for 'is equal to', or <= or >=",
    "&": "write 'and'",
    "|": "write 'or'",
    "!": "write 'not', or != for 'differs from'",
    "≤": "write <=",
    "≥": "write >=",
    "≠": "write !=",
    "\u00d7": "write *",
    "÷": "write /",
    "\u2212": "write - (a plain minus sign)",
    "%": "write a share, such as 0.05 for 5 %",
    "**": "powers are not part of it",
    "//": "write /",
}

QuantifierWord = Literal["any", "all", "min", "max", "mean"]
QUANTIFIERS: Final[tuple[QuantifierWord, ...]] = ("any", "all", "min", "max", "mean")
MIRRORED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
"""The sign of a comparison whose sides are exchanged."""
OVER_TRUTHS: Final = frozenset({"any", "all"})
RESERVED: Final = frozenset({*QUANTIFIERS, *keyword.kwlist})


class CriterionError(ValueError):
    """An invalid expression. ``column`` counts characters from 0."""

    def __init__(self, message: str, column: int = 0) -> None:
        super().__init__(message)
        self.message = message
        self.column = column


@dataclass(frozen=True)
class _Part:
    """A part of an expression. ``column`` counts characters from 0."""

    column: int = field(default=0, compare=False, kw_only=True)


@dataclass(frozen=True)
class Number(_Part):
    """A number."""

    value: float


@dataclass(frozen=True)
class Text(_Part):
    """A quoted word, in an expression over models."""

    value: str


@dataclass(frozen=True)
class Name(_Part):
    """A name with its dotted prefixes: ``("interchange", "kl")``."""

    parts: tuple[str, ...]

    @property
    def prefix(self) -> tuple[str, ...]:
        """The names of an arm, a text, a task or a checkpoint before a metric."""
        return self.parts[:-1]

    @property
    def metric(self) -> str:
        """The name of the metric."""
        return self.parts[-1]

    def __str__(self) -> str:
        """Return the name as written."""
        return ".".join(self.parts)


@dataclass(frozen=True)
class Negative(_Part):
    """A minus sign."""

    operand: Node


@dataclass(frozen=True)
class Arithmetic(_Part):
    """Two numbers and ``+``, ``-``, ``*`` or ``/`` between them."""

    operator: str
    left: Node
    right: Node


@dataclass(frozen=True)
class Comparison(_Part):
    """``a <= b``, or a chain of comparisons."""

    operands: tuple[Node, ...]
    operators: tuple[str, ...]


@dataclass(frozen=True)
class Negation(_Part):
    """``not``."""

    operand: Node


@dataclass(frozen=True)
class Junction(_Part):
    """``and`` or ``or`` over two or more operands."""

    word: str
    operands: tuple[Node, ...]


@dataclass(frozen=True)
class Quantifier(_Part):
    """``any``, ``all``, ``min``, ``max`` or ``mean`` over the variants."""

    word: QuantifierWord
    operand: Node


Node = Number | Text | Name | Negative | Arithmetic | Comparison | Negation | Junction | Quantifier


def is_truth(node: Node) -> bool:
    """Return whether a node is true or false, rather than a number."""
    return isinstance(node, Comparison | Negation | Junction) or (
        isinstance(node, Quantifier) and node.word in OVER_TRUTHS
    )


def parse(text: str, *, quantifiers: bool, texts: bool) -> Node:
    """Return the tree of an expression that is true or false. Raises CriterionError.

    ``quantifiers`` allows ``any(...)`` and the other quantifiers, ``texts`` quoted words.
    """
    if len(text) > LONGEST:
        raise CriterionError(f"is longer than {LONGEST} characters", 0)
    _check_tokens(text, quantifiers=quantifiers, texts=texts)
    line = re.sub(r"[\t\r\n]", " ", text)
    lead = len(line) - len(line.lstrip())
    try:
        tree = ast.parse(line.strip(), mode="eval")
    except SyntaxError as error:
        column = min(len(text), max(0, (error.offset or 1) - 1) + lead)
        raise CriterionError(f"is not an expression: {error.msg}", column) from None
    node = _Reader(lead, quantifiers=quantifiers).read(tree.body)
    if not is_truth(node):
        raise CriterionError(
            f"is {_values(quantifiers)}, neither true nor false; compare it, as in "
            f"'{_example(quantifiers)}'",
            node.column,
        )
    return node


def _example(quantifiers: bool) -> str:
    return "perplexity_ratio <= 3" if quantifiers else "parameters <= 1e8"


def _values(quantifiers: bool) -> str:
    return "a number" if quantifiers else "a number or text"


def _check_tokens(text: str, *, quantifiers: bool, texts: bool) -> None:
    position = depth = count = 0
    previous = "space"
    last = ""
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise CriterionError(_unexpected(text[position]), position)
        kind, token = str(match.lastgroup), match[0]
        if kind in ("number", "name") and previous == "number":
            raise CriterionError("a number runs into what follows; write '3 * x'", position)
        if kind == "string" and not texts:
            raise CriterionError("quoted text is not part of a criterion", position)
        if kind == "string" and not (token.isascii() and token.isprintable()):
            raise CriterionError("quoted text may hold plain printable characters only", position)
        starts = kind in ("number", "name", "string") and token not in ("and", "or")
        if starts and last and last not in _UNFINISHED:
            raise CriterionError(f"nothing stands between '{last}' and '{token}'", position)
        if kind == "name" and token not in ("and", "or", "not") and keyword.iskeyword(token):
            raise CriterionError(f"'{token}' is not part of an expression here", position)
        if token in _HINTS:
            raise CriterionError(_unexpected(token), position)
        if kind == "number":
            _number(token, position)
        depth += {"(": 1, ")": -1}.get(token, 0)
        count += kind != "space"
        if depth < 0:
            raise CriterionError("')' without a '(' before it", position)
        if depth > _DEEPEST:
            raise CriterionError(f"has more than {_DEEPEST} nested parentheses", position)
        if count > _MOST_TOKENS:
            raise CriterionError(f"has more than {_MOST_TOKENS} words and signs", position)
        previous = kind
        last = last if kind == "space" else token
        position = match.end()
    if not count:
        raise CriterionError(
            f"must not be empty; an expression such as '{_example(quantifiers)}'", 0
        )
    if last in _UNFINISHED:
        raise CriterionError(f"ends after '{last}', where something must follow", position)
    if depth:
        raise CriterionError("a '(' without a ')' after it", position)


_UNFINISHED: Final = frozenset(
    ["<", "<=", ">", ">=", "==", "!=", "+", "-", "*", "/", "(", ".", ",", "and", "or", "not"]
)


def _unexpected(sign: str) -> str:
    hint = _HINTS.get(sign, "allowed: names, numbers, < <= > >= == != + - * / ( ), and, or, not")
    return f"'{printable(sign)}' is not part of an expression; {hint}"


def _number(token: str, column: int) -> float:
    if len(token) > _LONGEST_NUMBER:
        raise CriterionError(f"a number with more than {_LONGEST_NUMBER} characters", column)
    if re.match(r"0\d", token):
        raise CriterionError(
            f"a number that starts with 0; write {token.lstrip('0') or '0'}", column
        )
    value = float(token)
    if not math.isfinite(value):
        raise CriterionError("a number that is too large", column)
    return value


_ARITHMETIC: Final[dict[type[ast.operator], str]] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
}
_COMPARISONS: Final[dict[type[ast.cmpop], str]] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}


class _Reader:
    """Convert Python's tree, and refuse every node that is not listed."""

    def __init__(self, lead: int, *, quantifiers: bool) -> None:
        self.lead = lead
        self.quantifiers = quantifiers
        self.inside: str | None = None

    def read(self, node: ast.expr, depth: int = 0) -> Node:
        column = self.lead + node.col_offset
        if depth > 2 * _DEEPEST:
            raise CriterionError("is nested too deeply", column)
        deeper = depth + 1
        match node:
            case ast.Constant(value=str() as value):
                return Text(value, column=column)
            case ast.Constant(value=int() | float() as value):
                return Number(float(value), column=column)
            case ast.Name() | ast.Attribute():
                return Name(_dotted(node, column), column=column)
            case ast.UnaryOp(op=ast.Not()):
                return Negation(self._truth(node.operand, deeper), column=column)
            case ast.UnaryOp(op=ast.USub()):
                operand = self._number(node.operand, deeper)
                if isinstance(operand, Number):
                    return Number(-operand.value, column=column)
                return Negative(operand, column=column)
            case ast.UnaryOp(op=ast.UAdd()):
                return self._number(node.operand, deeper)
            case ast.BinOp() if type(node.op) in _ARITHMETIC:
                left, right = self._number(node.left, deeper), self._number(node.right, deeper)
                return Arithmetic(_ARITHMETIC[type(node.op)], left, right, column=column)
            case ast.BoolOp():
                word = "and" if isinstance(node.op, ast.And) else "or"
                operands = tuple(self._truth(value, deeper) for value in node.values)
                return Junction(word, tuple(_flat(word, operands)), column=column)
            case ast.Compare() if all(type(op) in _COMPARISONS for op in node.ops):
                values = (node.left, *node.comparators)
                numbers = tuple(self._comparable(value, deeper) for value in values)
                signs = tuple(_COMPARISONS[type(op)] for op in node.ops)
                return Comparison(numbers, signs, column=column)
            case ast.Call():
                return self._quantifier(node, column, deeper)
            case _:
                names, more = (
                    ("metrics", ", and any all min max mean")
                    if self.quantifiers
                    else ("names, quoted text", "")
                )
                raise CriterionError(
                    f"is not part of an expression here; allowed: {names}, numbers, comparisons, "
                    f"and, or, not, + - * /{more}",
                    column,
                )

    def _quantifier(self, node: ast.Call, column: int, depth: int) -> Node:
        name = node.func.id if isinstance(node.func, ast.Name) else None
        word = next((known for known in QUANTIFIERS if known == name), None)
        if word is None or not self.quantifiers:
            allowed = ", ".join(QUANTIFIERS) if self.quantifiers else "no functions"
            close = suggestion(name, QUANTIFIERS if self.quantifiers else ()) or ";"
            raise CriterionError(f"'{name}(...)' is not known{close} allowed: {allowed}", column)
        if len(node.args) != 1 or node.keywords:
            raise CriterionError(f"{word}(...) takes one expression over the variants", column)
        if self.inside is not None:
            raise CriterionError(
                f"{word}(...) inside {self.inside}(...): both range over the same variants; "
                "use one",
                column,
            )
        self.inside = word
        over_truths = word in OVER_TRUTHS
        operand = (self._truth if over_truths else self._number)(node.args[0], depth)
        self.inside = None
        if not any(names(operand)):
            raise CriterionError(
                f"{word}(...) names no metric, so it ranges over nothing; put one inside, or take "
                f"{word}(...) away",
                column,
            )
        return Quantifier(word, operand, column=column)

    def _truth(self, node: ast.expr, depth: int) -> Node:
        read = self.read(node, depth)
        if not is_truth(read):
            raise CriterionError(
                f"is {_values(self.quantifiers)} where something true or false is wanted; "
                f"compare it, as in '{_example(self.quantifiers)}'",
                read.column,
            )
        return read

    def _number(self, node: ast.expr, depth: int) -> Node:
        read = self._comparable(node, depth)
        if isinstance(read, Text):
            raise CriterionError("is text where a number is wanted", read.column)
        return read

    def _comparable(self, node: ast.expr, depth: int) -> Node:
        read = self.read(node, depth)
        if is_truth(read):
            inner = isinstance(read, Quantifier)
            hint = (
                "; put the comparison inside, as in 'any(perplexity_ratio <= 3)'" if inner else ""
            )
            raise CriterionError(f"is true or false where a number is wanted{hint}", read.column)
        return read


def _dotted(node: ast.expr, column: int) -> tuple[str, ...]:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        raise CriterionError("a dot may only follow the name of an arm, text or checkpoint", column)
    return (node.id, *reversed(parts))


def _flat(word: str, operands: Sequence[Node]) -> Iterator[Node]:
    for operand in operands:
        if isinstance(operand, Junction) and operand.word == word:
            yield from operand.operands
        else:
            yield operand


def walk(node: Node) -> Iterator[Node]:
    """Yield a node and all nodes below it, each before its parts."""
    yield node
    for part in parts_of(node):
        yield from walk(part)


def names(node: Node) -> Iterator[Name]:
    """Yield every name in a node."""
    return (part for part in walk(node) if isinstance(part, Name))


def parts_of(node: Node) -> tuple[Node, ...]:
    """Return the nodes directly below a node."""
    match node:
        case Negative() | Negation() | Quantifier():
            return (node.operand,)
        case Arithmetic():
            return (node.left, node.right)
        case Comparison() | Junction():
            return node.operands
        case _:
            return ()


def written(node: Node) -> str:
    """Return the canonical spelling of a tree, without needless parentheses."""
    return _written(node)[0]


def number(value: float) -> str:
    """Return the shortest spelling of a number that reads back as the same."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)


def _written(node: Node) -> tuple[str, int]:
    """Return the text and its precedence, larger if it binds tighter."""
    match node:
        case Number():
            return number(node.value), 9 if node.value >= 0 else 6
        case Text():
            return f'"{node.value}"' if '"' not in node.value else f"'{node.value}'", 9
        case Name():
            return str(node), 9
        case Quantifier():
            return f"{node.word}({written(node.operand)})", 9
        case Negative():
            return f"-{_within(node.operand, 6)}", 6
        case Arithmetic():
            own = 4 if node.operator in "+-" else 5
            left, right = _within(node.left, own), _within(node.right, own + 1)
            return f"{left} {node.operator} {right}", own
        case Comparison():
            words = [_within(node.operands[0], 4)]
            for sign, operand in zip(node.operators, node.operands[1:], strict=True):
                words += [sign, _within(operand, 4)]
            return " ".join(words), 3
        case Negation():
            return f"not {_within(node.operand, 2)}", 2
        case Junction():
            own = 1 if node.word == "and" else 0
            return f" {node.word} ".join(_within(part, own + 1) for part in node.operands), own


def _within(node: Node, least: int) -> str:
    text, binds = _written(node)
    return text if binds >= least else f"({text})"
