"""The layers, or pairs of layers, that an intervention changes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeGuard

from pydantic_core import CoreSchema, core_schema

from pytest_layerguard.bet.errors import many, suggestion
from pytest_layerguard.bet.validation import KEY, LIMITS, invalid, shown, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

LARGEST_LAYER: Final = 9_999
"""No decoder has more layers. A larger index is an error that would show only after loading the model."""

LAYERS_FORMS: Final = "all, an index, a list of indices, or {each: all} / {each: [0, 3]}"
PAIRS_FORMS: Final = (
    "a list of pairs [[4, 5], [8, 9]], or {each: all}, {each: adjacent}, {each: {max_gap: 3}}, "
    "{each: [[4, 5], [8, 9]]}"
)

_INDEX_SCHEMA: Final = {"type": "integer", "minimum": -LARGEST_LAYER - 1, "maximum": LARGEST_LAYER}
_INDICES_SCHEMA: Final = {
    "type": "array",
    "items": _INDEX_SCHEMA,
    "minItems": 1,
    "maxItems": LIMITS.targets,
    "uniqueItems": True,
}
_PAIR_SCHEMA: Final = {**_INDICES_SCHEMA, "minItems": 2, "maxItems": 2}
_PAIRS_SCHEMA: Final = {
    "type": "array",
    "items": _PAIR_SCHEMA,
    "minItems": 1,
    "maxItems": LIMITS.targets,
}

Pair = tuple[int, int]
PairRule = Literal["all", "adjacent"]


class TargetError(ValueError):
    """A target that the model does not have."""


class Target(ABC):
    """Layers or pairs of layers, together in one variant or, with ``each``, each in its own."""

    each: bool

    @classmethod
    @abstractmethod
    def parse(cls, value: object) -> Self:
        """Return the target for plain data. Raises pydantic's ValidationError."""

    @abstractmethod
    def written(self) -> object:
        """Return the target as plain data in its canonical form."""

    @abstractmethod
    def variants(self, layers: int) -> tuple[Self, ...]:
        """Return the target of each variant, with indices from 0. Raises TargetError."""

    @abstractmethod
    def may_equal(self, other: Target) -> bool:
        """Return whether some model has the same variants for both."""

    @abstractmethod
    def label(self) -> str:
        """Return the end of a slug: ``3``, ``4-5`` or ``all``."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda target: target.written()
            ),
        )


@dataclass(frozen=True)
class LayersTarget(Target):
    """``layers:`` of a bet. ``indices`` is None for all; negative ones count from the end."""

    each: bool
    indices: tuple[int, ...] | None

    @classmethod
    def parse(cls, value: object) -> LayersTarget:
        """Return the target for plain data. Raises pydantic's ValidationError."""
        if isinstance(value, dict):
            each = _only_each(value, LAYERS_FORMS)
            if each != "all" and not isinstance(each, list):
                raise invalid(f"must be all or a list of indices, not {shown(each)}", "each")
            return cls(each=True, indices=_layers(each, ("each",)))
        return cls(each=False, indices=_layers(value, ()))

    def written(self) -> object:
        """Return the target as plain data in its canonical form."""
        listed: object = "all" if self.indices is None else sorted(self.indices)
        return {"each": listed} if self.each else listed

    def resolve(self, layers: int) -> tuple[tuple[int, ...], ...]:
        """Return the layer indices of each variant, all in 0..layers-1. Raises TargetError."""
        if self.indices is None:
            chosen = tuple(range(layers))
        else:
            chosen = tuple(_resolved(index, layers) for index in self.indices)
            _check_twice(chosen, self.indices)
        return tuple((index,) for index in chosen) if self.each else (chosen,)

    def variants(self, layers: int) -> tuple[LayersTarget, ...]:
        """Return the layers of each variant, with indices from 0. Raises TargetError."""
        if self == ALL_LAYERS:
            return (self,)
        return tuple(LayersTarget(each=False, indices=each) for each in self.resolve(layers))

    def may_equal(self, other: Target) -> bool:
        """Return whether some model has the same variants for both."""
        if not isinstance(other, LayersTarget):
            return False
        if self.indices is None or other.indices is None:
            return True
        return set(self.indices) == set(other.indices) or min(*self.indices, *other.indices) < 0

    def label(self) -> str:
        """Return ``3``, ``3-5`` or ``all``, the end of a slug."""
        if self.indices is None:
            return "all"
        return _joined(_signed(index) for index in sorted(self.indices))

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {
            "description": LAYERS_FORMS,
            "anyOf": [
                {"const": "all"},
                _INDEX_SCHEMA,
                _INDICES_SCHEMA,
                _each_schema({"const": "all"}, _INDICES_SCHEMA),
            ],
        }


