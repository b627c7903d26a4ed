"""The files of one preprocessed case, in nnU-Net's format, written so that a case is whole or not there.

``CASE.b2nd`` (C, X, Y, Z) float32, ``CASE_seg.b2nd`` (1, X, Y, Z) int16, ``CASE.pkl`` properties. Older
versions of nnU-Net wrote ``CASE.npz`` with both arrays; those are read as well. ``CASE.npy`` and
``CASE_seg.npy`` beside them are unpacked copies that can be mapped into memory.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from framework.data import blosc_format, restricted_pickle
from framework.data.memory import refuse_beyond_memory, refuse_impossible_size
from framework.errors import CaseError, FoldwiseError
from framework.files import atomic_write

_SEGMENTATION = "_seg"


@dataclass(frozen=True)
class CaseHeader:
    """What is known about the arrays of a case without unpacking a voxel."""

    shape: tuple[int, ...]
    """(C, X, Y, Z)"""
    num_bytes: int
    """Size of both arrays, unpacked."""


def write_case(
    folder: Path | str,
    case: str,
    data: np.ndarray,
    segmentation: np.ndarray | bytes,
    properties: Mapping[str, Any],
    patch_size: Sequence[int],
) -> None:
    """Write the three files of a case, all or none.

    Args:
        data: (C, X, Y, Z), stored as float32.
        segmentation: (1, X, Y, Z) labels, -1 outside of the region with content; stored as int16. Or what
            `packed_segmentation` made of them.
        properties: geometry, crop and ``class_locations``, as preprocessing made them.
        patch_size: of the configuration; decides on chunks and blocks.

    Raises:
        FoldwiseError: the disk is full or the folder cannot be written; no file is left half written.
    """
    folder = Path(folder)
    if isinstance(segmentation, np.ndarray):
        if data.ndim != 4 or segmentation.shape != (1, *data.shape[1:]):
            raise ValueError(f"shapes {data.shape} and {segmentation.shape}: expected (C, X, Y, Z) and (1, X, Y, Z)")
        segmentation = packed_segmentation(segmentation, patch_size)
    packed_data = blosc_format.packed(data.astype(np.float32, copy=False), patch_size)
    properties_path = folder / f"{case}.pkl"
    # Contexts close from the inside out: the properties get their name last, and mark the case as complete.
    with atomic_write(properties_path) as properties_file:
        properties_file.write_bytes(restricted_pickle.dumps(dict(properties)))
        with atomic_write(folder / f"{case}{_SEGMENTATION}.b2nd", sync_folder=False) as segmentation_file:
            segmentation_file.write_bytes(segmentation)
            with atomic_write(folder / f"{case}.b2nd", sync_folder=False) as data_file:
                data_file.write_bytes(packed_data)
                properties_path.unlink(missing_ok=True)


def packed_segmentation(segmentation: np.ndarray, patch_size: Sequence[int]) -> bytes:
    """The content of ``CASE_seg.b2nd`` for labels (1, X, Y, Z)."""
    return blosc_format.packed(segmentation.astype(np.int16, copy=False), patch_size)


def list_cases(folder: Path | str) -> list[str]:
    """Names of the cases in a folder, sorted; other files are passed over. A listed case may be incomplete."""
    names = _file_names(folder)
    packed = {name.removesuffix(".b2nd") for name in names if name.endswith(".b2nd")}
    cases = {name for name in packed if not name.endswith(_SEGMENTATION) or name + _SEGMENTATION in packed}
    cases.update(name.removesuffix(".npz") for name in names if name.endswith(".npz"))
    return sorted(cases)


def complete_cases(folder: Path | str) -> list[str]:
    """Names of the cases whose files are all there, sorted."""
    names = set(_file_names(folder))
    return [
        case
        for case in list_cases(folder)
        if f"{case}.pkl" in names
        and ({f"{case}.b2nd", f"{case}{_SEGMENTATION}.b2nd"} <= names or f"{case}.npz" in names)
    ]


def read_header(folder: Path, case: str) -> CaseHeader:
    """Shape and size of a case, from the headers of its files.

    Raises:
        CaseError: a file is missing, truncated, or does not belong to the others.
    """
    if is_npz(folder, case):
        shapes = _npz_headers(folder / f"{case}.npz", case)
    else:
        data, segmentation = open_packed_case(folder, case)
        shapes = [(tuple(array.shape), array.dtype.itemsize) for array in (data, segmentation)]
    (shape, itemsize), (segmentation_shape, segmentation_itemsize) = shapes
    if len(shape) != 4 or segmentation_shape != (1, *shape[1:]):
        raise CaseError(case, f"{folder}: the image has shape {shape}, the segmentation {segmentation_shape}. {_AGAIN}")
    properties = folder / f"{case}.pkl"
    if not properties.is_file():
        raise CaseError(case, f"{properties} does not exist. {_AGAIN}")
    with open(properties, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read(1) != b".":  # the last byte of every whole pickle
            raise CaseError(case, f"{properties} is truncated ({size} bytes). {_AGAIN}")
    num_voxels = math.prod(shape[1:])
    return CaseHeader(shape, num_voxels * (shape[0] * itemsize + segmentation_itemsize))


def read_properties(folder: Path, case: str) -> dict[str, Any]:
    """The properties of a case, ``class_locations`` included.

    Raises:
        CaseError: the file is missing, damaged, or holds something that could run code.
    """
    try:
        properties = restricted_pickle.load_pickle(folder / f"{case}.pkl")
    except FoldwiseError as error:
        raise CaseError(case, str(error)) from error
    if not isinstance(properties, dict):
        raise CaseError(case, f"{folder / case}.pkl holds a {type(properties).__name__}, expected a dict. {_AGAIN}")
    return properties


def open_packed_case(folder: Path, case: str, num_threads: int = 1) -> tuple[Any, Any]:
    """Image and segmentation as blosc2 arrays; nothing is unpacked until they are indexed."""
    opened = []
    for name in (case, case + _SEGMENTATION):
        path = folder / f"{name}.b2nd"
        if not path.is_file():
            raise CaseError(case, f"{path} does not exist. {_AGAIN}")
        try:
            opened.append(blosc_format.open_packed(path, num_threads))
        except OSError as error:
            raise CaseError(case, f"{path} cannot be read: {error}. {_AGAIN}") from error
    return opened[0], opened[1]


def load_case(folder: Path, case: str, num_threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Image (C, X, Y, Z) float32 and segmentation (1, X, Y, Z) int16, in memory."""
    try:
        if is_npz(folder, case):
            _npz_headers(folder / f"{case}.npz", case)
            with np.load(folder / f"{case}.npz", allow_pickle=False) as arrays:
                data, segmentation = arrays["data"], arrays["seg"]
        else:
            packed_data, packed_segmentation = open_packed_case(folder, case, num_threads)
            for packed in (packed_data, packed_segmentation):
                refuse_beyond_memory(math.prod(packed.shape) * packed.dtype.itemsize, f"case '{case}' in {folder}")
            data, segmentation = packed_data[...], packed_segmentation[...]
    except (OSError, EOFError, RuntimeError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, FoldwiseError):
            raise
        raise CaseError(case, f"its files in {folder} are damaged: {error}. {_AGAIN}") from error
    return data.astype(np.float32, copy=False), segmentation.astype(np.int16, copy=False)


