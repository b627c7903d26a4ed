"""Probabilities of a case, read head by head: memory holds one head, however many there are.

``CASE.npz`` is nnU-Net's: one compressed array ``probabilities``, (K, X, Y, Z) float32, on the grid of the scan.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from framework.data.memory import refuse_impossible_size
from framework.errors import CaseError

_ARRAY = "probabilities"


class ProbabilityFile:
    """One ``CASE.npz``.

    Attributes:
        shape: (K, X, Y, Z).

    Raises:
        CaseError: the file is missing, damaged, or holds no such array.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.case = self.path.stem
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{_ARRAY}.npy") as member:
                self.shape, self._in_c_order, self._dtype = _header(member)
                stored = archive.getinfo(f"{_ARRAY}.npy").file_size
                if min(self.shape, default=1) < 0 or math.prod(self.shape) * self._dtype.itemsize > stored:
                    raise ValueError(f"its shape is {self.shape}, its size {stored} bytes")
                refuse_impossible_size(stored, self.path)
        except _DAMAGED as error:
            raise self._unreadable(error) from error
        if len(self.shape) != 4 or self._dtype.kind != "f":
            raise CaseError(
                self.case,
                f"{self.path} holds {self._dtype} of shape {self.shape}, expected floating-point probabilities "
                "(K, X, Y, Z), as prediction writes them with --save_probabilities.",
            )

    def heads(self) -> Iterator[np.ndarray]:
        """(X, Y, Z) float32, one after the other.

        Raises:
            CaseError: the file is damaged, or a value is not finite.
        """
        try:
            for index, head in enumerate(self._stored_heads()):
                if not np.isfinite(head.sum(dtype=np.float64)):
                    raise CaseError(
                        self.case, f"{self.path}: channel {index} has values that are not finite. Predict it again."
                    )
                yield head.astype(np.float32, copy=False)
        except CaseError:
            raise
        except _DAMAGED as error:
            raise self._unreadable(error) from error

    def _stored_heads(self) -> Iterator[np.ndarray]:
        if not self._in_c_order:  # nobody writes this, but numpy may
            with np.load(self.path, allow_pickle=False) as archive:
                yield from archive[_ARRAY]
            return
        num_bytes = int(np.prod(self.shape[1:])) * self._dtype.itemsize
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{_ARRAY}.npy") as member:
            _header(member)
            for _ in range(self.shape[0]):
                content = member.read(num_bytes)
                if len(content) < num_bytes:
                    raise EOFError("the array ends early")
                yield np.frombuffer(content, self._dtype).reshape(self.shape[1:])
            member.read(1)  # at the end the checksum is compared

    def _unreadable(self, error: Exception) -> CaseError:
        if isinstance(error, FileNotFoundError):
            return CaseError(self.case, f"{self.path} does not exist. Predict it with --save_probabilities.")
        return CaseError(
            self.case,
            f"{self.path} cannot be read: it is damaged, or holds no array '{_ARRAY}' ({error}). Predict it again "
            "with --save_probabilities.",
        )


_DAMAGED = (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error, NotImplementedError)
"""What reading a damaged or foreign file raises."""


def _header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether the last axis runs fastest, and type."""
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, in_fortran_order, dtype = read(member)
    return shape, not in_fortran_order or sum(size > 1 for size in shape) < 2, dtype