ALL_LAYERS: Final = LayersTarget(each=False, indices=None)


@dataclass(frozen=True)
class PairsTarget(Target):
    """``pairs:`` of a bet, listed in ``pairs`` or, with ``each``, selected by ``rule`` or ``max_gap``.

    A pair has no direction.
    """

    each: bool
    pairs: tuple[Pair, ...] = ()
    rule: PairRule | None = None
    max_gap: int | None = None

    @classmethod
    def parse(cls, value: object) -> PairsTarget:
        """Return the target for plain data. Raises pydantic's ValidationError."""
        if isinstance(value, dict):
            return cls._swept(_only_each(value, PAIRS_FORMS))
        pairs = _pairs(value, ())
        for place, pair in enumerate(pairs):
            shared = set(pair) & {index for other in pairs[:place] for index in other}
            if shared:
                raise invalid(
                    f"names layer {shared.pop()} in two pairs of one variant; each layer once, or "
                    "{each: ...} for a variant of each pair",
                    place,
                )
        return cls(each=False, pairs=pairs)

    @classmethod
    def _swept(cls, each: object) -> PairsTarget:
        if each in ("all", "adjacent"):
            return cls(each=True, rule=each)
        if isinstance(each, dict):
            gap = whole(each.get("max_gap"))
            if set(each) != {"max_gap"}:
                raise invalid(f"must be {{max_gap: n}}; allowed: {PAIRS_FORMS}", "each")
            if not _is_int(gap) or not 1 <= gap <= LARGEST_LAYER:
                raise invalid("must be a whole number, 1 or more", "each", "max_gap")
            # A gap of one has two spellings and one meaning.
            return cls(each=True, rule="adjacent") if gap == 1 else cls(each=True, max_gap=gap)
        return cls(each=True, pairs=_pairs(each, ("each",)))

    def written(self) -> object:
        """Return the target as plain data in its canonical form."""
        listed: object = self.rule or [list(pair) for pair in sorted(map(_ordered, self.pairs))]
        if self.max_gap is not None:
            listed = {"max_gap": self.max_gap}
        return {"each": listed} if self.each else listed

    def resolve(self, layers: int) -> tuple[tuple[Pair, ...], ...]:
        """Return the pairs (i < j) of each variant. Raises TargetError."""
        if self.rule is not None or self.max_gap is not None:
            gap = 1 if self.rule == "adjacent" else self.max_gap or layers
            chosen = tuple((i, j) for i, j in combinations(range(layers), 2) if j - i <= gap)
            if not chosen:
                raise TargetError(f"a model with {many(layers, 'layer')} has no such pair")
        else:
            chosen = tuple(
                _ordered((_resolved(i, layers), _resolved(j, layers))) for i, j in self.pairs
            )
            for (i, j), pair in zip(chosen, self.pairs, strict=True):
                if i == j:
                    raise TargetError(f"the pair {list(pair)} is layer {i} twice")
            _check_twice(chosen, self.pairs)
            if not self.each:
                _check_twice([i for pair in chosen for i in pair], self.pairs)
        return tuple((pair,) for pair in chosen) if self.each else (chosen,)

    def variants(self, layers: int) -> tuple[PairsTarget, ...]:
        """Return the pairs of each variant, with i < j. Raises TargetError."""
        return tuple(PairsTarget(each=False, pairs=each) for each in self.resolve(layers))

    def may_equal(self, other: Target) -> bool:
        """Return whether some model has the same variants for both."""
        if not isinstance(other, PairsTarget):
            return False
        if not self.pairs or not other.pairs:
            return True
        mine, yours = set(map(_ordered, self.pairs)), set(map(_ordered, other.pairs))
        return mine == yours or any(index < 0 for pair in mine | yours for index in pair)

    def label(self) -> str:
        """Return ``4-5``, or ``4-5-8-9`` for two pairs together."""
        if self.rule is not None:
            return self.rule
        if self.max_gap is not None:
            return f"gap-{self.max_gap}"
        return _joined(_signed(index) for pair in sorted(self.pairs) for index in pair)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        gap = {
            "type": "object",
            "properties": {"max_gap": {"type": "integer", "minimum": 1, "maximum": LARGEST_LAYER}},
            "required": ["max_gap"],
            "additionalProperties": False,
        }
        return {
            "description": PAIRS_FORMS,
            "anyOf": [
                _PAIR_SCHEMA,
                _PAIRS_SCHEMA,
                _each_schema({"enum": ["all", "adjacent"]}, gap, _PAIR_SCHEMA, _PAIRS_SCHEMA),
            ],
        }


