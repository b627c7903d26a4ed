"""Intensity normalisation."""

from __future__ import annotations

import numpy as np
import pytest

from framework.errors import FoldwiseError, PlansError, UnknownNameError
from framework.preprocessing import normalisation
from framework.preprocessing.normalisation import normalised, scheme_for_channel

PROPERTIES = {"0": {"mean": 40.0, "std": 20.0, "percentile_00_5": 0.0, "percentile_99_5": 100.0}}
EVERYTHING = (slice(None),) * 3


def _image(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, 2, 2, 2)


def _normalised(
    data: np.ndarray, schemes: list[str], inside: np.ndarray | None = None, properties: dict | None = None
) -> np.ndarray:
    masked = [inside is not None] * len(schemes)
    return np.stack([image[EVERYTHING] for image in normalised(data, inside, schemes, masked, properties or {})])


def test_zscore_has_mean_zero_and_deviation_one() -> None:
    data = _image(1, 2, 3, 4, 5, 6, 7, 8)
    data = _normalised(data, ["ZScoreNormalization"])
    # mean 4.5, variance (64 - 1) / 12 = 5.25
    assert np.allclose(data.ravel(), (np.arange(1, 9) - 4.5) / np.sqrt(5.25))


def test_zscore_with_mask_counts_and_changes_only_what_is_inside() -> None:
    data = _image(0, 0, 0, 0, 1, 2, 3, 4)
    inside = np.array([False] * 4 + [True] * 4).reshape(2, 2, 2)
    data = _normalised(data, ["ZScoreNormalization"], inside)
    assert np.allclose(data.ravel()[:4], 0)
    assert np.allclose(data.ravel()[4:], (np.arange(1, 5) - 2.5) / np.sqrt(1.25))


def test_constant_image_becomes_zero() -> None:
    data = np.full((1, 2, 2, 2), 7, np.float32)
    assert not _normalised(data, ["ZScoreNormalization"]).any()


def test_ct_is_clipped_and_scaled_with_the_statistics_of_the_dataset() -> None:
    data = _image(-1000, 0, 20, 40, 60, 100, 101, 3000)
    data = _normalised(data, ["CTNormalization"], properties=PROPERTIES)
    assert data.ravel().tolist() == [-2, -2, -1, 0, 1, 3, 3, 3]


def test_every_channel_has_a_scheme_of_its_own() -> None:
    data = np.stack([_image(0, 1, 2, 3, 4, 5, 6, 10)[0], _image(0, 51, 0, 0, 0, 0, 0, 255)[0], _image(*range(8))[0]])
    schemes = ["RescaleTo01Normalization", "RGBTo01Normalization", "NoNormalization"]
    data = _normalised(data, schemes)
    assert np.allclose(data[0].ravel(), [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1])
    assert np.allclose(data[1].ravel()[:2], [0, 0.2])
    assert data[2].ravel().tolist() == list(range(8))


def test_channel_names_pick_the_scheme() -> None:
    assert scheme_for_channel("CT") == "CTNormalization"
    assert scheme_for_channel("noNorm") == "NoNormalization"
    assert scheme_for_channel("T1w") == "ZScoreNormalization"


def test_plans_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'ZScoreNormalization'"):
        _normalised(_image(*range(8)), ["ZScoreNormalisation"])
    with pytest.raises(PlansError, match=r"2 channel.*scan has 1"):
        _normalised(_image(*range(8)), ["NoNormalization"] * 2)
    with pytest.raises(PlansError, match="foreground_intensity_properties"):
        _normalised(_image(*range(8)), ["CTNormalization"])
    with pytest.raises(FoldwiseError, match="300"):
        _normalised(_image(*range(7), 300), ["RGBTo01Normalization"])


@pytest.mark.parametrize("with_mask", [False, True])
def test_large_images_are_summed_in_parts_and_give_the_same(monkeypatch: pytest.MonkeyPatch, with_mask: bool) -> None:
    data = np.random.RandomState(0).normal(1000, 50, (1, 9, 10, 11)).astype(np.int16)
    inside = np.random.RandomState(1).uniform(size=(9, 10, 11)) < 0.5 if with_mask else None
    at_once = _normalised(data, ["ZScoreNormalization"], inside)
    monkeypatch.setattr(normalisation, "LARGEST_EXACT_CHANNEL", 100)
    monkeypatch.setattr(normalisation, "_VOXELS_AT_ONCE", 250)
    assert np.abs(_normalised(data, ["ZScoreNormalization"], inside) - at_once).max() < 1e-5


def test_a_part_is_normalised_as_in_the_whole() -> None:
    data = np.random.RandomState(0).normal(3, 2, (1, 6, 7, 8)).astype(np.float32)
    inside = np.random.RandomState(1).uniform(size=(6, 7, 8)) < 0.5
    (image,) = normalised(data, inside, ["ZScoreNormalization"], [True], {})
    part = (slice(2, 5), slice(None), slice(1, 3))
    assert np.array_equal(image[part], image[EVERYTHING][part])
