"""Grey-value transforms, given their numbers, against scipy, numpy and closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage

from framework.augmentation.geometry import PatchGeometry
from framework.augmentation.intensity import (
    Brightness,
    Contrast,
    Gamma,
    GaussianBlur,
    GaussianNoise,
    IntensityTransform,
    InvertedGamma,
    LowResolution,
    Uniforms,
    blur_kernel,
)


def picture(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(3).normal(2, 3, shape).astype(np.float32))


def applied(transform: IntensityTransform, image: torch.Tensor, seed: int = 0, **drawn: Any) -> np.ndarray:
    result = image.clone()
    transform.apply(result, drawn, seed)
    return result.numpy()


@pytest.mark.parametrize(("sigma", "taps"), [(0.5, 3), (0.58, 3), (0.6, 5), (0.75, 5), (0.95, 7), (1.0, 7)])
def test_blur_kernel_is_a_normalised_gaussian_of_nnunets_length(sigma: float, taps: int) -> None:
    half = blur_kernel(sigma)
    assert 2 * len(half) - 1 == taps
    assert math.isclose(half[0] + 2 * sum(half[1:]), 1)
    assert math.isclose(half[1] / half[0], math.exp(-0.5 / sigma**2))


@pytest.mark.parametrize("shape", [(2, 9, 12, 7), (2, 11, 10)])
def test_blur_equals_scipys_correlation_with_reflected_borders(shape: tuple[int, ...]) -> None:
    image = picture(*shape)
    sigmas = (0.52, 0.77, 1.0)[: len(shape) - 1]
    expected = image[1].numpy().astype(float)
    for axis, sigma in enumerate(sigmas):
        half = blur_kernel(sigma)
        expected = ndimage.correlate1d(expected, half[:0:-1] + half, axis=axis, mode="mirror")
    got = applied(GaussianBlur(), image, sigmas=(None, sigmas))
    np.testing.assert_allclose(got[1], expected, atol=2e-6)
    np.testing.assert_array_equal(got[0], image[0])


def test_blur_leaves_an_axis_of_one_voxel_alone_and_reflects_within_two() -> None:
    image = picture(1, 1, 2, 6)
    got = applied(GaussianBlur(), image, sigmas=((1.0, 1.0, 1.0),))
    expected = image[0].numpy().astype(float)
    for axis in (1, 2):
        half = blur_kernel(1.0)
        expected = ndimage.correlate1d(expected, half[:0:-1] + half, axis=axis, mode="mirror")
    np.testing.assert_allclose(got[0], expected, atol=2e-6)


def test_brightness_multiplies_every_channel_by_its_factor() -> None:
    image = picture(2, 4, 5, 6)
    got = applied(Brightness(), image, factors=(0.8, 1.2))
    np.testing.assert_allclose(got, image.numpy() * np.array([0.8, 1.2], np.float32).reshape(2, 1, 1, 1), rtol=1e-6)


def test_contrast_stretches_about_the_mean_and_keeps_the_range() -> None:
    image = picture(2, 8, 8, 8)
    got = applied(Contrast(), image, factors=(1.25, 0.75))
    for channel, factor in enumerate((1.25, 0.75)):
        x = image[channel].numpy().astype(float)
        expected = np.clip((x - x.mean()) * factor + x.mean(), x.min(), x.max())
        np.testing.assert_allclose(got[channel], expected, atol=5e-6)


def test_low_resolution_equals_nearest_down_and_linear_up() -> None:
    image = picture(2, 10, 12)
    got = applied(LowResolution(), image, zooms=((0.5, 0.5), None))
    x = image[0].numpy()
    # A pixel of the coarse image covers two; its centre lies between them and the upper one counts.
    coarse = x[1::2, 1::2]
    # Fine centres in coarse coordinates: (i + 0.5) / 2 - 0.5, clamped to the image.
    rows, columns = np.meshgrid((np.arange(10) - 0.5) / 2, (np.arange(12) - 0.5) / 2, indexing="ij")
    expected = ndimage.map_coordinates(coarse.astype(float), [rows, columns], order=1, mode="nearest")
    np.testing.assert_allclose(got[0], expected, atol=2e-6)
    np.testing.assert_array_equal(got[1], image[1])


def gamma_by_the_book(x: np.ndarray, exponent: float, inverted: bool) -> np.ndarray:
    x = -x if inverted else x
    mean, deviation = x.mean(), x.std(ddof=1)
    span = x.max() - x.min()
    y = ((x - x.min()) / span) ** exponent * span + x.min()
    y = (y - y.mean()) / y.std(ddof=1) * deviation + mean
    return -y if inverted else y


@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.5])
@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_equals_the_formula_and_keeps_mean_and_deviation(exponent: float, inverted: bool) -> None:
    image = picture(1, 9, 8, 7)
    got = applied(InvertedGamma() if inverted else Gamma(), image, exponents=(exponent,))[0]
    expected = gamma_by_the_book(image[0].numpy().astype(float), exponent, inverted)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    assert abs(got.mean() - image.mean().item()) < 1e-4
    assert abs(got.std(ddof=1) - image.std().item()) < 1e-4


def test_gamma_keeps_the_deviation_of_an_image_far_from_zero() -> None:
    image = picture(1, 16, 16, 16) + 2000
    got = applied(Gamma(), image, exponents=(1.4,))[0]
    expected = gamma_by_the_book(image[0].numpy().astype(float), 1.4, False)
    np.testing.assert_allclose(got, expected, atol=2e-3)


def test_noise_has_the_drawn_deviation_and_is_the_samples_own() -> None:
    image = torch.zeros(2, 40, 40, 40)
    first = applied(GaussianNoise(), image, seed=11, standard_deviation=0.07)
    assert abs(first.std() - 0.07) < 0.0007
    assert abs(first.mean()) < 0.001
    assert abs(np.corrcoef(first[0].ravel(), first[1].ravel())[0, 1]) < 0.02
    np.testing.assert_array_equal(first, applied(GaussianNoise(), image, seed=11, standard_deviation=0.07))
    assert not np.array_equal(first, applied(GaussianNoise(), image, seed=12, standard_deviation=0.07))


@pytest.mark.parametrize("value", [0.0, 3.5])
@pytest.mark.parametrize(
    ("transform", "drawn"),
    [
        (Gamma(), {"exponents": (1.3,)}),
        (InvertedGamma(), {"exponents": (0.8,)}),
        (Contrast(), {"factors": (1.2,)}),
        (GaussianBlur(), {"sigmas": ((1.0, 0.5, 0.7),)}),
        (LowResolution(), {"zooms": ((0.6, 0.6, 0.6),)}),
    ],
)
def test_a_constant_image_stays_as_it_is(transform: IntensityTransform, drawn: dict[str, Any], value: float) -> None:
    image = torch.full((1, 6, 7, 8), value)
    np.testing.assert_allclose(applied(transform, image, **drawn), image, atol=1e-6)


def test_one_draw_takes_equally_many_numbers_whether_or_not_it_is_used() -> None:
    geometry = PatchGeometry.from_patch_size((16, 16, 16))
    for kind in (GaussianNoise, GaussianBlur, Brightness, Contrast, LowResolution, Gamma):
        after = []
        for probability in (0.0, 1.0):
            uniforms = Uniforms(np.random.default_rng(1))
            kind(probability=probability).draw(uniforms, 3, geometry)
            after.append(uniforms.next())
        assert after[0] == after[1]


def test_numbers_around_one_lie_below_and_above_equally_often() -> None:
    uniforms = Uniforms(np.random.default_rng(2))
    values = np.array([uniforms.around_one((0.7, 1.5)) for _ in range(20_000)])
    assert values.min() >= 0.7
    assert values.max() <= 1.5
    assert abs((values < 1).mean() - 0.5) < 0.015
    assert abs(values[values < 1].mean() - 0.85) < 0.005
    assert abs(values[values > 1].mean() - 1.25) < 0.008
    assert all(1.2 <= uniforms.around_one((1.2, 1.4)) <= 1.4 for _ in range(100))
    assert all(0.5 <= uniforms.around_one((0.5, 0.8)) <= 1 for _ in range(100))
