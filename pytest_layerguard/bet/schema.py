"""The JSON Schema of a bet file, generated from the models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic.json_schema import models_json_schema

from pytest_layerguard.bet.arguments import BUILTIN_KINDS, INTERVENTION_HERE, Kinds
from pytest_layerguard.bet.bet import Bet

if TYPE_CHECKING:
    from pydantic import BaseModel

SHIPPED: Final = Path(__file__).with_name("schema.json")
# Pydantic leaves its own keywords where a number is prepared before its range is checked.
_KEYWORDS: Final = {"ge": "minimum", "le": "maximum"}
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def bet_schema(kinds: Kinds = BUILTIN_KINDS) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of one bet, with these interventions.

    It describes keys, types and ranges. The rules between the parts of a bet and the syntax of criteria
    are checked only when a bet is read.
    """
    models: list[type[BaseModel]] = [Bet, *kinds.values()]
    references, shared = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/$defs/{model}"
    )
    definitions: dict[str, Any] = {**shared["$defs"]}
    definitions["Intervention"] = {
        "title": "Intervention",
        "description": "One intervention on the model.",
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
        "properties": {kind: references[model, "validation"] for kind, model in kinds.items()},
    }
    root = definitions.pop(references[Bet, "validation"]["$ref"].rpartition("/")[2])
    root["oneOf"] = [{"required": ["intervention"]}, {"required": ["arms"]}]
    schema = {"$schema": _DIALECT, **root, "title": "A bet of pytest-layerguard"}
    schema["$defs"] = {name: definitions[name] for name in sorted(definitions)}
    finished: dict[str, Any] = _finished(schema)
    return finished


def written(schema: dict[str, Any]) -> str:
    """Return a schema as JSON text."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _finished(schema: Any) -> Any:
    """Return a schema with the interventions in place of their placeholder, and closed mappings."""
    if isinstance(schema, list):
        return [_finished(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if schema == INTERVENTION_HERE:
        return {"$ref": "#/$defs/Intervention"}
    finished = {_KEYWORDS.get(key, key): _finished(value) for key, value in schema.items()}
    if "patternProperties" in finished:
        finished["additionalProperties"] = False
    return finished


def main() -> None:
    """Write ``schema.json``."""
    SHIPPED.write_text(written(bet_schema()), encoding="utf-8")


if __name__ == "__main__":
    main()
