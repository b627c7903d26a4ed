"""What a pickle from elsewhere may make, and with which arguments; see `framework.data.restricted_pickle`.

What pickles of plain values and numpy arrays ask for is made, no larger than the file that asks. All else that the same
names could be asked for, such as a ``bytearray`` of a given length, is refused.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from framework.errors import FoldwiseError


class UnsafePickleError(FoldwiseError):
    """A pickle names something that is no container, number, text or numpy array, or wants more than it holds."""


class Maker:
    """What stands for a class or function that a pickle names: it makes what pickles of plain values make with it."""

    __slots__ = ("make", "name")

    def __init__(self, name: str, make: Callable[..., Any]) -> None:
        self.name, self.make = name, make


def check_key(key: Any, deepest: int = 4) -> None:
    """Tuples of tuples of tuples, each twice in the next, would keep the computer busy for ever with their hash."""
    if isinstance(key, (tuple, frozenset)):
        if deepest == 0 or len(key) > 10_000:
            raise UnsafePickleError("it has a key of nested tuples.")
        for entry in key:
            check_key(entry, deepest - 1)


def check_dtype_state(state: Any) -> None:
    # (version, byte order, subarray, names, fields, size, alignment, flags[, metadata]): only the order may be set.
    plain = isinstance(state, tuple) and len(state) in (8, 9) and state[1] in ("<", ">", "|", "=")
    if not plain or any(entry is not None for entry in state[2:5]) or len(state) == 9:
        raise UnsafePickleError("it has arrays of other things than numbers and text.")
    if not all(type(size) is int and -1 <= size <= _LONGEST_TEXT * 4 for size in state[5:7]):
        raise UnsafePickleError("it has arrays of texts without end.")


def check_array_state(state: Any) -> None:
    kind, content = (state[2], state[4]) if isinstance(state, tuple) and len(state) == 5 else (None, None)
    # numpy compares the length of the content with the shape before it makes room, except for arrays of objects.
    if not isinstance(kind, np.dtype) or kind.hasobject or not isinstance(content, (bytes, bytearray, str)):
        raise UnsafePickleError("it has an array of other things than numbers and text.")


def _encode_latin1(text: str, encoding: str) -> bytes:
    # Old protocols write bytes as text; other codecs could be made to unpack bombs.
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"the codec {encoding!r:.50}, which no array needs")
    return text.encode("latin-1")


_LONGEST_TEXT = 10_000


def _dtype(code: str, align: Any = False, copy: Any = False) -> np.dtype:
    found = re.fullmatch(r"([biufc?SUMm])(\d{0,5})", code)
    if not found or int(found[2] or 0) > _LONGEST_TEXT:
        raise ValueError(f"an array of {code!r:.50}")
    return np.dtype(code, copy=True)  # what follows may turn its byte order


def _empty_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    if kind is not _ARRAY or shape != (0,):
        raise ValueError("an array without its content")
    return np.ndarray((0,), np.int8)


def _scalar(kind: np.dtype, content: bytes) -> Any:
    if kind.hasobject or len(content) != kind.itemsize:
        raise ValueError("a number without its bytes")
    return _NUMPY_SCALAR(kind, content)


def _array_of_buffer(content: Any, kind: np.dtype, shape: Any, order: str, axes: Any = None) -> np.ndarray:
    if kind.hasobject:
        raise ValueError("an array of objects")
    return (
        _NUMPY_BUFFER(content, kind, shape, order) if axes is None else _NUMPY_BUFFER(content, kind, shape, order, axes)
    )


def _range(*numbers: int) -> range:
    made = range(*numbers)
    if len(made) > _LONGEST_RANGE:
        raise ValueError("numbers without end")
    return made


_LONGEST_RANGE = 1 << 24


def _bytes(*arguments: Any) -> bytes:
    # bytes(10 ** 12) is how a few letters fill the memory.
    return bytes(_of(arguments, list, tuple, bytes)) if arguments else b""


def _bytearray(*arguments: Any) -> bytearray:
    if len(arguments) == 2:
        return bytearray(_encode_latin1(*arguments))
    return bytearray(_of(arguments, list, tuple, bytes)) if arguments else bytearray()


def _set(*arguments: Any) -> set[Any]:
    return set(_keys(arguments))


def _frozenset(*arguments: Any) -> frozenset[Any]:
    return frozenset(_keys(arguments))


def _keys(arguments: tuple[Any, ...]) -> Any:
    entries = _of(arguments, list, tuple, set) if arguments else ()
    for entry in entries:
        check_key(entry)
    return entries


def _complex(real: float, imaginary: float) -> complex:
    return complex(_of((real,), int, float), _of((imaginary,), int, float))


def _ordered(*arguments: Any) -> collections.OrderedDict[Any, Any]:
    made: collections.OrderedDict[Any, Any] = collections.OrderedDict()
    for key, value in _of(arguments, list, tuple) if arguments else ():
        check_key(key)
        made[key] = value
    return made


def _of(arguments: tuple[Any, ...], *kinds: type) -> Any:
    (value,) = arguments
    if type(value) not in kinds:
        raise ValueError(f"a {type(value).__name__}")
    return value


# The public way to numpy's own rebuilding functions.
_NUMPY_SCALAR: Any = np.float64(0).__reduce__()[0]
_NUMPY_BUFFER: Any = np.zeros(1).__reduce_ex__(5)[0]
_ARRAY = Maker("numpy array", lambda *arguments: _of((), object))

ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): Maker("type of an array", _dtype),
    ("_codecs", "encode"): Maker("text", _encode_latin1),
    ("collections", "OrderedDict"): Maker("ordered dict", _ordered),
    ("__builtin__", "xrange"): Maker("range", _range),  # what old protocols call it
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    ALLOWED[_module, "_reconstruct"] = Maker("numpy array", _empty_array)
    ALLOWED[_module, "scalar"] = Maker("numpy number", _scalar)
for _module in ("numpy.core.numeric", "numpy._core.numeric"):
    ALLOWED[_module, "_frombuffer"] = Maker("numpy array", _array_of_buffer)
_MAKERS: dict[str, Callable[..., Any]] = {
    "complex": _complex,
    "bytes": _bytes,
    "bytearray": _bytearray,
    "set": _set,
    "frozenset": _frozenset,
    "slice": slice,
    "range": _range,
}
for _name, _make in _MAKERS.items():
    ALLOWED["builtins", _name] = ALLOWED["__builtin__", _name] = Maker(_name, _make)
