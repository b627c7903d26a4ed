"""Resampling arrays to another grid by nnU-Net's rule, several times faster.

Spline interpolation on a regular grid is separable and linear: resizing an axis from n to m voxels is an
(m, n) matrix, the same for all lines of voxels, and resizing a volume is one small matrix for each axis.
Segmentations are interpolated only where their labels meet, so their number does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from framework.errors import PlansError
from framework.preprocessing.label_resampling import nearest_index, resize_labels

ANISOTROPY_THRESHOLD = 3
"""Where voxels are more than this many times as long as wide, slices are interpolated one by one."""

_NEGLIGIBLE_WEIGHT = 1e-13
_BLOCK_ROWS = 64
_LARGEST_FLOAT32_VALUE = 64.0


def new_shape(shape: Sequence[int], spacing: Sequence[float], target_spacing: Sequence[float]) -> tuple[int, ...]:
    """Shape after resampling from one spacing (mm) to another."""
    return tuple(
        round(float(old / new * length)) for length, old, new in zip(shape, spacing, target_spacing, strict=True)
    )


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


def resample(
    array: np.ndarray,
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
        array: (C, X, Y, Z): an image, logits or probabilities; or label maps, with `is_seg`.
        shape: the new (X, Y, Z).
        current_spacing: mm, of `array`.
        new_spacing: mm; like `current_spacing` it only decides whether slices are treated one by one.
        is_seg: interpolate every label for itself and take the one with the largest share.
        order: of the splines: 0 nearest, 1 linear, 3 cubic. Label maps: 0 or 1.
        order_z: the same along an axis that is treated apart.
        force_separate_z: True or False instead of the rule of `lowres_axis`.
        separate_z_anisotropy_threshold: where that rule sets in.

    Returns:
        (C, *shape), float32 for images, in the type of `array` for label maps. `array` itself if it has that
        shape already.
    """
    shape = tuple(int(length) for length in shape)
    if array.ndim != 4 or len(shape) != 3:
        raise ValueError(f"expected (C, X, Y, Z) and three lengths, found {array.shape} and {shape}")
    if array.shape[1:] == shape:
        return array
    axis = lowres_axis(current_spacing, new_spacing, force_separate_z, separate_z_anisotropy_threshold)
    if is_seg:
        if order not in (0, 1) or (axis is not None and order_z != 0):
            raise PlansError(
                f"resampling_fn_seg_kwargs: order {order} and order_z {order_z} were found; segmentations "
                "are resampled with order 0 or 1 and order_z 0."
            )
        return np.stack([_resize_label_map(channel, shape, order, axis) for channel in array])
    result = np.empty((len(array), *shape), np.float32)
    for channel, resized in zip(array, result):
        resized[...] = _resize_image(channel, shape, order, order_z, axis)
    return result


RESAMPLING: dict[str, Any] = {"resample_data_or_seg_to_shape": resample}
"""Resampling functions by the names that plans use."""


def axis_matrix(num_in: int, num_out: int, order: int) -> np.ndarray:
    """(num_out, num_in) float64: what skimage's resize (mode edge, no anti-aliasing) does along one axis."""
    from scipy import ndimage

    columns = np.eye(num_in)
    return ndimage.zoom(columns, (num_out / num_in, 1), order=order, mode="nearest", grid_mode=True)


def _resize_image(image: np.ndarray, shape: tuple[int, ...], order: int, order_z: int, axis: int | None) -> np.ndarray:
    """One channel (X, Y, Z), with `axis`, if any, treated apart."""
    extremes = (image.min(keepdims=True), image.max(keepdims=True))
    # The error of float32 products is about 1e-6 of the largest value: nothing for normalised images, logits
    # and probabilities, but images that kept their raw values deserve better.
    small = extremes[0].item() >= -_LARGEST_FLOAT32_VALUE and extremes[1].item() <= _LARGEST_FLOAT32_VALUE
    resized = image.astype(np.float32 if small else np.float64, copy=False)
    together = [each for each in range(3) if each != axis]
    # Shrinking axes come first: they make the intermediate arrays small.
    for each in sorted(together, key=lambda i: shape[i] / image.shape[i]):
        resized = _apply(resized, each, shape[each], order)
    if order > 1:
        # Splines overshoot beside edges. What exceeds the range of the input is cut off; where slices are
        # interpolated one by one, that is the range of the slice.
        if axis is not None:
            extremes = (image.min(tuple(together), keepdims=True), image.max(tuple(together), keepdims=True))
        resized = np.clip(resized, *extremes)
    return resized if axis is None else _apply(resized, axis, shape[axis], order_z)


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
    if order == 0:
        return image.take(nearest_index(num_in, num_out), axis)
    result = np.empty((*image.shape[:axis], num_out, *image.shape[axis + 1 :]), image.dtype)
    for rows, columns, block in _matrix_blocks(num_in, num_out, order, image.dtype.char):
        if axis == 0:
            part = np.ascontiguousarray(image[columns]).reshape(columns.stop - columns.start, -1)
            np.matmul(block, part, out=result[rows].reshape(rows.stop - rows.start, -1))
        elif axis == 1:
            np.matmul(block, image[:, columns], out=result[:, rows])
        else:
            np.matmul(image[..., columns], block.T, out=result[..., rows])
    return result


@lru_cache(maxsize=64)
def _matrix_blocks(num_in: int, num_out: int, order: int, dtype: str) -> tuple[tuple[slice, slice, np.ndarray], ...]:
    """The matrix of an axis in bands of rows, each without the columns that contribute nothing."""
    matrix = axis_matrix(num_in, num_out, order)
    blocks = []
    for start in range(0, num_out, _BLOCK_ROWS):
        rows = slice(start, min(start + _BLOCK_ROWS, num_out))
        used = np.flatnonzero((np.abs(matrix[rows]) > _NEGLIGIBLE_WEIGHT).any(axis=0))
        columns = slice(int(used[0]), int(used[-1]) + 1)
        blocks.append((rows, columns, np.ascontiguousarray(matrix[rows, columns], dtype)))
    return tuple(blocks)