def open_unpacked_case(folder: Path, case: str, shape: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Image and segmentation mapped from ``.npy`` files, which are written first where they are missing or "
    "old."""
    source = folder / (f"{case}.npz" if is_npz(folder, case) else f"{case}.b2nd")
    paths = (folder / f"{case}.npy", folder / f"{case}{_SEGMENTATION}.npy")
    shapes = (tuple(shape), (1, *shape[1:]))
    try:
        packed_at = source.stat().st_mtime_ns
    except OSError as error:
        raise CaseError(case, f"{source} does not exist. {_AGAIN}") from error
    mapped = [_mapped(path, wanted, packed_at) for path, wanted in zip(paths, shapes)]
    if mapped[0] is None or mapped[1] is None:
        for path, array in zip(paths, load_case(folder, case, num_threads=os.cpu_count() or 1)):
            with atomic_write(path) as temporary:
                np.save(temporary, array)
                # Its age is that of its source: if the source is replaced meanwhile, this copy is seen to be
                # old.
                os.utime(temporary, ns=(packed_at, packed_at))
        mapped = [_mapped(path, wanted, packed_at) for path, wanted in zip(paths, shapes)]
    data, segmentation = mapped
    if data is None or segmentation is None:
        raise CaseError(case, f"{paths[0]} could not be unpacked; was {source} replaced just now? Start again.")
    return data, segmentation


def file_sizes(folder: Path, cases: Iterable[str]) -> list[tuple[str, int]]:
    """Name and bytes of each file of the cases that is there.

    The files are compressed, so that other content has another size.
    """
    paths = [folder / f"{case}{ending}" for case in cases for ending in (".npz", ".b2nd", f"{_SEGMENTATION}.b2nd")]
    return [(path.name, path.stat().st_size) for path in paths if path.is_file()]


def is_npz(folder: Path, case: str) -> bool:
    """Whether a case is stored in the older single-file format only."""
    return not (folder / f"{case}.b2nd").is_file() and (folder / f"{case}.npz").is_file()


_AGAIN = "Preprocess this dataset again."


def _mapped(path: Path, shape: tuple[int, ...], not_older_than: int) -> np.ndarray | None:
    try:
        if path.stat().st_mtime_ns < not_older_than:
            return None
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if array.shape != shape or array.dtype.kind not in "fi":
        return None
    return array.view(np.ndarray)  # slicing np.memmap itself is several times slower


def _npz_headers(path: Path, case: str) -> list[tuple[tuple[int, ...], int]]:
    """Shape and itemsize of ``data`` and ``seg``, without unpacking them."""
    headers = []
    try:
        with zipfile.ZipFile(path) as archive:
            for name in ("data.npy", "seg.npy"):
                with archive.open(name) as file:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(file)
                    stored = archive.getinfo(name).file_size
                    if min(shape, default=1) < 0 or math.prod(shape) * dtype.itemsize > stored:
                        raise ValueError(f"{name} has the shape {shape}, but {stored} bytes")
                    refuse_impossible_size(stored, path)
                    headers.append((tuple(shape), dtype.itemsize))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise CaseError(case, f"{path} cannot be read: {error}. {_AGAIN}") from error
    return headers


def _file_names(folder: Path | str) -> list[str]:
    # names that start with a dot are system files and our own temporary files
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries if not entry.name.startswith(".")]