def _each_schema(*forms: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"each": {"anyOf": list(forms)}},
        "required": ["each"],
        "additionalProperties": False,
    }


def _only_each(value: dict[Any, Any], forms: str) -> object:
    unknown = [key for key in value if key != "each"]
    if unknown:
        raise invalid(
            f"unknown key{suggestion(unknown[0], ['each']) or ';'} allowed: {forms}",
            unknown[0],
            KEY,
        )
    if "each" not in value:
        raise invalid(f"must not be an empty mapping; allowed: {forms}")
    return value["each"]


def _layers(value: object, loc: tuple[str, ...]) -> tuple[int, ...] | None:
    if value == "all":
        return None
    value = whole(value)
    if _is_int(value):
        return (_index(value, loc),)
    if not isinstance(value, list):
        close = suggestion(value, ["all"]) or ";"
        raise invalid(f"must not be {shown(value)}{close} allowed: {LAYERS_FORMS}", *loc)
    _check_size(value, loc)
    indices = tuple(_index(item, (*loc, place)) for place, item in enumerate(value))
    for place, index in enumerate(indices):
        if index in indices[:place]:
            raise invalid(f"names layer {index} twice; each layer once", *loc, place)
    return indices


def _pairs(value: object, loc: tuple[str, ...]) -> tuple[Pair, ...]:
    if not isinstance(value, list):
        close = suggestion(value, ["all", "adjacent"]) if loc else ""
        raise invalid(f"must not be {shown(value)}{close or ';'} allowed: {PAIRS_FORMS}", *loc)
    _check_size(value, loc)
    if len(value) == 2 and all(_is_int(whole(item)) for item in value):
        return (_pair(value, loc),)
    pairs = tuple(_pair(item, (*loc, place)) for place, item in enumerate(value))
    ordered = [_ordered(pair) for pair in pairs]
    for place, pair in enumerate(ordered):
        if pair in ordered[:place]:
            raise invalid(f"names the pair {list(pair)} twice; each pair once", *loc, place)
    return pairs


def _pair(value: object, loc: tuple[str | int, ...]) -> Pair:
    if not isinstance(value, list) or len(value) != 2:
        raise invalid(f"must be a pair of layers such as [4, 5], not {shown(value)}", *loc)
    first, second = (_index(item, (*loc, place)) for place, item in enumerate(value))
    if first == second:
        raise invalid(f"pairs layer {first} with itself; two different layers", *loc)
    return first, second


def _index(value: object, loc: tuple[str | int, ...]) -> int:
    value = whole(value)
    if not _is_int(value):
        raise invalid(f"must be a layer's index (a whole number), not {shown(value)}", *loc)
    if not -LARGEST_LAYER - 1 <= value <= LARGEST_LAYER:
        raise invalid(f"must lie between {-LARGEST_LAYER - 1} and {LARGEST_LAYER}", *loc)
    return value


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_size(value: Sequence[object], loc: tuple[str, ...]) -> None:
    if not value:
        raise invalid("must not be empty; name at least one", *loc)
    if len(value) > LIMITS.targets:
        raise invalid(f"must have at most {LIMITS.targets} entries", *loc)


def _resolved(index: int, layers: int) -> int:
    if not -layers <= index < layers:
        raise TargetError(
            f"layer {index} is out of range: the model has {many(layers, 'layer')}, "
            f"0 to {layers - 1} or -{layers} to -1"
        )
    return index + layers if index < 0 else index


def _check_twice(chosen: Sequence[object], written: Sequence[object]) -> None:
    if len(set(chosen)) != len(chosen):
        names = ", ".join(str(item) for item in written)
        raise TargetError(f"{names}: the same layer twice, once counted from the end")


def _ordered(pair: Pair) -> Pair:
    return pair if pair[0] < pair[1] else (pair[1], pair[0])


def _signed(index: int) -> str:
    return str(index) if index >= 0 else f"minus-{-index}"


def _joined(parts: Any) -> str:
    listed = list(parts)
    if len(listed) <= 8:
        return "-".join(listed)
    return "-".join([*listed[:6], "and", str(len(listed) - 6), "more"])
