"""Resampling, against scipy's volume-wise interpolation and against numbers of nnU-Net."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from framework.errors import PlansError
from framework.preprocessing import label_resampling, resampling
from framework.preprocessing.resampling import lowres_axis, new_shape, resample

ISOTROPIC = (1.0, 1.0, 1.0)

# (seed, shape, new shape, spacing, new spacing, sum of the image, its sum weighted with sin(index),
#  voxels of each label, sum of label * (index mod 997)): from nnU-Net 2.8.1 on the inputs of `_inputs`
NNUNET = [
    (0, (7, 9, 8), (11, 6, 13), (1, 1, 1), (1, 1, 1), -17.635503, 5.919363,
     [189, 159, 166, 147, 197], 366919),
    (1, (6, 10, 9), (9, 13, 9), (5, 1, 1), (5, 1, 1), 59.424941, 1.938569,
     [214, 173, 240, 208, 218], 494180),
    (2, (8, 7, 6), (4, 14, 9), (1, 1, 1), (1, 1, 4), -20.439744, 2.543034,
     [104, 86, 100, 96, 118], 124509),
]  # fmt: skip


def _inputs(seed: int, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(seed)
    image = random.standard_normal((1, *shape)).astype(np.float32)
    return image, random.randint(-1, 4, (1, *shape)).astype(np.int16)


def _zoomed(volume: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    """One call of scipy for the whole volume, clipped as skimage's resize does."""
    factors = [new / old for new, old in zip(shape, volume.shape)]
    zoomed = ndimage.zoom(volume.astype(float), factors, order=order, mode="nearest", grid_mode=True)
    return np.clip(zoomed, volume.min(), volume.max())


@pytest.mark.parametrize("case", NNUNET)
def test_images_and_segmentations_equal_those_of_nnunet(case: tuple) -> None:
    seed, shape, wanted, spacing, new_spacing, total, weighted, voxels, label_sum = case
    image, labels = _inputs(seed, shape)
    resampled = resample(image, wanted, spacing, new_spacing)
    index = np.arange(resampled.size).reshape(resampled.shape)
    assert resampled.dtype == np.float32
    assert resampled.sum(dtype=float) == pytest.approx(total, abs=1e-3)
    assert (resampled * np.sin(index)).sum() == pytest.approx(weighted, abs=1e-3)
    segmentation = resample(labels, wanted, spacing, new_spacing, is_seg=True, order=1)
    assert segmentation.dtype == labels.dtype
    assert [int((segmentation == label).sum()) for label in range(-1, 4)] == voxels
    assert int((segmentation * (index % 997)).sum()) == label_sum


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("shape", [(30, 9, 25), (9, 40, 12), (150, 12, 11)])
def test_one_matrix_for_each_axis_equals_volumewise_interpolation(order: int, shape: tuple[int, ...]) -> None:
    image = np.random.RandomState(1).standard_normal((2, 17, 20, 11)).astype(np.float32)
    resampled = resample(image, shape, ISOTROPIC, ISOTROPIC, order=order)
    expected = np.stack([_zoomed(channel, shape, order) for channel in image])
    assert np.abs(resampled - expected).max() < 1e-5


def test_raw_intensities_keep_their_precision() -> None:
    image = np.random.RandomState(2).uniform(-1024, 3000, (1, 12, 13, 14)).astype(np.float32)
    resampled = resample(image, (20, 21, 9), ISOTROPIC, ISOTROPIC)
    assert np.array_equal(resampled[0], _zoomed(image[0], (20, 21, 9), 3).astype(np.float32))


def test_view_with_transposed_axes_gives_the_same() -> None:
    image = np.random.RandomState(3).standard_normal((1, 12, 13, 14)).astype(np.float32)
    view = np.ascontiguousarray(image.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    shape = (20, 9, 21)
    assert np.array_equal(resample(view, shape, ISOTROPIC, ISOTROPIC), resample(image, shape, ISOTROPIC, ISOTROPIC))


def test_segmentation_takes_the_label_with_the_largest_share() -> None:
    labels = np.random.RandomState(4).randint(0, 6, (11, 12, 9)).astype(np.int16)
    shape = (17, 7, 14)
    shares = np.stack([_zoomed(labels == label, shape, 1) for label in range(6)])
    expected = shares.argmax(0)
    first, second = np.sort(shares, 0)[-1], np.sort(shares, 0)[-2]
    decided = first > second + 1e-9
    resampled = resample(labels[None], shape, ISOTROPIC, ISOTROPIC, is_seg=True, order=1)[0]
    assert decided.mean() > 0.95
    assert np.array_equal(resampled[decided], expected[decided])


def test_slices_are_interpolated_one_by_one_where_they_are_far_apart() -> None:
    image = np.random.RandomState(5).standard_normal((1, 4, 10, 12)).astype(np.float32)
    resampled = resample(image, (8, 15, 9), (5, 1, 1), ISOTROPIC)
    for index in range(8):
        expected = _zoomed(image[0, index // 2], (15, 9), 3)  # the nearest slice, nothing in between
        assert np.abs(resampled[0, index] - expected).max() < 1e-5


def test_equal_shape_is_returned_as_it_is() -> None:
    image = np.ones((1, 3, 4, 5), np.float32)
    assert resample(image, (3, 4, 5), ISOTROPIC, (2, 2, 2)) is image


def test_axis_to_treat_apart() -> None:
    assert lowres_axis((5, 1, 1), (1, 1, 1)) == 0
    assert lowres_axis((1, 1, 1), (1, 1, 4)) == 2
    assert lowres_axis((3, 1, 1), (1, 1, 1)) is None  # three times is not yet anisotropic
    assert lowres_axis((0.2, 1, 1), (1, 1, 1)) is None  # two coarse axes: no slices to speak of
    assert lowres_axis((5, 1, 1), (1, 1, 1), force_separate_z=False) is None
    assert lowres_axis((2, 1, 1), (1, 1, 1), force_separate_z=True) == 0


def test_new_shape_is_rounded() -> None:
    assert new_shape((10, 11, 12), (1.0, 2.0, 0.5), (2.0, 1.0, 0.7)) == (5, 22, 9)  # 12 * 0.5 / 0.7 = 8.57


def test_segmentation_of_higher_order_is_refused() -> None:
    with pytest.raises(PlansError, match="order 3"):
        resample(np.zeros((1, 4, 4, 4), np.int16), (5, 5, 5), ISOTROPIC, ISOTROPIC, is_seg=True, order=3)


@pytest.mark.parametrize("spacing", [ISOTROPIC, (5.0, 1.0, 1.0), (1.0, 1.0, 5.0)])
@pytest.mark.parametrize("order_z", [0, 1])
def test_result_does_not_depend_on_the_size_of_the_parts(
    monkeypatch: pytest.MonkeyPatch, spacing: tuple[float, float, float], order_z: int
) -> None:
    image, labels = _inputs(4, (40, 21, 30))
    shape = (75, 15, 22)
    whole = resample(image, shape, spacing, spacing, order_z=order_z)
    whole_labels = resample(labels, shape, spacing, spacing, is_seg=True, order=1)
    monkeypatch.setattr(resampling, "_VOXELS_AT_ONCE", 2000)
    monkeypatch.setattr(label_resampling, "_VOXELS_AT_ONCE", 2000)
    assert np.abs(resample(image, shape, spacing, spacing, order_z=order_z) - whole).max() < 1e-5
    assert np.array_equal(resample(labels, shape, spacing, spacing, is_seg=True, order=1), whole_labels)
