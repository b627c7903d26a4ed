"""Resampling arrays to another grid by nnU-Net's rule, several times faster.

Spline interpolation on a regular grid is separable and linear: resizing an axis from n to m voxels is an
(m, n) matrix, the same for all lines of voxels, and resizing a volume is one small matrix for each axis.
Segmentations are interpolated only where their labels meet, so their number does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import prod
from typing import Any, Protocol

import numpy as np

from framework.data.memory import refuse_beyond_memory
from framework.errors import PlansError
from framework.preprocessing.label_resampling import nearest_index, resize_labels

ANISOTROPY_THRESHOLD = 3
"""Where voxels are more than this many times as long as wide, slices are interpolated one by one."""

_NEGLIGIBLE_WEIGHT = {"f": 1e-9, "d": 1e-13}
"""By type: spline weights fall by a factor of 3.7 a voxel and soon are beyond the digits of the sum."""
_BLOCK_ROWS = 64
_FEWEST_ROWS = 8
_VOXELS_AT_ONCE = 1 << 22
_LARGEST_FLOAT32_VALUE = 64.0
_ENDLESS = 1e15  # voxels; spacings that are off by many orders of magnitude
_SMALL = 1 << 28  # voxels that need no look at the memory


def new_shape(shape: Sequence[int], spacing: Sequence[float], target_spacing: Sequence[float]) -> tuple[int, ...]:
    """Shape after resampling from one spacing (mm) to another; at least one voxel is left of every axis.

    Raises:
        FoldwiseError: the result would not fit into the memory.
    """
    lengths = [float(old / new * length) for length, old, new in zip(shape, spacing, target_spacing, strict=True)]
    resampled = tuple(max(1, round(min(length, _ENDLESS))) for length in lengths)
    what = f"resampling from {list(shape)} voxels of {list(spacing)} mm to {list(target_spacing)} mm"
    if prod(resampled) > _SMALL:
        refuse_beyond_memory(prod(resampled) * 4, what)
    return resampled


def lowres_axis(
    spacing: Sequence[float],
    target_spacing: Sequence[float],
    force_separate_z: bool | None = None,
    threshold: float = ANISOTROPY_THRESHOLD,
) -> int | None:
    """The axis that is to be resampled apart from the other two, or None to interpolate in 3D.

    It is the coarsest axis of the spacing that is anisotropic, first asked of `spacing`, then of
    `target_spacing`. Two equally coarse axes leave no slices to interpolate in.
    """
    if force_separate_z is False:
        return None
    for candidate in (spacing, target_spacing):
        if force_separate_z or max(candidate) / min(candidate) > threshold:
            coarsest = [axis for axis, length in enumerate(candidate) if length == max(candidate)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


class Channel(Protocol):
    """A volume (X, Y, Z) that gives the part that is asked for: an array, or something that computes it."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray: ...


def resample(
    array: np.ndarray | Sequence[Channel],
    shape: Sequence[int],
    current_spacing: Sequence[float],
    new_spacing: Sequence[float],
    is_seg: bool = False,
    order: int = 3,
    order_z: int = 0,
    force_separate_z: bool | None = None,
    separate_z_anisotropy_threshold: float = ANISOTROPY_THRESHOLD,
) -> np.ndarray:
    """Bring an array onto a grid of another shape, as nnU-Net's ``resample_data_or_seg_to_shape``.

    Args:
        array: (C, X, Y, Z): an image, logits or probabilities, for which C volumes (X, Y, Z) that are
            computed slab by slab will do; or label maps, with `is_seg`.
        shape: the new (X, Y, Z).
        current_spacing: mm, of `array`.
        new_spacing: mm; like `current_spacing` it only decides whether slices are treated one by one.
        is_seg: interpolate every label for itself and take the one with the largest share.
        order: of the splines: 0 nearest, 1 linear, 3 cubic. Label maps: 0 or 1.
        order_z: the same along an axis that is treated apart.
        force_separate_z: True or False instead of the rule of `lowres_axis`.
        separate_z_anisotropy_threshold: where that rule sets in.

    Returns:
        (C, *shape), float32 for images, in the type of `array` for label maps. `array` itself if it is one
        and has that shape already.
    """
    shape = tuple(int(length) for length in shape)
    if any(len(channel.shape) != 3 for channel in array) or len(shape) != 3:
        found = [tuple(channel.shape) for channel in array]
        raise ValueError(f"expected (C, X, Y, Z) and three lengths, found {found} and {shape}")
    if isinstance(array, np.ndarray) and array.shape[1:] == shape:
        return array
    axis = lowres_axis(current_spacing, new_spacing, force_separate_z, separate_z_anisotropy_threshold)
    if is_seg:
        if order not in (0, 1) or (axis is not None and order_z != 0):
            raise PlansError(
                f"resampling_fn_seg_kwargs: order {order} and order_z {order_z} were found; segmentations "
                "are resampled with order 0 or 1 and order_z 0."
            )
        return np.stack([_resize_label_map(channel, shape, order, axis) for channel in np.asarray(array)])
    result = np.empty((len(array), *shape), np.float32)
    for channel, resized in zip(array, result):
        _resize_image(channel, resized, order, order_z, axis)
    return result


