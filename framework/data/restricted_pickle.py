"""Pickles from elsewhere, read without running what they name.

A pickle is a program: it may import and call anything, and ask for memory without end. Case files and downloaded
models come from strangers, so only containers, numbers, text and numpy arrays are built here, no larger than what the
file holds of them; everything else is refused.
"""

from __future__ import annotations

import io
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from framework.data.pickled_values import (
    ALLOWED,
    Maker,
    UnsafePickleError,
    check_array_state,
    check_dtype_state,
    check_key,
)
from framework.errors import FoldwiseError

__all__ = ["LARGEST_BYTES", "UnsafePickleError", "dumps", "load_pickle", "loads"]

LARGEST_BYTES = 1 << 30
"""The properties of a case have some megabytes."""


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


# The unpickler in C makes room for whatever a pickle announces; this one, Python's own in Python, can be told not to.
_PythonUnpickler: Any = pickle._Unpickler


class _RestrictedUnpickler(_PythonUnpickler):
    dispatch = dict(_PythonUnpickler.dispatch)

    def __init__(self, content: bytes, also: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(io.BytesIO(content))
        self.size = len(content)
        self.allowed = {**ALLOWED, **also}

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
            check_dtype_state(state)
        elif type(made) is np.ndarray:
            check_array_state(state)
        else:
            raise UnsafePickleError(f"it sets attributes of a {type(made).__name__}.")
        made.__setstate__(state)

    def load_bytearray8(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        if length > self.size:
            raise UnsafePickleError("it announces more bytes than it has.")
        self.append(bytearray(self.read(length)))

    def load_setitem(self) -> None:
        check_key(self.stack[-2])
        super().load_setitem()

    def load_setitems(self) -> None:
        for key in self.stack[::2]:
            check_key(key)
        super().load_setitems()

    def load_dict(self) -> None:
        for key in self.stack[::2]:
            check_key(key)
        super().load_dict()

    def load_additems(self) -> None:
        for key in self.stack:
            check_key(key)
        super().load_additems()

    def load_frozenset(self) -> None:
        for key in self.stack:
            check_key(key)
        super().load_frozenset()

    def _called(self, function: Any, arguments: Any) -> Any:
        if not isinstance(arguments, tuple) or not isinstance(function, Maker):
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
