"""Check values that came from JSON or a command line against the annotations of a dataclass."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import types
import typing
from typing import Any, Literal, TypeVar, Union

from framework.errors import did_you_mean

T = TypeVar("T")


def read_block(cls: type[T], block: dict[str, Any], where: str, problems: list[str]) -> dict[str, Any]:
    """The entries of `block` that fit dataclass `cls`, converted (lists to tuples where a tuple is declared).

    Every mistake (unknown key with the nearest name, wrong type, value out of range) is appended to
    `problems`, so that all mistakes of a file can be reported together.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls)) if field.init}
    accepted: dict[str, Any] = {}
    for key, value in block.items():
        field = fields.get(key)
        if field is None:
            hint = did_you_mean(key, fields) or f" Known here: {', '.join(sorted(fields))}."
            problems.append(f"{where}: '{key}' is not a known field.{hint}")
            continue
        try:
            converted = convert(value, hints[key])
        except TypeError:
            problems.append(f"{where}.{key}: found {shown(value)}, expected {describe(hints[key])}.")
            continue
        complaint = _range_complaint(converted, field.metadata)
        if complaint:
            problems.append(f"{where}.{key}: found {shown(value)}, {complaint}.")
            continue
        accepted[key] = converted
    return accepted


def convert(value: Any, hint: Any) -> Any:
    """`value` as the annotated type; an int passes for a float, a list for a tuple. TypeError if it does not fit."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        for option in typing.get_args(hint):
            try:
                return convert(value, option)
            except TypeError:
                continue
        raise TypeError
    if origin is Literal:
        if any(type(value) is type(option) and value == option for option in typing.get_args(hint)):
            return value
        raise TypeError
    if hint is None or hint is type(None):
        if value is None:
            return None
        raise TypeError
    if hint is bool:
        if isinstance(value, bool):
            return value
        raise TypeError
    if hint is int:
        whole = (isinstance(value, int) and not isinstance(value, bool)) or (
            isinstance(value, float) and value.is_integer()
        )
        if whole and abs(value) < _ENDLESS:
            return int(value)
        raise TypeError
    if hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                raise TypeError from None
            if math.isfinite(number):
                return number
        raise TypeError
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise TypeError
        item = typing.get_args(hint)[0]
        return tuple(convert(entry, item) for entry in value)
    if origin is list:
        if not isinstance(value, (list, tuple)):
            raise TypeError
        return [convert(entry, typing.get_args(hint)[0]) for entry in value]
    if origin is dict:
        if not isinstance(value, dict):
            raise TypeError
        item = typing.get_args(hint)[1]
        return {str(key): convert(entry, item) for key, entry in value.items()}
    if isinstance(hint, type) and isinstance(value, hint):
        return value
    raise TypeError


_ENDLESS = 2**63  # numbers beyond it count nothing, and fit into no array


def describe(hint: Any) -> str:
    """An annotation in words for an error message."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(option) for option in typing.get_args(hint))
    if origin is Literal:
        return "one of " + ", ".join(repr(option) for option in typing.get_args(hint))
    names = {int: "an integer", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if hint in names:
        return names[hint]
    if origin in (tuple, list):
        return f"a list of ({describe(typing.get_args(hint)[0])})"
    if origin is dict or hint is dict:
        return "an object {...}"
    return getattr(hint, "__name__", str(hint))


def shown(value: Any) -> str:
    """A value from a file for a message: not longer than a line, however large or deeply nested it is."""
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 4, 200, 200, 60
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxdict = 12


def at_least(minimum: float) -> dict[str, float]:
    """Field metadata: numbers below `minimum` are refused."""
    return {"minimum": minimum}


def between(minimum: float, maximum: float) -> dict[str, float]:
    """Field metadata: numbers outside [minimum, maximum] are refused."""
    return {"minimum": minimum, "maximum": maximum}


def _range_complaint(value: Any, metadata: typing.Mapping[str, Any]) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return ""
    minimum, maximum = metadata.get("minimum"), metadata.get("maximum")
    if minimum is not None and not value >= minimum:
        return f"expected at least {minimum:g}" + (f" and at most {maximum:g}" if maximum is not None else "")
    if maximum is not None and not value <= maximum:
        return f"expected at most {maximum:g}" + (f" and at least {minimum:g}" if minimum is not None else "")
    return ""
