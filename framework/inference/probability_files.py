"""Probabilities of all heads on the grid of the scan, computed and written part by part.

nnU-Net's file holds one head after the other, but a softmax needs all heads of a voxel. So the scan is gone through
twice: first the logarithm of the sum of all heads' exponentials is kept, one number a voxel; then each head is
interpolated again and written. Memory holds that volume and a slab, however many heads there are.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from framework.files import atomic_write
from framework.inference.axis_sampling import AxisSampling, resampled_rows
from framework.inference.scan_grid import ScanGrid

_VALUES_AT_ONCE = 1 << 20
_COMPRESSION_LEVEL = 1


def probability_parts(
    heads: Tensor, axes: Sequence[AxisSampling], grid: ScanGrid, regions: bool
) -> Iterator[tuple[int, slice, np.ndarray]]:
    """The probability of every head in the geometry of the scan, in the order of the array (K, *scan shape).

    Args:
        heads: (K, X, Y, Z) logits of any float type, on the CPU or a GPU.
        axes: how X, Y and Z are sampled to the box that the scan was cropped to.
        grid: where that box lies.
        regions: every head is a sigmoid; else all together are a softmax.

    Yields:
        Head, rows of the first axis of the scan, and their probabilities float32. Outside of the box, the first
        head of a softmax (background) has 1 and all others 0.
    """
    axis = grid.backward[0]  # the one that is the first of the scan
    total = None if regions else _log_of_sum(heads, axes, axis)
    start, stop = grid.box[axis]
    for k in range(len(heads)):
        for rows in _parts(grid.scan_shape):
            part = np.full((rows.stop - rows.start, *grid.scan_shape[1:]), float(k == 0 and not regions), np.float32)
            first, last = max(rows.start, start), min(rows.stop, stop)
            if first < last:
                inside = slice(first - start, last - start)
                values = resampled_rows(heads[k : k + 1], axes, axis, inside)[0]
                if total is None:
                    values.sigmoid_()
                else:
                    values.sub_(total.narrow(axis, inside.start, last - first)).exp_().clamp_(max=1)
                box = list(grid.slices)
                box[axis] = slice(first - rows.start, last - rows.start)
                part.transpose(grid.forward)[tuple(box)] = values.cpu().numpy()
            yield k, rows, part


def _log_of_sum(heads: Tensor, axes: Sequence[AxisSampling], axis: int) -> Tensor:
    """Of the exponentials of all heads: (X', Y', Z') on the new grid."""
    shape = [each.num_out for each in axes]
    total = torch.full(shape, -torch.inf, device=heads.device)
    for rows in _parts((shape[axis], *(length for i, length in enumerate(shape) if i != axis))):
        part = total.narrow(axis, rows.start, rows.stop - rows.start)
        group = max(1, _VALUES_AT_ONCE // part.numel())
        for some in heads.split(group):
            torch.logaddexp(part, resampled_rows(some, axes, axis, rows).logsumexp(0), out=part)
    return total


def _parts(shape: Sequence[int]) -> Iterator[slice]:
    step = max(1, _VALUES_AT_ONCE // prod(shape[1:]))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def write_probability_file(path: Path | str, shape: Sequence[int], parts: Iterable[np.ndarray]) -> None:
    """Write nnU-Net's compressed CASE.npz (``probabilities``, float32), atomically and without the whole array.

    Args:
        shape: (K, X, Y, Z) of the whole.
        parts: that array in C order, cut anywhere.
    """
    header = {"descr": "<f4", "fortran_order": False, "shape": tuple(int(length) for length in shape)}
    expected, written = 4 * prod(shape), 0
    with (
        atomic_write(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION_LEVEL) as archive,
        archive.open("probabilities.npy", "w", force_zip64=True) as file,
    ):
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            content = np.ascontiguousarray(part, "<f4")
            file.write(content.data)
            written += content.nbytes
        assert written == expected, f"{written} bytes for an array of {expected}"


def save_probability_file(path: Path | str, probabilities: np.ndarray) -> None:
    """Write an array (K, X, Y, Z), such as a mean over models, as `write_probability_file` does."""
    write_probability_file(path, probabilities.shape, (volume for head in probabilities for volume in head))
