"""Pickles from elsewhere, read without running what they name.

A pickle is a program: it may import and call anything, and ask for memory without end. Case files and downloaded
models come from strangers, so only containers, numbers, text and numpy arrays are built here, no larger than what the
file holds of them; everything else is refused.
"""

from __future__ import annotations

import collections
import io
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from framework.errors import FoldwiseError

LARGEST_BYTES = 1 << 30
"""The properties of a case have some megabytes."""


class UnsafePickleError(FoldwiseError):
    """A pickle names something that is no container, number, text or numpy array, or wants more than it holds."""


def load_pickle(path: Path | str, also: Mapping[tuple[str, str], Any] | None = None) -> Any:
    """Read a pickle of plain values and numpy arrays.

    Args:
        also: names, as (module, name), that this pickle may hold besides, and what each is read as.

    Raises:
        FoldwiseError: the file is missing or damaged.
        UnsafePickleError: it names anything else; says what, and in which file.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise UnsafePickleError(f"{path} is refused: it has {size} bytes, more than {LARGEST_BYTES} are not read.")
        content = path.read_bytes()
    except OSError as error:
        raise FoldwiseError(f"{path} cannot be read: {error.strerror or error}.") from error
    return loads(content, path, also)


def loads(content: bytes, source: Path | str = "this pickle", also: Mapping[tuple[str, str], Any] | None = None) -> Any:
    """As `load_pickle`, from memory; `source` is named in errors."""
    try:
        return _RestrictedUnpickler(content, also or {}).load()
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{source} is refused: {error}") from None
    except Exception as error:  # damaged pickles fail in every conceivable way
        reason = f"{type(error).__name__}: {error}"
        raise FoldwiseError(f"{source} is truncated or damaged ({reason:.500}).") from error


def dumps(value: Any) -> bytes:
    """A pickle that nnU-Net and `loads` read."""
    return pickle.dumps(value, protocol=4)


# Python's own unpickler in Python: the one in C makes room for whatever a pickle announces before it is asked.
class _RestrictedUnpickler(pickle._Unpickler):  # type: ignore[name-defined]
    dispatch = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, content: bytes, also: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(io.BytesIO(content))
        self.size = len(content)
        self.allowed = {**_ALLOWED, **also}

    def find_class(self, module: str, name: str) -> Any:
        allowed = self.allowed.get((module, name))
        if allowed is None:
            raise UnsafePickleError(
                f"it names {module}.{name}, which could run code. Only plain values and numpy arrays are read. If you "
                "trust its author, convert it where it was made."
            )
        return allowed

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickleError("it refers to objects outside of the file.")

    def get_extension(self, code: int) -> None:
        raise UnsafePickleError("it names a class by a number.")

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._called(self.stack[-1], arguments)

    def load_newobj(self) -> None:
        self.load_reduce()

    def load_newobj_ex(self) -> None:
        raise UnsafePickleError("it makes an object that is no plain value.")

    def load_build(self) -> None:
        state = self.stack.pop()
        made = self.stack[-1]
        if isinstance(made, np.dtype):
            _check_dtype_state(state)
        elif type(made) is np.ndarray:
            _check_array_state(state)
        else:
            raise UnsafePickleError(f"it sets attributes of a {type(made).__name__}.")
        made.__setstate__(state)  # type: ignore[union-attr]

    def load_bytearray8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        if length > self.size:
            raise UnsafePickleError("it announces more bytes than it has.")
        self.append(bytearray(self.read(length)))

    def load_setitem(self) -> None:
        _check_key(self.stack[-2])
        super().load_setitem()

    def load_setitems(self) -> None:
        for key in self.stack[::2]:
            _check_key(key)
        super().load_setitems()

    def load_dict(self) -> None:
        for key in self.stack[::2]:
            _check_key(key)
        super().load_dict()

    def load_additems(self) -> None:
        for key in self.stack:
            _check_key(key)
        super().load_additems()

    def load_frozenset(self) -> None:
        for key in self.stack:
            _check_key(key)
        super().load_frozenset()

    def _called(self, function: Any, arguments: Any) -> Any:
        if not isinstance(arguments, tuple) or not isinstance(function, _Maker):
            raise UnsafePickleError(f"it calls {function!r:.100}.")
        try:
            return function.make(*arguments)
        except (TypeError, ValueError) as error:
            raise UnsafePickleError(f"it makes a {function.name} of something else ({error!s:.200}).") from None

    def _refuse(self) -> None:
        raise UnsafePickleError("it makes an object in a way of very old pickles.")

    for _operation, _load in {
        pickle.REDUCE: load_reduce,
        pickle.NEWOBJ: load_newobj,
        pickle.NEWOBJ_EX: load_newobj_ex,
        pickle.BUILD: load_build,
        pickle.BYTEARRAY8: load_bytearray8,
        pickle.SETITEM: load_setitem,
        pickle.SETITEMS: load_setitems,
        pickle.DICT: load_dict,
        pickle.ADDITEMS: load_additems,
        pickle.FROZENSET: load_frozenset,
        pickle.INST: _refuse,
        pickle.OBJ: _refuse,
    }.items():
        dispatch[_operation[0]] = _load
    del _operation, _load


class _Maker:
    """What stands for a class or function that a pickle names: it makes what pickles of plain values make with it."""

    __slots__ = ("make", "name")

    def __init__(self, name: str, make: Callable[..., Any]) -> None:
        self.name, self.make = name, make


def _check_key(key: Any, deepest: int = 4) -> None:
    """Tuples of tuples of tuples, each twice in the next, would keep the computer busy for ever with their hash."""
    if isinstance(key, (tuple, frozenset)):
        if deepest == 0 or len(key) > 10_000:
            raise UnsafePickleError("it has a key of nested tuples.")
        for entry in key:
            _check_key(entry, deepest - 1)


def _check_dtype_state(state: Any) -> None:
    # (version, byte order, subarray, names, fields, size, alignment, flags[, metadata]): only the order may be set.
    plain = isinstance(state, tuple) and len(state) in (8, 9) and state[1] in ("<", ">", "|", "=")
    if not plain or any(entry is not None for entry in state[2:5]) or len(state) == 9:
        raise UnsafePickleError("it has arrays of other things than numbers and text.")
    if not all(type(size) is int and -1 <= size <= _LONGEST_TEXT * 4 for size in state[5:7]):
        raise UnsafePickleError("it has arrays of texts without end.")


def _check_array_state(state: Any) -> None:
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
    return np.dtype(code)


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
        _check_key(entry)
    return entries


def _complex(real: float, imaginary: float) -> complex:
    return complex(_of((real,), int, float), _of((imaginary,), int, float))


def _ordered(*arguments: Any) -> collections.OrderedDict[Any, Any]:
    made: collections.OrderedDict[Any, Any] = collections.OrderedDict()
    for key, value in _of(arguments, list, tuple) if arguments else ():
        _check_key(key)
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
_ARRAY = _Maker("numpy array", lambda *arguments: _of((), object))

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ARRAY,
    ("numpy", "dtype"): _Maker("type of an array", _dtype),
    ("_codecs", "encode"): _Maker("text", _encode_latin1),
    ("collections", "OrderedDict"): _Maker("ordered dict", _ordered),
    ("__builtin__", "xrange"): _Maker("range", _range),  # what old protocols call it
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED[_module, "_reconstruct"] = _Maker("numpy array", _empty_array)
    _ALLOWED[_module, "scalar"] = _Maker("numpy number", _scalar)
for _module in ("numpy.core.numeric", "numpy._core.numeric"):
    _ALLOWED[_module, "_frombuffer"] = _Maker("numpy array", _array_of_buffer)
for _name, _make in {
    "complex": _complex,
    "bytes": _bytes,
    "bytearray": _bytearray,
    "set": _set,
    "frozenset": _frozenset,
    "slice": slice,
    "range": _range,
}.items():
    _ALLOWED["builtins", _name] = _ALLOWED["__builtin__", _name] = _Maker(_name, _make)
