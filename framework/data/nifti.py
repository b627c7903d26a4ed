"""NIfTI files, byte by byte: what ITK passes over in silence, and reading and writing without ITK.

ITK fills up a truncated file and replaces NaN and infinite voxels by zeros. Both would be trained on
unnoticed. It also has its own idea of which of the header's descriptions of space counts; readers that follow
nibabel's need the header itself, see `framework.data.nifti_space`.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from framework.data.memory import refuse_impossible_size
from framework.errors import FoldwiseError

_FLOAT_TYPES = {16: "f4", 64: "f8"}  # NIfTI's codes for data types
_TYPES = {2: "u1", 4: "i2", 8: "i4", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8", **_FLOAT_TYPES}
_CODES = {np.dtype(kind): code for code, kind in _TYPES.items()}


@dataclass(frozen=True)
class Header:
    """The fields of a NIfTI-1 or NIfTI-2 header that say how to read the voxels, and where they lie."""

    byte_order: str
    offset: int  # of the first voxel, in bytes
    shape: tuple[int, ...]
    bits_per_voxel: int
    data_type: int
    slope: float
    intercept: float
    real: str  # numpy's type of the numbers below: "f" (NIfTI-1) or "d" (NIfTI-2)
    spacing: tuple[float, ...]  # mm, one for each entry of `shape`
    handedness: float  # -1: the third axis of the quaternion's description points the other way
    quaternion_code: int  # 0: not given
    quaternion: tuple[float, ...]  # b, c, d and the position of the first voxel
    matrix_code: int  # 0: not given
    matrix: tuple[float, ...]  # the first three rows of the affine matrix

    @property
    def num_voxels(self) -> int:
        return math.prod(self.shape)

    @property
    def num_volumes(self) -> int:
        """How many 3D volumes the file holds: its channels, or its time points."""
        return math.prod(self.shape[3:])

    @property
    def file_size(self) -> int:
        return self.offset + self.num_voxels * self.bits_per_voxel // 8


def read(path: Path) -> tuple[np.ndarray, Header]:
    """Voxels in the axes of the file (first axis fastest), scaled as the header says, and the header.

    Scaled voxels are float64, others have the type of the file.

    Raises:
        FoldwiseError: the file is truncated, damaged, or of a kind that has no numbers in its voxels.
    """
    header = refuse_truncated(path)
    if header is None:
        raise FoldwiseError(f"{path} is no single-file NIfTI image. Was it renamed from another format?")
    if header.data_type not in _TYPES:
        raise FoldwiseError(
            f"{path} has voxels of NIfTI type {header.data_type}, which are no plain numbers (colours, for example). "
            "Save it with integer or floating-point voxels."
        )
    content = _content(path, header.file_size)[header.offset : header.file_size]
    stored = np.frombuffer(content, header.byte_order + _TYPES[header.data_type]).reshape(header.shape, order="F")
    array = stored.astype(stored.dtype.newbyteorder("="), copy=False)
    if math.isfinite(header.slope) and header.slope != 0 and (header.slope, header.intercept) != (1, 0):
        array = array * np.float64(header.slope) + np.float64(header.intercept)
    return array, header


def split_volumes(path: Path, header: Header) -> Iterator[bytes]:
    """The 3D volumes of a 4D file, each as a complete file: not a bit of its voxels or of its place changes."""
    content = _content(path, header.file_size)
    start = bytearray(content[: header.offset])
    # The number of dimensions, and the length of all above the third.
    where, word = (40, "h") if header.real == "f" else (16, "q")
    struct.pack_into(f"{header.byte_order}{word}", start, where, 3)
    struct.pack_into(f"{header.byte_order}4{word}", start, where + 4 * struct.calcsize(word), 1, 1, 1, 1)
    size = (header.file_size - header.offset) // header.num_volumes
    for volume in range(header.num_volumes):
        first = header.offset + volume * size
        whole = bytes(start) + content[first : first + size]
        yield gzip.compress(whole, 6, mtime=0) if _is_compressed(path) else whole


def write(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    """Write (X, Y, Z), in the axes of the file, as NIfTI-1; compressed if the name ends in .gz.

    Args:
        affine: (4, 4) from voxels to mm, right-anterior-superior; stored as float32.
    """
    matrix = np.asarray(affine, np.float32)[:3]
    spacing = np.linalg.norm(np.asarray(affine, np.float64)[:3, :3], axis=0)
    header = bytearray(352)  # the last four bytes say that there are no extensions
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, array.ndim, *array.shape, *[1] * (7 - array.ndim))
    struct.pack_into("<2h", header, 70, _CODES[array.dtype], array.dtype.itemsize * 8)
    struct.pack_into("<4f", header, 76, 1, *spacing)
    struct.pack_into("<3f", header, 108, 352, 1, 0)  # offset, slope, intercept
    struct.pack_into("<B", header, 123, 2)  # lengths are in mm
    # Aligned to something, by the matrix alone: a quaternion cannot say everything that a matrix can.
    struct.pack_into("<2h", header, 252, 0, 2)
    struct.pack_into("<12f", header, 280, *matrix.ravel())
    header[344:348] = b"n+1\0"
    voxels = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(order="F")
    whole = bytes(header) + voxels
    path.write_bytes(gzip.compress(whole, 6, mtime=0) if _is_compressed(path) else whole)


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
    content = _content(path, header.file_size)[header.offset : header.file_size]
    voxels = np.frombuffer(content, header.byte_order + _FLOAT_TYPES[header.data_type])
    if len(voxels) < header.num_voxels:
        raise _truncated(path, header.file_size, header.offset + len(content))
    scaled = header.slope != 0 and (header.slope, header.intercept) != (1, 0)
    if scaled and np.isfinite(voxels).all():
        return None
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)


def refuse_truncated(path: Path) -> Header | None:
    """FoldwiseError if the file holds fewer bytes than its header announces; None if it is no such file."""
    compressed = _is_compressed(path)
    try:
        with gzip.open(path) if compressed else open(path, "rb") as file:
            header = _parse(file.read(540))
        if header is None:
            return None
        _refuse_impossible(path, header)
        if compressed:
            # The last four bytes of a gzip file state the length of its content. Where they do not fit
            # (truncated, or several streams in a row), only unpacking all of it tells.
            with open(path, "rb") as file:
                file.seek(-4, 2)
                stated = struct.unpack("<I", file.read(4))[0]
            fits = stated == header.file_size & 0xFFFFFFFF
            available = header.file_size if fits else _unpacked_size(path, header.file_size)
        else:
            available = path.stat().st_size
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise FoldwiseError(f"{path} is truncated or damaged ({error}). Copy or export it again.") from error
    if available < header.file_size:
        raise _truncated(path, header.file_size, available)
    return header


def _parse(start: bytes) -> Header | None:
    """The header of a single-file NIfTI-1 or NIfTI-2; None for other content, which is left to ITK."""
    if len(start) < 348:
        raise EOFError(f"only {len(start)} bytes of its header are there")
    for order in "<", ">":
        size = struct.unpack_from(order + "i", start)[0]
        if size == 348 and start[344:348] == b"n+1\0":
            real, dimensions = "f", struct.unpack_from(order + "8h", start, 40)
            data_type, bits = struct.unpack_from(order + "2h", start, 70)
            lengths = struct.unpack_from(order + "8f", start, 76)
            offset, slope, intercept = struct.unpack_from(order + "3f", start, 108)
            codes, quaternion_at, matrix_at = struct.unpack_from(order + "2h", start, 252), 256, 280
        elif size == 540 and start[4:8] == b"n+2\0":
            real, dimensions = "d", struct.unpack_from(order + "8q", start, 16)
            data_type, bits = struct.unpack_from(order + "2h", start, 12)
            lengths = struct.unpack_from(order + "8d", start, 104)
            offset = struct.unpack_from(order + "q", start, 168)[0]
            slope, intercept = struct.unpack_from(order + "2d", start, 176)
            codes, quaternion_at, matrix_at = struct.unpack_from(order + "2i", start, 344), 352, 400
        else:
            continue
        if not 1 <= dimensions[0] <= 7:
            return None
        num_axes = dimensions[0]
        return Header(
            byte_order=order,
            offset=int(offset) if math.isfinite(offset) else -1,
            # Some programs write 0 for the length of an axis of time that is not there.
            shape=tuple(max(0 if axis < 3 else 1, length) for axis, length in enumerate(dimensions[1 : 1 + num_axes])),
            bits_per_voxel=bits,
            data_type=data_type,
            slope=slope,
            intercept=intercept,
            spacing=lengths[1 : 1 + num_axes],
            real=real,
            handedness=-1.0 if lengths[0] < 0 else 1.0,
            quaternion_code=codes[0],
            quaternion=struct.unpack_from(f"{order}6{real}", start, quaternion_at),
            matrix_code=codes[1],
            matrix=struct.unpack_from(f"{order}12{real}", start, matrix_at),
        )
    return None


def _is_compressed(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _refuse_impossible(path: Path, header: Header) -> None:
    """FoldwiseError for a header that describes no image."""
    wrong = ""
    if any(length < 0 for length in header.shape):
        wrong = f"lengths {header.shape}"
    elif header.data_type in _TYPES and header.bits_per_voxel != np.dtype(_TYPES[header.data_type]).itemsize * 8:
        wrong = f"voxels of type {header.data_type} with {header.bits_per_voxel} bits"
    elif not _SHORTEST[header.real] <= header.offset <= _LONGEST_HEADER:
        wrong = f"voxels that begin at byte {header.offset}"
    if wrong:
        raise FoldwiseError(f"{path} has a damaged header: it announces {wrong}. Copy or export it again.")


_SHORTEST = {"f": 348, "d": 540}
_LONGEST_HEADER = 1 << 30


def _content(path: Path, wanted: int) -> bytes:
    """The first `wanted` bytes of the file, unpacked, or fewer if it is shorter."""
    refuse_impossible_size(wanted, path)
    try:
        if not _is_compressed(path):
            with open(path, "rb") as file:
                return file.read(wanted)
        packed = path.read_bytes()
        # One byte more than wanted, so that the end of the stream is reached, where its checksum is compared.
        content = b""
        while packed and len(content) <= wanted:
            stream = zlib.decompressobj(wbits=31)
            part = stream.decompress(packed, wanted + 1 - len(content))
            content = content + part if content else part
            if not stream.eof and len(content) <= wanted:
                raise EOFError("the compressed data end too early")
            packed = stream.unused_data.lstrip(b"\0")
            if not packed.startswith(_GZIP):
                break  # bytes behind the end, which gzip passes over
        return content[:wanted]
    except (OSError, EOFError, zlib.error) as error:
        raise FoldwiseError(f"{path} is truncated or damaged ({error}). Copy or export it again.") from error


_GZIP = b"\x1f\x8b"


def _unpacked_size(path: Path, wanted: int) -> int:
    """Bytes that are in a compressed file; counting ends at `wanted`."""
    total = 0
    with gzip.open(path) as file:
        while total < wanted and (block := file.read(1 << 22)):
            total += len(block)
    return total


def _truncated(path: Path, announced: int, available: int) -> FoldwiseError:
    return FoldwiseError(
        f"{path} is truncated: its header announces {announced} bytes, it holds {available}. Copy or export it again."
    )
