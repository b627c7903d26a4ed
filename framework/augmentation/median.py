"""The median of the cube about every voxel, for many voxels at once, on a CPU.

Cubes that lie side by side share most of their voxels. For two along an axis, the common part is searched once: of its
sorted values only those in the middle can become a median, as many as each cube has values of its own, and one. These
few are searched again together with what each cube has alone. Four cubes in a square share in the same way first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# Numbers that are searched at once; what is not touched again leaves the cache.
_AT_ONCE = 1 << 18


def median_of_cubes(image: np.ndarray, size: int) -> np.ndarray:
    """The upper median of the cube of edge `size` about every voxel; borders are mirrored.

    Args:
        image: (X, Y) or (X, Y, Z) float32, without NaN.
        size: of the cube, which begins ``size // 2`` voxels before the voxel.
    """
    if size == 1:
        return image.copy()
    before = size // 2
    # Sharing costs some copies; by measurement it pays from these sizes on.
    num_shared = 0 if size < 5 else 1 if size == 5 else 2
    even = [length + length % 2 if axis < num_shared else length for axis, length in enumerate(image.shape)]
    padding = [(before, size - before - 1 + full - length) for full, length in zip(even, image.shape)]
    padded = np.pad(_ordered(image), padding, mode="symmetric")
    result = np.empty(even, np.int32)
    rows = max(1, _AT_ONCE // (size**image.ndim * math.prod(even[1:])))
    rows += rows % 2
    for begin in range(0, even[0], rows):
        end = min(begin + rows, even[0])
        _Search(padded[begin : end + size - 1], size, result[begin:end]).run(range(num_shared))
    return _ordered(result[tuple([slice(length) for length in image.shape])]).view(np.float32)


def _ordered(numbers: np.ndarray) -> np.ndarray:
    """float32 as int32 of the same order, which are searched faster; and back again."""
    bits = np.ascontiguousarray(numbers).view(np.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


class _Search:
    """One slab; every axis of `padded` is ``size - 1`` longer than that of `result`."""

    def __init__(self, padded: np.ndarray, size: int, result: np.ndarray) -> None:
        self.padded, self.size, self.result = padded, size, result
        self.rank = size**padded.ndim // 2

    def run(self, shared: Sequence[int]) -> None:
        """Fill the result.

        Args:
            shared: axes of even length, along which two neighbours are searched together.
        """
        axes = range(self.padded.ndim)
        starts = [1 if axis in shared else 0 for axis in axes]
        lengths = [self.size - 1 if axis in shared else self.size for axis in axes]
        steps = [2 if axis in shared else 1 for axis in axes]
        self._narrow(self._values(starts, lengths, steps), 0, starts, lengths, steps, list(shared))

    def _narrow(
        self, values: np.ndarray, below: int, starts: list[int], lengths: list[int], steps: list[int], open_: list[int]
    ) -> None:
        """Search values (*places, M) that `below` smaller ones of the same boxes were left out of."""
        missing = self.size**self.padded.ndim - math.prod(lengths)
        low = max(0, self.rank - missing - below)
        high = min(self.rank - below, values.shape[-1] - 1)
        if low == high:
            values.partition(low, axis=-1)
        else:
            values.sort(axis=-1)  # not slower than numpy's search for two ranks
        kept = values[..., low : high + 1]
        if not open_:
            self.result[tuple([slice(start, None, step) for start, step in zip(starts, steps)])] = kept[..., 0]
            return
        axis, *others = open_
        for start, own in ((0, 0), (1, self.size)):
            # The plane that this one of the two neighbours has alone.
            plane = self._values(_with(starts, axis, own), _with(lengths, axis, 1), steps)
            joined = np.concatenate([kept, plane], axis=-1)
            whole = _with(starts, axis, start), _with(lengths, axis, self.size)
            self._narrow(joined, below + low, *whole, steps, others)

    def _values(self, starts: list[int], lengths: list[int], steps: list[int]) -> np.ndarray:
        """(*places, M): copies of the boxes of these lengths, each `steps` after the one before."""
        boxes = np.lib.stride_tricks.sliding_window_view(self.padded, lengths)
        counts = [length // step for length, step in zip(self.result.shape, steps)]
        chosen = tuple(
            [slice(start, start + step * (count - 1) + 1, step) for start, step, count in zip(starts, steps, counts)]
        )
        return boxes[chosen].copy().reshape(*counts, math.prod(lengths))


def _with(numbers: list[int], axis: int, number: int) -> list[int]:
    return [number if place == axis else old for place, old in enumerate(numbers)]
