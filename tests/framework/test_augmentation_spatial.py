"""Rotation and scaling against scipy and against a plain computation with one image per label."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from framework.augmentation.spatial import (
    SpatialDraw,
    origin_in_box,
    resample_image,
    resample_labels,
    source_box,
)

DRAWS_3D = [
    SpatialDraw((20.0, -13.0, 29.0), (1.0,) * 3),
    SpatialDraw((-30.0, 30.0, -30.0), (1.4,) * 3),
    SpatialDraw((0.0, 0.0, 0.0), (0.71,) * 3),
    SpatialDraw((0.0, 0.0, 0.0), (1.37,) * 3),
    SpatialDraw((5.0, 0.0, 0.0), (0.7,) * 3),
]
DRAWS_2D = [SpatialDraw((133.0,), (1.0,) * 2), SpatialDraw((-14.0,), (0.75,) * 2), SpatialDraw((0.0,), (1.4,) * 2)]


def read(image: np.ndarray, box: tuple[tuple[int, int], ...], outside: float) -> np.ndarray:
    """Voxels of `box`, padded where it leaves the image."""
    pad = [(max(0, -start), max(0, stop - length)) for (start, stop), length in zip(box, image.shape)]
    padded = np.pad(image, pad, constant_values=outside)
    return padded[tuple(slice(start + low, stop + low) for (start, stop), (low, _) in zip(box, pad))]


def coordinates(corner: tuple[int, ...], patch: tuple[int, ...], matrix: np.ndarray) -> np.ndarray:
    """(axes, *patch): where every voxel of the patch lies in the image."""
    first = len(patch) - len(matrix)
    position = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in patch], indexing="ij"))
    full = np.eye(len(patch))
    full[first:, first:] = matrix
    centre = np.array(corner) + (np.array(patch) - 1) / 2
    return np.einsum("ij,j...->i...", full, position) + centre.reshape(-1, *[1] * len(patch))


def resample(
    image: np.ndarray, labels: np.ndarray, draw: SpatialDraw, corner: tuple[int, ...], patch: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    matrix = draw.matrix()
    box = source_box(corner, patch, image.shape, matrix)
    origin = origin_in_box(corner, patch, box, matrix)
    joined = (-1, *[stop - start for start, stop in box[len(box) - len(matrix) :]])
    image_out, labels_out = torch.empty(patch), torch.empty(patch, dtype=torch.int16)
    fold = (-1, *patch[len(patch) - len(matrix) :])
    resample_image(torch.from_numpy(read(image, box, 0)).reshape(joined), matrix, origin, image_out.view(fold))
    resample_labels(torch.from_numpy(read(labels, box, -1)).reshape(joined), matrix, origin, labels_out.view(fold))
    return image_out.numpy(), labels_out.numpy()


def expected_image(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    """scipy's linear interpolation of the image in a sea of zeros."""
    return ndimage.map_coordinates(np.pad(image.astype(float), 40), where + 40, order=1, mode="nearest")


