"""Grey-value transforms, given their numbers, against scipy, numpy and closed forms."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from framework.augmentation.filters import GaussianBlur, MedianFilter, Sharpening, blur_kernel, median_by_sorting
from framework.augmentation.geometry import PatchGeometry
from framework.augmentation.intensity import (
    Brightness,
    BrightnessShift,
    Contrast,
    Gamma,
    GaussianNoise,
    InvertedGamma,
    LowResolution,
    UnclippedContrast,
)
from framework.augmentation.local import BlankRectangles, BrightnessGradient, LocalGamma, hill
from framework.augmentation.transform import IntensityTransform, Uniforms


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
        (UnclippedContrast(), {"factors": (2.0,)}),
        (MedianFilter(), {"sizes": (4,)}),
        (Sharpening(), {"strengths": (1.0,)}),
        (BlankRectangles(), {"boxes": ((((1, 4), (2, 3), (0, 8)),),)}),
        (LocalGamma(), {"channels": ({"centre": (3, 3, 3), "width": (2, 2, 2), "exponent": 2.0},)}),
    ],
)
def test_a_constant_image_stays_as_it_is(transform: IntensityTransform, drawn: dict[str, Any], value: float) -> None:
    image = torch.full((1, 6, 7, 8), value)
    np.testing.assert_allclose(applied(transform, image, **drawn), image, atol=1e-6)


ALL = (
    GaussianNoise, GaussianBlur, Brightness, BrightnessShift, Contrast, UnclippedContrast, LowResolution, Gamma,
    InvertedGamma, MedianFilter, Sharpening, BlankRectangles, BrightnessGradient, LocalGamma,
)  # fmt: skip


@pytest.mark.parametrize("kind", ALL)
def test_one_draw_takes_equally_many_numbers_whether_or_not_it_is_used(kind: Any) -> None:
    geometry = PatchGeometry.from_patch_size((16, 16, 16))
    after = []
    for probability in (0.0, 1.0):
        uniforms = Uniforms(np.random.default_rng(1))
        kind(probability=probability).draw(uniforms, 3, geometry)
        after.append(uniforms.next())
    assert after[0] == after[1]


def test_every_transform_of_a_plan_is_tested_here() -> None:
    from framework.augmentation.block import SPATIAL_TRANSFORMS, TRANSFORMS

    assert {TRANSFORMS[name] for name in TRANSFORMS if name not in SPATIAL_TRANSFORMS} == set(ALL)


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


def test_integers_normal_numbers_and_logarithms_have_their_distributions() -> None:
    uniforms = Uniforms(np.random.default_rng(4))
    counts = np.bincount([uniforms.integer(2, 7) for _ in range(12_000)], minlength=9)
    assert counts[:2].sum() == counts[8] == 0
    assert stats.chisquare(counts[2:8]).pvalue > 0.001
    assert stats.kstest([uniforms.normal() for _ in range(5000)], "norm").pvalue > 0.001
    logarithms = np.log([uniforms.between_logarithms((2.0, 32.0)) for _ in range(5000)])
    assert stats.kstest(logarithms, "uniform", (np.log(2), np.log(16))).pvalue > 0.001


def test_brightness_shift_adds_one_number_to_a_channel() -> None:
    image = picture(2, 4, 5, 6)
    got = applied(BrightnessShift(), image, shifts=(None, -0.75))
    np.testing.assert_array_equal(got[0], image[0])
    np.testing.assert_allclose(got[1], image[1] - 0.75, rtol=1e-6)


def test_unclipped_contrast_leaves_the_old_range_and_keeps_the_mean() -> None:
    image = picture(2, 8, 8, 8)
    got = applied(UnclippedContrast(), image, factors=(None, 2.0))
    x = image[1].numpy().astype(float)
    np.testing.assert_array_equal(got[0], image[0])
    np.testing.assert_allclose(got[1], (x - x.mean()) * 2 + x.mean(), atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 6, 7, 5), (2, 9, 8), (2, 1, 6, 6)])
@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_median_is_the_middle_of_the_sorted_cube_with_mirrored_borders(shape: tuple[int, ...], size: int) -> None:
    image = picture(*shape)
    got = applied(MedianFilter(), image, sizes=(None, size))
    before, after = size // 2, size - size // 2 - 1
    x = image[1].numpy()
    padded = np.pad(x, (before, after), mode="symmetric")
    cubes = np.lib.stride_tricks.sliding_window_view(padded, (size,) * x.ndim).reshape(*x.shape, -1)
    expected = np.sort(cubes, axis=-1)[..., size**x.ndim // 2]
    np.testing.assert_array_equal(got[1], expected)
    np.testing.assert_array_equal(got[0], image[0])
    np.testing.assert_array_equal(median_by_sorting(image[1], size), expected)


@pytest.mark.parametrize("size", range(1, 9))
@pytest.mark.parametrize("shape", [(13, 10, 11), (1, 9, 8), (12, 7), (9, 1)])
def test_median_is_scipys_for_every_size_and_however_it_is_cut(
    shape: tuple[int, ...], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from framework.augmentation import median

    # Whole numbers have many ties; extremes and both zeros are there too.
    image = picture(*shape).mul(3).round().numpy()
    image.flat[:5] = (np.inf, -np.inf, -0.0, 3.4e38, -1e-40)
    expected = ndimage.median_filter(image, size, mode="reflect")
    np.testing.assert_array_equal(median.median_of_cubes(image, size), expected)
    monkeypatch.setattr(median, "_AT_ONCE", 1)
    np.testing.assert_array_equal(median.median_of_cubes(image, size), expected)


def test_median_on_other_devices_does_not_depend_on_how_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    from framework.augmentation import filters

    image = picture(9, 6, 7)
    whole = median_by_sorting(image, 3)
    monkeypatch.setattr(filters, "_SORTED_AT_ONCE", 2 * 27 * 42)
    assert torch.equal(median_by_sorting(image, 3), whole)


@pytest.mark.parametrize("shape", [(2, 6, 7, 5), (2, 9, 8), (2, 1, 6, 6)])
def test_sharpening_subtracts_scipys_laplacian(shape: tuple[int, ...]) -> None:
    image = picture(*shape)
    got = applied(Sharpening(), image, strengths=(0.4, None))
    x = image[0].numpy().astype(float)
    np.testing.assert_allclose(got[0], x - 0.4 * ndimage.laplace(x, mode="nearest"), atol=1e-5)
    np.testing.assert_array_equal(got[1], image[1])


def test_blank_rectangles_hold_the_mean_of_what_they_cover_one_after_the_other() -> None:
    image = picture(2, 8, 9)
    boxes = (((1, 4), (2, 7)), ((3, 8), (5, 9)))
    got = applied(BlankRectangles(), image, boxes=(boxes, None))
    expected = image[0].numpy().astype(float).copy()
    expected[1:4, 2:7] = expected[1:4, 2:7].mean()
    expected[3:8, 5:9] = expected[3:8, 5:9].mean()  # averages over a corner of the first
    np.testing.assert_allclose(got[0], expected, atol=1e-6)
    np.testing.assert_array_equal(got[1], image[1])


def test_a_third_of_an_edge_is_nnunets_whatever_its_length() -> None:
    geometry = PatchGeometry.from_patch_size((96, 97))
    uniforms = Uniforms(np.random.default_rng(0))
    edges: list[set[int]] = [set(), set()]
    for _ in range(600):
        drawn = BlankRectangles(probability=1, probability_per_channel=1).draw(uniforms, 1, geometry)
        assert drawn is not None
        for box in drawn["boxes"][0]:
            for axis, (start, stop) in enumerate(box):
                edges[axis].add(stop - start)
    # randint(96 // 10, 96 // 3), the upper end excluded; the same for 97.
    assert edges == [set(range(9, 32)), set(range(9, 32))]


def gaussian_hill(shape: tuple[int, ...], centre: tuple[float, ...], width: tuple[float, ...]) -> np.ndarray:
    """Mass of a normal distribution in every voxel, from 0 at the lowest to 1 at the highest."""
    mass = np.ones(())
    for length, mean, deviation in zip(shape, centre, width):
        distribution = stats.norm(mean, deviation)
        mass = mass[..., None] * [distribution.cdf(i + 0.5) - distribution.cdf(i - 0.5) for i in range(length)]
    return (mass - mass.min()) / (mass.max() - mass.min())


PLACES = [((7, 9, 6), (-2.5, 4.0, 8.0), (3.0, 1.5, 6.0)), ((12, 10), (5.5, 14.0), (2.0, 10.0))]


@pytest.mark.parametrize(("shape", "centre", "width"), PLACES)
def test_brightness_gradient_and_local_gamma_equal_their_formulas(
    shape: tuple[int, ...], centre: tuple[float, ...], width: tuple[float, ...]
) -> None:
    image = picture(2, *shape)
    x = image[1].numpy().astype(float)
    share = gaussian_hill(shape, centre, width)
    place = {"centre": centre, "width": width}
    got = applied(BrightnessGradient(), image, channels=(None, {**place, "strength": -3.0}))
    np.testing.assert_allclose(got[1], x - 3 * share, atol=1e-5)
    np.testing.assert_array_equal(got[0], image[0])
    for exponent in (0.03, 2.5):
        got = applied(LocalGamma(), image, channels=(None, {**place, "exponent": exponent}))
        unit = (x - x.min()) / (x.max() - x.min())
        expected = (unit * (1 - share) + unit**exponent * share) * (x.max() - x.min()) + x.min()
        np.testing.assert_allclose(got[1], expected, atol=2e-5)
        np.testing.assert_array_equal(got[0], image[0])


def test_a_hill_far_away_is_as_exact_on_either_side() -> None:
    # Nine to three widths off: the mass of the last voxel is 1e-19 of the whole, beyond what 1 - x can hold.
    below, above = (hill((16,), (centre,), (8 / 3,), torch.device("cpu")).numpy() for centre in (-9.0, 24.0))
    np.testing.assert_array_equal(above, below[::-1])
    mass = [
        math.erfc((i - 0.5 + 9) / (8 / 3) / 2**0.5) - math.erfc((i + 0.5 + 9) / (8 / 3) / 2**0.5) for i in range(16)
    ]
    np.testing.assert_allclose(below, (np.array(mass) - mass[-1]) / (mass[0] - mass[-1]), rtol=1e-5, atol=1e-30)


GOLDEN = json.loads((Path(__file__).parent / "golden/augmentation.json").read_text())


@pytest.mark.parametrize("number", range(len(GOLDEN["cases"])))
def test_given_the_same_numbers_the_result_is_that_of_nnunet(number: int) -> None:
    from framework.augmentation.block import TRANSFORMS

    case = GOLDEN["cases"][number]
    image = torch.tensor(GOLDEN["images"][case["image"]])
    TRANSFORMS[case["transform"]]().apply(image, case["drawn"], 0)
    np.testing.assert_allclose(image, case["result"], atol=1e-4)
