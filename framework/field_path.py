"""Paths of fields in a plans file, as ``--set`` takes them: ``training.num_epochs``, ``augmentation["a.b:C"].x``."""

from __future__ import annotations

import re
from typing import Any

from framework.errors import PlansError

_PLAIN = re.compile(r"[^.\[\]]+")
# The quotes may be missing: a shell takes them away where the whole was not quoted.
_BRACKETED = re.compile(r"""\[(?:"(?P<double>[^"]+)"|'(?P<single>[^']+)'|(?P<bare>[^\]"']+))\]""")
_SHORT_FOR_OBJECTS = {"optimizer": "name", "schedule": "name", "augmentation": "preset"}
_WHERE_MISSING = {"augmentation": "default"}  # without a preset, a number would be all that is left of the recipe


def set_field(block: dict[str, Any], path: str, value: Any, source: str) -> None:
    """Set one field below `block`, making the objects on the way to it.

    Args:
        path: see `keys_of`.
        source: of the block, for messages.

    Raises:
        PlansError: the path cannot be read, or something on the way is no object.
    """
    keys = keys_of(path, source)
    for key in keys[:-1]:
        child = block.setdefault(key, _WHERE_MISSING.get(key, {}))
        if isinstance(child, str) and key in _SHORT_FOR_OBJECTS:
            # A bare name is short for an object; an override of one of its numbers needs the object.
            child = block[key] = {_SHORT_FOR_OBJECTS[key]: child}
        if not isinstance(child, dict):
            raise PlansError(f"{source}: --set {path}: '{key}' is {child!r} and has no fields.")
        block = child
    block[keys[-1]] = value


def keys_of(path: str, source: str = "plans") -> list[str]:
    """``'augmentation["a.b:C"].level'`` -> ``["augmentation", "a.b:C", "level"]``.

    Keys are separated by dots. One that holds dots itself stands in brackets, in quotes or without.

    Raises:
        PlansError: an empty key, a bracket that is not closed, or the name of a class with dots and no brackets.
    """
    keys: list[str] = []
    position = 0
    while True:
        bracketed = path[position : position + 1] == "["
        found = (_BRACKETED if bracketed else _PLAIN).match(path, position)
        if found is None:
            raise _unreadable(source, path, position, "a bracket is not closed" if bracketed else "a name is missing")
        keys.append(next(text for text in found.groups() if text) if bracketed else found[0])
        position = found.end()
        if not bracketed and ":" in keys[-1] and keys[0] == "augmentation" and len(keys) > 2:
            name = ".".join(keys[1:])
            raise PlansError(
                f"{source}: --set {path}: the name '{name}' has dots in it; write it in brackets, and quotes around "
                f"it all: --set 'augmentation[\"{name}\"]{path[position:]}=VALUE'."
            )
        if position == len(path):
            return keys
        if path[position] == ".":
            position += 1
        elif path[position] != "[":
            raise _unreadable(source, path, position, "a dot is missing")


def _unreadable(source: str, path: str, position: int, what: str) -> PlansError:
    place = f"after '{path[:position]}'" if position else "at its beginning"
    return PlansError(
        f"{source}: --set {path}: {what} {place}. Expected names with dots between them, as in training.num_epochs; "
        "a name that has dots itself stands in brackets: --set 'augmentation[\"package.module:Class\"].level=0.3'."
    )
