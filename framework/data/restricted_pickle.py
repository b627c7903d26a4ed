"""Pickles from elsewhere, read without running what they name.

A pickle is a program: it may import and call anything. Case files and downloaded models come from
strangers, so only containers, numbers, text and numpy arrays are built here; everything else is refused.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from framework.errors import FoldwiseError


class UnsafePickleError(FoldwiseError):
    """A pickle names something that is no container, number, text or numpy array."""


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
        content = path.read_bytes()
    except OSError as error:
        raise FoldwiseError(f"{path} cannot be read: {error.strerror or error}.") from error
    return loads(content, path, also)


def loads(content: bytes, source: Path | str = "this pickle", also: Mapping[tuple[str, str], Any] | None = None) -> Any:
    """As `load_pickle`, from memory; `source` is named in errors."""
    try:
        return _RestrictedUnpickler(io.BytesIO(content), source, also or {}).load()
    except FoldwiseError:
        raise
    except Exception as error:  # damaged pickles fail in every conceivable way
        raise FoldwiseError(f"{source} is truncated or damaged ({type(error).__name__}: {error}).") from error


def dumps(value: Any) -> bytes:
    """A pickle that nnU-Net and `loads` read."""
    return pickle.dumps(value, protocol=4)


class _RestrictedUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, source: Path | str, also: Mapping[tuple[str, str], Any]) -> None:
        super().__init__(file)
        self.source = source
        self.allowed = {**_ALLOWED, **also}

    def find_class(self, module: str, name: str) -> Any:
        allowed = self.allowed.get((module, name))
        if allowed is None:
            raise UnsafePickleError(
                f"{self.source} is refused: it names {module}.{name}, which could run code. Only plain "
                "values and numpy arrays are read. If you trust its author, convert it where it was made."
            )
        return allowed

    def persistent_load(self, pid: Any) -> Any:
        raise UnsafePickleError(f"{self.source} is refused: it refers to objects outside of the file.")


def _encode_latin1(text: str, encoding: str) -> bytes:
    # Old protocols write bytes as text; other codecs could be made to unpack bombs.
    if encoding not in ("latin1", "latin-1"):
        raise UnsafePickleError(f"a pickle asks for the codec {encoding!r}, which no array needs")
    return text.encode("latin-1")


_NUMPY: dict[str, Any] = {
    "_reconstruct": np.zeros(1).__reduce__()[0],  # the public way to numpy's own rebuilding functions
    "scalar": np.float64(0).__reduce__()[0],
    "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
}
_NUMPY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")

_ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode_latin1,
    ("collections", "OrderedDict"): collections.OrderedDict,
}
_ALLOWED["__builtin__", "xrange"] = range  # what old protocols call it
for _module in _NUMPY_MODULES:
    _ALLOWED[_module, "_reconstruct"] = _NUMPY["_reconstruct"]
    _ALLOWED[_module, "scalar"] = _NUMPY["scalar"]
for _module in ("numpy.core.numeric", "numpy._core.numeric"):
    _ALLOWED[_module, "_frombuffer"] = _NUMPY["_frombuffer"]
for _type in (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    bytearray,
    list,
    tuple,
    dict,
    set,
    frozenset,
    slice,
    range,
):
    _ALLOWED["builtins", _type.__name__] = _type
    _ALLOWED["__builtin__", _type.__name__] = _type
