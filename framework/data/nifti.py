"""What ITK passes over in silence in a NIfTI file: missing bytes, and voxels that are no numbers.

ITK fills up a truncated file and replaces NaN and infinite voxels by zeros. Both would be trained on
unnoticed.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from framework.errors import FoldwiseError

_FLOAT_TYPES = {16: "f4", 64: "f8"}  # NIfTI's codes for data types


@dataclass(frozen=True)
class _Header:
    byte_order: str
    offset: int  # of the first voxel, in bytes
    num_voxels: int
    bits_per_voxel: int
    data_type: int
    slope: float
    intercept: float

    @property
    def file_size(self) -> int:
        return self.offset + self.num_voxels * self.bits_per_voxel // 8


def checked_voxels(path: Path) -> np.ndarray | None:
    """The voxels of a floating-point file as they are stored, NaN included, in one dimension.

    None where ITK can be trusted with them: integers cannot be NaN. Also None for scaled floating-point
    files, once they are known to be finite.

    Raises:
        FoldwiseError: the file is truncated or damaged.
    """
    header = refuse_truncated(path)
    if header is None or header.data_type not in _FLOAT_TYPES:
        return None
    content = _content(path)[header.offset : header.file_size]
    voxels = np.frombuffer(content, header.byte_order + _FLOAT_TYPES[header.data_type])
    if len(voxels) < header.num_voxels:
        raise _truncated(path, header.file_size, header.offset + len(content))
    scaled = header.slope != 0 and (header.slope, header.intercept) != (1, 0)
    if scaled and np.isfinite(voxels).all():
        return None
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)


def refuse_truncated(path: Path) -> _Header | None:
    """FoldwiseError if the file holds fewer bytes than its header announces; None if it is no such NIfTI "
    "file."""
    compressed = _is_compressed(path)
    try:
        with gzip.open(path) if compressed else open(path, "rb") as file:
            header = _parse(file.read(352))
        if header is None:
            return None
        if compressed:
            # The last four bytes of a gzip file state the length of its content. Where they do not fit
            # (truncated, or several streams in a row), only unpacking all of it tells.
            with open(path, "rb") as file:
                file.seek(-4, 2)
                stated = struct.unpack("<I", file.read(4))[0]
            fits = stated == header.file_size & 0xFFFFFFFF
            available = header.file_size if fits else _unpacked_size(path)
        else:
            available = path.stat().st_size
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise FoldwiseError(f"{path} is truncated or damaged ({error}). Copy or export it again.") from error
    if available < header.file_size:
        raise _truncated(path, header.file_size, available)
    return header


def _parse(start: bytes) -> _Header | None:
    """The header of a single-file NIfTI-1 or NIfTI-2; None for other content, which is left to ITK."""
    if len(start) < 348:
        raise EOFError(f"only {len(start)} bytes of its header are there")
    for order in "<", ">":
        size = struct.unpack_from(order + "i", start)[0]
        if size == 348 and start[344:348] == b"n+1\0":
            dimensions = struct.unpack_from(order + "8h", start, 40)
            data_type, bits = struct.unpack_from(order + "2h", start, 70)
            offset, slope, intercept = struct.unpack_from(order + "3f", start, 108)
        elif size == 540 and start[4:8] == b"n+2\0":
            data_type, bits = struct.unpack_from(order + "2h", start, 12)
            dimensions = struct.unpack_from(order + "8q", start, 16)
            offset = struct.unpack_from(order + "q", start, 168)[0]
            slope, intercept = struct.unpack_from(order + "2d", start, 176)
        else:
            continue
        if not 1 <= dimensions[0] <= 7:
            return None
        num_voxels = math.prod(max(1, length) for length in dimensions[1 : 1 + dimensions[0]])
        return _Header(order, int(offset), num_voxels, bits, data_type, slope, intercept)
    return None


def _is_compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _content(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if _is_compressed(path) else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise FoldwiseError(f"{path} is truncated or damaged ({error}). Copy or export it again.") from error


def _unpacked_size(path: Path) -> int:
    total = 0
    with gzip.open(path) as file:
        while block := file.read(1 << 22):
            total += len(block)
    return total


def _truncated(path: Path, announced: int, available: int) -> FoldwiseError:
    return FoldwiseError(
        f"{path} is truncated: its header announces {announced} bytes, it holds {available}. Copy or export it again."
    )