RESAMPLING: dict[str, Any] = {"resample_data_or_seg_to_shape": resample}
"""Resampling functions by the names that plans use."""


def axis_matrix(num_in: int, num_out: int, order: int) -> np.ndarray:
    """(num_out, num_in) float64: what skimage's resize (mode edge, no anti-aliasing) does along one axis."""
    from scipy import ndimage

    if order == 0:
        return np.eye(num_in)[nearest_index(num_in, num_out)]
    columns = np.eye(num_in)
    return ndimage.zoom(columns, (num_out / num_in, 1), order=order, mode="nearest", grid_mode=True)


def _resize_image(image: Channel, result: np.ndarray, order: int, order_z: int, axis: int | None) -> None:
    """One channel (X, Y, Z), with `axis`, if any, treated apart."""
    if tuple(image.shape) == result.shape:
        for part in _slabs(image.shape, 0):
            result[part] = image[part]
        return
    low, high = _extremes(image)
    # The error of float32 products is about 1e-6 of the largest value: nothing for normalised images, logits
    # and probabilities, but images that kept their raw values deserve better.
    small = low >= -_LARGEST_FLOAT32_VALUE and high <= _LARGEST_FLOAT32_VALUE
    dtype = np.dtype(np.float32 if small else np.float64)
    if axis is None:
        _resize_volume(image, result, order, dtype, (low, high))
    else:
        _resize_slices(image, result, order, order_z, axis, dtype)


