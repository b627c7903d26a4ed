"""nnU-Net's ``.b2nd`` files: how an array is divided into chunks and blocks, and how it is compressed.

A block is what one core unpacks at a time, a chunk is what is stored together. The rule makes a random
patch touch few of both.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

MAX_BLOCK_BYTES = 128 * 1024  # fits into the second-level cache of a core
MAX_CHUNK_BYTES = 6 * 1024**2  # fits into the share that a core has of the third-level cache
_NUM_THREADS = "BLOSC_NTHREADS"  # asked for by blosc at every call
_TRIAL_BYTES = 1 << 20
_CHUNK_TO_PATCH = 1.5  # longest useful chunk, in patches
_COMPRESSION_LEVEL = {"f": 1, "i": 5}
"""By kind of number. On images higher ones save 4 to 9 % at three times the time, and unpack no faster."""


def block_and_chunk_shape(
    shape: Sequence[int], patch_size: Sequence[int], itemsize: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Block and chunk shape for an array, by nnU-Net's rule.

    Args:
        shape: (C, X, Y, Z) of the array.
        patch_size: (X, Y, Z), or (Y, Z) for slices along the first spatial axis.
        itemsize: bytes for one voxel.

    Returns:
        Two shapes (1, X, Y, Z).
    """
    image = [int(length) for length in shape[1:]]
    patch = [int(length) for length in patch_size]
    patch = [1] * (len(image) - len(patch)) + patch
    target = [min(length, max(1, math.floor(_CHUNK_TO_PATCH * wanted))) for length, wanted in zip(image, patch)]
    block = _block(image, patch, target, MAX_BLOCK_BYTES // itemsize)
    chunk = _chunk(image, patch, target, block, MAX_CHUNK_BYTES // itemsize)
    return (1, *block), (1, *chunk)


def _block(image: list[int], patch: list[int], target: list[int], max_voxels: int) -> list[int]:
    """The smallest powers of two that cover a patch, shrunk evenly until they fit."""
    block = [min(_power_of_two_from(wanted), length) for wanted, length in zip(patch, image)]
    while math.prod(block) > max_voxels:
        axis = max(range(len(block)), key=lambda i: (block[i] / target[i], i) if block[i] > 1 else (-1.0, i))
        block[axis] = _power_of_two_from(block[axis]) // 2
    return block


def _chunk(image: list[int], patch: list[int], target: list[int], block: list[int], max_voxels: int) -> list[int]:
    """The block, enlarged by whole blocks along the axis that lags behind most, up to 1.5 patches."""
    chunk = list(block)
    growing = [i for i in range(len(chunk)) if patch[i] > 1 and chunk[i] < target[i]]
    while growing:
        axis = min(growing, key=lambda i: (chunk[i] / target[i], -image[i], i))
        grown = list(chunk)
        grown[axis] = min(chunk[axis] + block[axis], image[axis], target[axis])
        if math.prod(grown) > max_voxels:
            growing.remove(axis)
            continue
        chunk = grown
        if chunk[axis] >= target[axis]:
            growing.remove(axis)
    return chunk


def packed(array: np.ndarray, patch_size: Sequence[int]) -> bytes:
    """The content of a ``.b2nd`` file for an array (C, X, Y, Z)."""
    import blosc2

    array = np.ascontiguousarray(array)
    block, chunk = block_and_chunk_shape(array.shape, patch_size, array.itemsize)
    # The frame is built in memory: blosc2 writing to a full disk fails in ways that cannot all be caught.
    with _one_thread():
        parameters = _compression(array.dtype, _better_filter(array, block, chunk))
        return blosc2.asarray(array, chunks=chunk, blocks=block, cparams=parameters, contiguous=True).to_cframe()


def open_packed(path: Path | str, num_threads: int = 1) -> Any:
    """A ``.b2nd`` file as a blosc2 array, mapped into memory; nothing is unpacked until it is indexed.

    Raises:
        OSError: the file is missing, truncated, or no blosc2 array.
    """
    import blosc2

    _refuse_programs(Path(path))
    try:
        array = blosc2.open(str(path), mode="r", mmap_mode=_mmap_mode(), dparams={"nthreads": num_threads})
    except (RuntimeError, ValueError) as error:
        raise OSError(f"truncated or damaged ({error})") from error
    if not isinstance(array, blosc2.NDArray):
        raise OSError(f"it holds a {type(array).__name__}, expected an array")
    return array


_PROGRAMS = (b"LazyArray", b"proxy-source", b"b2o")
"""Names under which blosc2 keeps expressions and functions in the head of a file; older versions run them."""
_LONGEST_HEAD = 1 << 16


def _refuse_programs(path: Path) -> None:
    """OSError for a file that is no array of numbers but a description of how to compute one."""
    with open(path, "rb") as file:
        start = file.read(15)
        length = int.from_bytes(start[11:], "big")  # behind two bytes, "b2frame" with a zero, the type of this number
        head = start + file.read(min(length, _LONGEST_HEAD))
    if length > _LONGEST_HEAD or any(name in head for name in _PROGRAMS):
        raise OSError("it holds no array, but an expression or a function that would be run")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Also for the index of a frame, which blosc packs again with every chunk, each time with new threads for all
    cores whatever its parameters say: that takes several times as long as the packing itself."""
    before = os.environ.get(_NUM_THREADS)
    os.environ[_NUM_THREADS] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_NUM_THREADS]
        else:
            os.environ[_NUM_THREADS] = before


def _mmap_mode() -> str | None:
    # Windows denies access to a file that another process has mapped.
    return "r" if os.name != "nt" else None


def _compression(dtype: np.dtype, filter_: Any) -> dict[str, Any]:
    import blosc2

    # One thread: several would order the blocks of a chunk by chance, and equal arrays would give unequal
    # files.
    return {
        "codec": blosc2.Codec.LZ4HC,
        "clevel": _COMPRESSION_LEVEL[dtype.kind],
        "filters": [filter_],
        "nthreads": 1,
    }


def _better_filter(array: np.ndarray, block: Sequence[int], chunk: Sequence[int]) -> Any:
    """SHUFFLE if it makes the chunk in the middle of the array smaller, else none; of images a part of that chunk
    is tried, with LZ4, a quicker relative."""
    import blosc2

    starts = [(length - part) // 2 for length, part in zip(array.shape, chunk)]
    middle = np.ascontiguousarray(array[tuple(slice(start, start + part) for start, part in zip(starts, chunk))])
    if array.dtype.kind == "f":
        middle = middle[:, : max(1, _TRIAL_BYTES * middle.shape[1] // middle.nbytes)]
        block = [min(pair) for pair in zip(block, middle.shape)]
    sizes = {}
    for filter_ in (blosc2.Filter.NOFILTER, blosc2.Filter.SHUFFLE):
        parameters = _compression(array.dtype, filter_)
        if array.dtype.kind == "f":
            parameters["codec"] = blosc2.Codec.LZ4
        trial = blosc2.asarray(middle, chunks=middle.shape, blocks=tuple(block), cparams=parameters)
        sizes[filter_] = trial.schunk.cbytes
    return min(sizes, key=sizes.__getitem__)  # none on a tie


def _power_of_two_from(number: int) -> int:
    """The smallest power of two that is at least `number`."""
    return 1 << max(0, number - 1).bit_length()