def label_weights(labels: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All values, and the interpolated weight of each."""
    padded = np.pad(labels, 40, constant_values=-1)
    values = np.unique(padded)
    weights = [
        ndimage.map_coordinates((padded == v).astype(float), where + 40, order=1, mode="nearest") for v in values
    ]
    return values, np.stack(weights)


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    image = rng.standard_normal((22, 30, 26)).astype(np.float32)
    labels = np.rint(ndimage.zoom(rng.uniform(0, 4, (6, 8, 7)), (22 / 6, 30 / 8, 26 / 7), order=1))
    return image, labels.astype(np.int16)


@pytest.mark.parametrize("corner", [(4, 6, 5), (-3, -2, 0), (15, 20, 12)])
@pytest.mark.parametrize("draw", DRAWS_3D)
def test_rotated_and_scaled_3d_patches_equal_scipy(
    scene: tuple[np.ndarray, np.ndarray], draw: SpatialDraw, corner: tuple[int, ...]
) -> None:
    check(scene, draw, corner, (13, 18, 16))


@pytest.mark.parametrize("draw", DRAWS_2D)
@pytest.mark.parametrize("patch", [(1, 18, 16), (5, 14, 15)])
def test_in_plane_patches_equal_scipy(
    scene: tuple[np.ndarray, np.ndarray], draw: SpatialDraw, patch: tuple[int, ...]
) -> None:
    for corner in [(4, 6, 5), (19, 20, 15), (0, -4, -6)]:
        check(scene, draw, corner, patch)


def check(
    scene: tuple[np.ndarray, np.ndarray], draw: SpatialDraw, corner: tuple[int, ...], patch: tuple[int, ...]
) -> None:
    image, labels = scene
    got_image, got_labels = resample(image, labels, draw, corner, patch)
    where = coordinates(corner, patch, draw.matrix())
    np.testing.assert_allclose(got_image, expected_image(image, where), atol=3e-5)
    values, weights = label_weights(labels, where)
    got_weight = np.take_along_axis(weights, np.searchsorted(values, got_labels)[None], 0)[0]
    # Ties within 0.03 % go to the nearest voxel; everything else is the argmax.
    assert (got_weight >= weights.max(0) - 3e-4).all()
    assert set(np.unique(got_labels)) <= set(values.tolist())


def test_a_tie_between_two_labels_goes_to_the_nearest_voxel() -> None:
    # Scale 0.8 about the centre (4.5 in both axes) puts samples at 4.5 + 0.8 * (p - 4.5). In one dimension,
    # between 4 and 5 only; three labels meet there, none with more than half, and two of them tie.
    labels = torch.tensor([[[1, 2], [3, 3]]], dtype=torch.int16)
    output = torch.empty((1, 2, 2), dtype=torch.int16)
    # Both rows lie at 0.5 in the first axis, the columns at 0.4 and 0.6. Weights at column 0.4:
    # label 1: 0.5 * 0.6 = 0.3, label 2: 0.5 * 0.4 = 0.2, label 3: 0.5.
    resample_labels(labels, np.diag([0.0, 0.2]), np.array([0.5, 0.4]), output)
    assert (output == 3).all()
    # At row 0.4 the upper row has 0.6: label 1 0.36, label 2 0.24, label 3 0.4.
    resample_labels(labels, np.diag([0.0, 0.2]), np.array([0.4, 0.4]), output)
    assert (output == 3).all()
    # Two labels in equal parts, 0.5 and 0.5: the lower voxel counts as the nearest.
    resample_labels(
        torch.tensor([[[7, 7], [4, 4]]], dtype=torch.int16), np.diag([0.0, 0.2]), np.array([0.5, 0.4]), output
    )
    assert (output == 7).all()


def test_rotation_by_a_right_angle_moves_voxels_without_interpolation() -> None:
    image = torch.arange(25.0).view(1, 5, 5)
    labels = image.to(torch.int16)
    matrix = SpatialDraw((90.0,), (1.0,) * 2).matrix()
    image_out, labels_out = torch.empty((1, 5, 5)), torch.empty((1, 5, 5), dtype=torch.int16)
    origin = origin_in_box((0, 0, 0), (1, 5, 5), ((0, 1), (0, 5), (0, 5)), matrix)
    resample_image(image, matrix, origin, image_out)
    resample_labels(labels, matrix, origin, labels_out)
    # Row i, column j of the patch shows (-(j - 2), i - 2) from the centre: row 4 - j, column i.
    assert labels_out[0, 1, 0] == 5 * 4 + 1
    np.testing.assert_allclose(image_out[0], torch.rot90(image[0], -1), atol=1e-4)
    assert torch.equal(labels_out[0], torch.rot90(labels[0], -1))


def test_matrix_is_the_product_of_rotations_about_the_three_axes() -> None:
    from scipy.spatial.transform import Rotation

    angles = (20.0, -13.0, 29.0)
    expected = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * 1.3
    np.testing.assert_allclose(SpatialDraw(angles, (1.3,) * 3).matrix(), expected, atol=1e-12)


@pytest.mark.parametrize("draw", [*DRAWS_3D, *DRAWS_2D])
def test_box_holds_every_voxel_that_the_patch_needs_and_little_more(draw: SpatialDraw) -> None:
    corner, patch, shape = (10, 12, 11), (13, 18, 16), (200, 200, 200)
    where = coordinates(tuple(np.array(corner) + 60), patch, draw.matrix())
    box = source_box(tuple(np.array(corner) + 60), patch, shape, draw.matrix())
    for axis, (start, stop) in enumerate(box):
        lowest, highest = where[axis].min(), where[axis].max()
        assert start <= lowest + 1e-9
        assert stop >= highest - 1e-9 + 1
        assert start > lowest - 1.01
        assert stop < highest + 2.01


def test_plain_patch_is_read_exactly() -> None:
    assert source_box((-2, 3, 40), (4, 5, 6), (50, 50, 50), None) == ((-2, 2), (3, 8), (40, 46))


@pytest.mark.parametrize("size", [2, 3, 9])
def test_cells_of_equal_labels_are_found_in_2d_and_3d(size: int) -> None:
    from framework.augmentation.label_resampling import _MIXED, _uniform_cells

    for num_axes in (2, 3):
        labels = np.random.default_rng(size).integers(0, 2, (3, *[size] * num_axes)).astype(np.int16)
        labels[:, : size // 2 + 1] = 1
        cells = _uniform_cells(torch.from_numpy(labels)).numpy()
        for index in np.ndindex(cells.shape):
            corner = labels[(index[0], *[slice(i, i + 2) for i in index[1:]])]
            assert cells[index] == (corner.flat[0] if (corner == corner.flat[0]).all() else _MIXED)


def test_result_does_not_depend_on_how_the_patch_is_cut_into_slabs(
    scene: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    from framework.augmentation import grid

    whole = resample(*scene, DRAWS_3D[1], (4, 6, 5), (13, 18, 16))
    monkeypatch.setattr(grid, "SLAB_VOXELS", 700)
    in_slabs = resample(*scene, DRAWS_3D[1], (4, 6, 5), (13, 18, 16))
    assert all(np.array_equal(a, b) for a, b in zip(whole, in_slabs))


def test_scaling_by_one_half_of_a_constant_image_stays_constant_up_to_its_border() -> None:
    image = torch.full((1, 8, 8, 8), 3.0)
    output = torch.empty((1, 8, 8, 8))
    draw = SpatialDraw((0.0, 0.0, 0.0), (0.5,) * 3)
    origin = origin_in_box((0, 0, 0), (8, 8, 8), ((0, 8),) * 3, draw.matrix())
    resample_image(image, draw.matrix(), origin, output)
    assert math.isclose(output.min().item(), 3.0, rel_tol=1e-6)
    assert math.isclose(output.max().item(), 3.0, rel_tol=1e-6)


def test_grid_sample_used_on_other_devices_gives_the_same_image(scene: tuple[np.ndarray, np.ndarray]) -> None:
    from framework.augmentation.resampling import _grid_sample, _interpolate

    image = torch.from_numpy(scene[0])[None]
    matrix = DRAWS_3D[1].matrix()
    first, second = torch.empty((1, 13, 18, 16)), torch.empty((1, 13, 18, 16))
    _interpolate(image, matrix, np.array([3.0, 8.0, 7.0]), first)
    _grid_sample(image, matrix, np.array([3.0, 8.0, 7.0]), second)
    np.testing.assert_allclose(first, second, atol=3e-5)


def test_scaling_each_axis_by_its_own_factor_comes_before_the_rotation(scene: tuple[np.ndarray, np.ndarray]) -> None:
    check(scene, SpatialDraw((20.0, -13.0, 29.0), (0.8, 1.3, 1.1)), (4, 6, 5), (13, 18, 16))
    check(scene, SpatialDraw((33.0,), (1.4, 0.7)), (4, 6, 5), (5, 14, 15))
    rotation = SpatialDraw((33.0,), (1.0, 1.0)).matrix()
    np.testing.assert_allclose(SpatialDraw((33.0,), (1.4, 0.7)).matrix(), rotation @ np.diag([1.4, 0.7]))


TURNS = [
    ((times, *plane), order)
    for plane in ((0, 1), (0, 2), (1, 2))
    for times, order in ((1, ()), (2, (2, 0, 1)), (3, (1, 0, 2)))
]


@pytest.mark.parametrize(("turn", "order"), [*TURNS, (None, (2, 1, 0)), (None, (1, 2, 0))])
@pytest.mark.parametrize("corner", [(4, 6, 5), (-3, -2, 0), (15, 20, 12)])
def test_turns_and_exchanged_axes_move_voxels_exactly_as_torch_does(
    scene: tuple[np.ndarray, np.ndarray], turn: tuple[int, int, int] | None, order: tuple[int, ...], corner: tuple
) -> None:
    draw = SpatialDraw((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), turn, order)
    box = tuple((start, start + 9) for start in corner)
    for array, outside, got in zip(scene, (0, -1), resample(*scene, draw, corner, (9, 9, 9))):
        expected = torch.from_numpy(read(array, box, outside))
        if turn is not None:
            expected = torch.rot90(expected, turn[0], turn[1:])
        expected = expected.permute(order) if order else expected
        np.testing.assert_array_equal(got, expected)


def test_turns_of_thick_slices_stay_within_them(scene: tuple[np.ndarray, np.ndarray]) -> None:
    draw = SpatialDraw((0.0,), (1.0, 1.0), (1, 0, 1), (1, 0))
    box = ((4, 9), (6, 16), (5, 15))
    for array, got in zip(scene, resample(*scene, draw, (4, 6, 5), (5, 10, 10))):
        expected = torch.rot90(torch.from_numpy(read(array, box, 0)), 1, (1, 2)).permute(0, 2, 1)
        np.testing.assert_array_equal(got, expected)


GOLDEN = json.loads((Path(__file__).parent / "golden/augmentation.json").read_text())["spatial"]


@pytest.mark.parametrize("number", range(len(GOLDEN)))
def test_rotation_scaling_turn_and_exchange_together_equal_nnunets(number: int) -> None:
    case = GOLDEN[number]
    image, labels = np.array(case["image"], np.float32)[0], np.array(case["labels"], np.int16)[0]
    patch = tuple(case["patch"])
    if image.ndim == 2:
        image, labels, patch = image[None], labels[None], (1, *patch)
    # nnU-Net places the patch at the centre of what it has read.
    corner = tuple((n - size) / 2 for n, size in zip(image.shape, patch))
    draw = SpatialDraw(
        tuple(case["angles"]),
        tuple(case["scales"]),
        tuple(case["quarter_turns"]) if case["quarter_turns"] else None,
        tuple(case["axis_order"]),
    )
    matrix = draw.matrix()
    # A rim of what lies outside, as a reader adds it.
    pad = [(4, 4) if axis >= 3 - len(matrix) else (0, 0) for axis in range(3)]
    image, labels = np.pad(image, pad), np.pad(labels, pad, constant_values=-1)
    box = tuple((-low, n - low) for n, (low, _) in zip(image.shape, pad))
    origin = origin_in_box(corner, patch, box, matrix)
    image_out, labels_out = torch.empty(patch), torch.empty(patch, dtype=torch.int16)
    fold = (-1, *patch[3 - len(matrix) :])
    joined = (-1, *image.shape[3 - len(matrix) :])
    resample_image(torch.from_numpy(image).reshape(joined), matrix, origin, image_out.view(fold))
    resample_labels(torch.from_numpy(labels).reshape(joined), matrix, origin, labels_out.view(fold))
    np.testing.assert_allclose(image_out.squeeze(), np.squeeze(case["image_result"]), atol=1e-4)
    np.testing.assert_array_equal(labels_out.squeeze(), np.squeeze(case["labels_result"]))


@pytest.mark.parametrize("draw", [*DRAWS_3D, SpatialDraw((20.0, 0.0, 0.0), (0.7, 1.2, 1.0), (1, 0, 2), (2, 0, 1))])
@pytest.mark.parametrize("corner", [(4, 6, 5), (-3, -2, 0), (15, 20, 12)])
def test_labels_made_without_waiting_are_those_made_on_a_cpu(
    scene: tuple[np.ndarray, np.ndarray], draw: SpatialDraw, corner: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from framework.augmentation import label_resampling

    monkeypatch.setattr(label_resampling, "_DENSE_VOXELS", 600)
    labels = scene[1]
    patch, matrix = (14, 14, 14), draw.matrix()
    box = source_box(corner, patch, labels.shape, matrix)
    origin = origin_in_box(corner, patch, box, matrix)
    voxels = torch.from_numpy(read(labels, box, -1))[None]
    sparse, dense = (torch.empty((1, *patch), dtype=torch.int16) for _ in range(2))
    resample_labels(voxels, matrix, origin, sparse)
    label_resampling.resample_everywhere(voxels, matrix, origin, dense)
    assert torch.equal(sparse, dense)
    assert len(sparse.unique()) > 2


def test_labels_of_slices_made_without_waiting_are_those_made_on_a_cpu(scene: tuple[np.ndarray, np.ndarray]) -> None:
    from framework.augmentation.label_resampling import resample_everywhere

    voxels = torch.from_numpy(scene[1])
    for draw in DRAWS_2D:
        sparse, dense = (torch.empty((22, 18, 16), dtype=torch.int16) for _ in range(2))
        resample_labels(voxels, draw.matrix(), np.array([9.0, 8.0]), sparse)
        resample_everywhere(voxels, draw.matrix(), np.array([9.0, 8.0]), dense)
        assert torch.equal(sparse, dense)