def _resize_volume(
    image: Channel, result: np.ndarray, order: int, dtype: np.dtype, extremes: tuple[float, float]
) -> None:
    """All three axes, for a few rows of the result at a time: no other volume of its size is needed."""
    num_in, num_out = image.shape[0], len(result)
    plane = max(prod(image.shape[1:]), prod(result.shape[1:]))
    num_rows = min(_BLOCK_ROWS, max(_FEWEST_ROWS, _VOXELS_AT_ONCE // plane))
    for rows, columns, weights in _rows_of_axis(num_in, num_out, order, dtype.char, num_rows):
        slab = image[columns, :, :].astype(dtype, copy=False)
        if weights is not None:
            slab = _weighted(slab, 0, weights)
        # Shrinking axes come first: they make the intermediate arrays small.
        for axis in sorted((1, 2), key=lambda i: result.shape[i] / image.shape[i]):
            slab = _apply(slab, axis, result.shape[axis], order)
        # Splines overshoot beside edges. What exceeds the range of the input is cut off.
        result[rows] = np.clip(slab, *extremes, out=slab) if order > 1 else slab


def _resize_slices(image: Channel, result: np.ndarray, order: int, order_z: int, axis: int, dtype: np.dtype) -> None:
    """Every slice along `axis` for itself, then that axis."""
    num_in, num_out = image.shape[axis], result.shape[axis]
    in_plane = [each for each in range(3) if each != axis]
    shape = list(result.shape)
    shape[axis] = num_in
    between = np.empty(shape, dtype) if order_z and num_in != num_out else None
    nearest = nearest_index(num_in, num_out)
    for part in _slabs(image.shape, axis):
        slab = image[part].astype(dtype, copy=False)
        extremes = (slab.min(tuple(in_plane), keepdims=True), slab.max(tuple(in_plane), keepdims=True))
        for each in sorted(in_plane, key=lambda i: result.shape[i] / image.shape[i]):
            slab = _apply(slab, each, result.shape[each], order)
        if order > 1:
            slab = np.clip(slab, *extremes)
        if between is not None:
            between[part] = slab
            continue
        start, stop = part[axis].start, part[axis].stop
        first, last = np.searchsorted(nearest, (start, stop))
        target = tuple(slice(first, last) if each == axis else slice(None) for each in range(3))
        result[target] = slab.take(nearest[first:last] - start, axis)
    if between is not None:
        result[...] = _apply(between, axis, num_out, order_z)


def _slabs(shape: Sequence[int], axis: int) -> Iterator[tuple[slice, ...]]:
    """Indices of parts of a volume, cut across `axis`, that together are all of it."""
    num_rows = max(1, _VOXELS_AT_ONCE * shape[axis] // prod(shape))
    for start in range(0, shape[axis], num_rows):
        rows = slice(start, min(start + num_rows, shape[axis]))
        yield tuple(rows if each == axis else slice(None) for each in range(3))


def _extremes(image: Channel) -> tuple[float, float]:
    lowest, highest = float("inf"), -float("inf")
    for part in _slabs(image.shape, 0):
        slab = image[part]
        lowest, highest = min(lowest, slab.min().item()), max(highest, slab.max().item())
    return lowest, highest


def _resize_label_map(labels: np.ndarray, shape: tuple[int, ...], order: int, axis: int | None) -> np.ndarray:
    """One label map (X, Y, Z), with `axis`, if any, treated apart."""
    if axis is None:
        return resize_labels(labels, shape, order)
    in_plane = list(shape)
    in_plane[axis] = labels.shape[axis]
    return resize_labels(labels, in_plane, order).take(nearest_index(labels.shape[axis], shape[axis]), axis)


def _apply(image: np.ndarray, axis: int, num_out: int, order: int) -> np.ndarray:
    """Resize one axis of (X, Y, Z)."""
    num_in = image.shape[axis]
    if num_in == num_out:
        return image
    result = np.empty((*image.shape[:axis], num_out, *image.shape[axis + 1 :]), image.dtype)
    for rows, columns, weights in _rows_of_axis(num_in, num_out, order, image.dtype.char, _BLOCK_ROWS):
        before = (slice(None),) * axis
        assert weights is not None
        _weighted(image[(*before, columns)], axis, weights, result[(*before, rows)])
    return result


def _weighted(part: np.ndarray, axis: int, weights: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Sums over `axis` of (X, Y, Z) with weights (rows, columns), in place of that axis."""
    if out is None:
        out = np.empty((*part.shape[:axis], len(weights), *part.shape[axis + 1 :]), part.dtype)
    if axis == 0:
        np.matmul(weights, np.ascontiguousarray(part).reshape(len(part), -1), out=out.reshape(len(weights), -1))
    elif axis == 1:
        np.matmul(weights, part, out=out)
    else:
        np.matmul(part, weights.T, out=out)
    return out


Rows = tuple[slice, slice, "np.ndarray | None"]
"""Rows of a result, the columns of the input that they are made from, and the weights (rows, columns)."""


@lru_cache(maxsize=64)
def _rows_of_axis(num_in: int, num_out: int, order: int, dtype: str, num_rows: int) -> tuple[Rows, ...]:
    """The matrix of an axis in bands of rows, each without the columns that contribute nothing; no weights for
    an axis that keeps its length."""
    bands = [slice(start, min(start + num_rows, num_out)) for start in range(0, num_out, num_rows)]
    if num_in == num_out:
        return tuple((rows, rows, None) for rows in bands)
    matrix = axis_matrix(num_in, num_out, order)
    found = []
    for rows in bands:
        used = np.flatnonzero((np.abs(matrix[rows]) > _NEGLIGIBLE_WEIGHT[dtype]).any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1)
        found.append((rows, columns, np.ascontiguousarray(matrix[rows, columns], dtype)))
    return tuple(found)
