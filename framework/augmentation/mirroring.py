"""Mirroring a patch in place."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from framework.augmentation.grid import slabs


def mirror(array: Tensor, axes: Sequence[int]) -> None:
    """Mirror (C, *patch) along some axes of the patch, in place; a part at a time, so that no second array is needed.

    Args:
        axes: 0 is the first axis of the patch.
    """
    dims = [1 + axis for axis in axes]
    length = array.shape[1]
    if 0 not in axes:
        for begin, end in slabs(array.shape[1:], array.device):
            part = array[:, begin:end]
            part.copy_(part.flip(dims))
        return
    half = (length + 1) // 2
    for begin, end in slabs((half, *array.shape[2:]), array.device):
        # Both parts share the middle row of an odd number; it is written last as it should be.
        first, last = array[:, begin:end], array[:, length - end : length - begin]
        kept = first.flip(dims)
        first.copy_(last.flip(dims))
        last.copy_(kept)
