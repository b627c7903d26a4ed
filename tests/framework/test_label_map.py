"""Winners on a finer grid, against interpolating every head everywhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from framework.errors import NonFiniteError
from framework.inference.axis_sampling import AxisSampling
from framework.inference.label_map import winners_by_rows
from framework.preprocessing.resampling import axis_matrix


def winners(heads: Tensor, shape: Sequence[int], regions: bool = False, order: int = 1) -> np.ndarray:
    axes = [AxisSampling.between(*lengths, order) for lengths in zip(heads.shape[1:], shape)]
    result = np.full(shape, 99)
    for rows, found in winners_by_rows(heads, axes, regions):
        result[rows] = found.numpy()
    return result


def interpolated(heads: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """By scipy, in float64."""
    factors = [new / old for new, old in zip(shape, heads.shape[1:])]
    zoomed = [ndimage.zoom(head.astype(float), factors, order=1, mode="nearest", grid_mode=True) for head in heads]
    return np.stack(zoomed)


def last_positive(heads: np.ndarray) -> np.ndarray:
    return np.max([(head > 0) * (k + 1) for k, head in enumerate(heads)], 0)


SHAPES = [(14, 18, 22), (8, 10, 11), (29, 9, 13), (3, 4, 5), (7, 30, 40)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("blur", [0.0, 1.5])
def test_winners_are_those_of_full_interpolation(shape: tuple[int, int, int], blur: float) -> None:
    noise = np.random.default_rng(0).standard_normal((5, 7, 9, 11)).astype(np.float32)
    heads = np.stack([ndimage.gaussian_filter(head, blur) for head in noise])
    full = interpolated(heads, shape)
    assert np.array_equal(winners(torch.from_numpy(heads), shape), full.argmax(0))
    assert np.array_equal(winners(torch.from_numpy(heads), shape, regions=True), last_positive(full))


def test_head_that_wins_only_between_voxels_is_found() -> None:
    # Halfway between the two voxels the heads have 2, 3 and 2; a quarter from the first 3, 3 and 1, where the first
    # of equals wins.
    heads = torch.tensor([[4.0, 0.0], [3.0, 3.0], [0.0, 4.0]]).view(3, 1, 1, 2)
    # the new voxels lie at -0.25 (on the first), 0.25, 0.75 and 1.25 (on the last)
    assert winners(heads, (1, 1, 4)).ravel().tolist() == [0, 0, 1, 2]
    # at -1/3, 0, 1/3, 2/3, 1, 4/3: the heads have 8/3, 3, 4/3 at 1/3
    assert winners(heads, (1, 1, 6)).ravel().tolist() == [0, 0, 1, 1, 2, 2]


def test_region_that_ends_between_voxels_ends_where_its_logit_is_zero() -> None:
    # Head 0 falls from 1 to -3: positive up to a quarter. Head 1 rises from -1 to 1: positive from a half.
    heads = torch.tensor([[1.0, -3.0], [-1.0, 1.0]]).view(2, 1, 1, 2)
    # the new voxels lie at 0 (three of them), 0.2, 0.4, 0.6, 0.8 and 1 (three)
    assert winners(heads, (1, 1, 10), regions=True).ravel().tolist() == [1, 1, 1, 1, 0, 2, 2, 2, 2, 2]
    # at 0, 0.25, 0.75 and 1: a logit of 0 is not positive, as a probability of 0.5 is not above a half
    assert winners(heads, (1, 1, 4), regions=True).ravel().tolist() == [1, 0, 2, 2]


def test_first_of_equal_heads_wins_everywhere() -> None:
    head = torch.from_numpy(np.random.default_rng(1).standard_normal((6, 7, 8)).astype(np.float32))
    assert (winners(torch.stack([head - 1, head, head]), (11, 13, 17)) == 1).all()


def test_nearest_voxels_are_copied_where_nothing_is_interpolated() -> None:
    heads = torch.eye(4).view(4, 4, 1, 1)
    assert winners(heads, (8, 1, 1), order=0).ravel().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_type_is_accepted(dtype: torch.dtype) -> None:
    heads = torch.from_numpy(np.random.default_rng(2).standard_normal((3, 5, 6, 7)).astype(np.float32)).to(dtype)
    assert np.array_equal(winners(heads, (9, 11, 15)), winners(heads.float(), (9, 11, 15)))


@pytest.mark.parametrize(
    "view",
    [
        lambda heads: heads.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1),
        lambda heads: heads.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
        lambda heads: torch.nn.functional.pad(heads, (1, 2, 3, 1, 2, 2))[:, 2:-2, 3:-1, 1:-2],
    ],
    ids=["axes reversed", "channels last", "part of a larger array"],
)
def test_layout_of_the_logits_does_not_matter(view: Callable[[Tensor], Tensor]) -> None:
    heads = torch.from_numpy(np.random.default_rng(3).standard_normal((4, 6, 7, 8)).astype(np.float32))
    assert not view(heads).is_contiguous()
    assert np.array_equal(winners(view(heads), (11, 13, 17)), winners(heads, (11, 13, 17)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_refused(value: float) -> None:
    heads = torch.zeros(3, 4, 5, 6)
    heads[2, 1, 2, 3] = value
    with pytest.raises(NonFiniteError, match="1 of 360 logits"):
        winners(heads, (8, 10, 12))


def test_large_finite_logits_are_no_mistake() -> None:
    heads = torch.full((2, 4, 5, 6), 3e38)
    assert (winners(heads, (4, 5, 6)) == 0).all()


@pytest.mark.parametrize(("num_in", "num_out"), [(7, 14), (7, 15), (7, 21), (9, 10), (10, 9), (30, 4), (2, 9), (1, 5)])
@pytest.mark.parametrize("order", [0, 1])
def test_tables_of_an_axis_are_the_interpolation_of_scipy(num_in: int, num_out: int, order: int) -> None:
    axis = AxisSampling.between(num_in, num_out, order)
    matrix = np.zeros((num_out, num_in + 1))
    rows = np.arange(num_out)
    matrix[rows, axis.lower] += 1 - axis.weight
    matrix[rows, axis.lower + 1] += axis.weight
    assert np.allclose(matrix[:, :num_in], axis_matrix(num_in, num_out, order), atol=1e-6)


@pytest.mark.parametrize(("num_in", "num_out"), [(7, 14), (7, 15), (7, 21), (9, 10), (10, 9), (30, 4), (2, 9), (1, 5)])
def test_cells_of_an_axis_hold_every_new_voxel(num_in: int, num_out: int) -> None:
    axis = AxisSampling.between(num_in, num_out, 1)
    cells = axis.cells()
    assert np.array_equal(np.unique(cells.targets), np.arange(num_out))
    assert np.array_equal(axis.lower[cells.targets], np.broadcast_to(cells.lower, cells.targets.shape))
    assert np.array_equal(axis.weight[cells.targets], cells.weights)
    rows, last = cells.part(slice(len(cells.lower) - 1, len(cells.lower)))
    assert rows.stop == num_out
    assert np.array_equal(last.targets[:, 0] + rows.start, cells.targets[:, -1])


_GROWTH = """
import resource, torch
from framework.inference.axis_sampling import AxisSampling
from framework.inference.label_map import winners_by_rows
from framework.inference.probability_files import probability_parts
from framework.inference.scan_grid import ScanGrid
def axes(n):
    return [AxisSampling.between(n, 2 * n, 1)] * 3
def export(heads):
    n = heads.shape[1]
    grid = ScanGrid((2 * n,) * 3, ((0, 2 * n),) * 3, (2 * n,) * 3, (1.0,) * 3, (2.0,) * 3, (0, 1, 2), (0, 1, 2))
    for _ in winners_by_rows(heads, axes(n), False): pass
    for _ in probability_parts(heads, axes(n), grid, False): pass
heads = torch.randn(64, 44, 44, 44)
export(heads[:2, :8, :8, :8])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
export(heads)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory in the way of Linux")
def test_memory_does_not_grow_by_heads_at_full_size() -> None:
    # 64 heads at full size are 174 MB in float32, of which labels and probabilities need a fraction (about 30 MB).
    done = subprocess.run([sys.executable, "-c", _GROWTH], capture_output=True, text=True, check=True)
    assert int(done.stdout) / 1024 < 60
