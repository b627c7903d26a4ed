"""The JSON schema of plans, made from the dataclasses that read them, for editors that complete and check JSON.

``python -m framework.plans_schema > plans/plans.schema.json`` renews the file; a test keeps it true.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from typing import Any, Literal, Union

from framework.plans import TOP_LEVEL, Architecture, Configuration
from framework.training_settings import TrainingSettings


def plans_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a plans file."""
    configuration = _object(Configuration, skip=("name",))
    configuration["properties"]["inherits_from"] = {"type": "string"}
    configuration["properties"]["training"] = _object(TrainingSettings)
    architecture = _object(Architecture)
    architecture["properties"]["_kw_requires_import"] = architecture["properties"].pop("requires_import")
    configuration["properties"]["architecture"] = architecture
    configuration["properties"]["next_stage"] = {"type": ["string", "array", "null"]}
    top = {name: _schema(hint) for name, hint in TOP_LEVEL.items()}
    top["training"] = {"$ref": "#/$defs/configuration/properties/training"}
    top["configurations"] = {"type": "object", "additionalProperties": {"$ref": "#/$defs/configuration"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Plans",
        "type": "object",
        "required": ["configurations"],
        "properties": top,
        "patternProperties": {"^_": {}},
        "additionalProperties": False,
        "$defs": {"configuration": configuration},
    }


def _object(cls: type, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    properties = {}
    for field in dataclasses.fields(cls):
        if field.name in skip:
            continue
        schema = _schema(hints[field.name])
        schema |= {key: value for key, value in field.metadata.items() if key in ("minimum", "maximum")}
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if isinstance(default, (bool, int, float, str, list, dict)):
            schema["default"] = default
        properties[field.name] = schema
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _schema(hint: Any) -> dict[str, Any]:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(option) for option in typing.get_args(hint)]}
    if origin is Literal:
        return {"enum": list(typing.get_args(hint))}
    if origin in (tuple, list):
        return {"type": "array", "items": _schema(typing.get_args(hint)[0])}
    names = {int: "integer", float: "number", bool: "boolean", str: "string", type(None): "null", dict: "object"}
    name = names.get(origin or hint)
    return {"type": name} if name else {}


if __name__ == "__main__":
    print(json.dumps(plans_schema(), indent=2))
