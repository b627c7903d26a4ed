"""Twenty thousand draws of the presets `default` and `strong` have the recipe's frequencies and distributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from scipy import stats

from framework.augmentation import Augmentation
from framework.randomness import generator

NUM_DRAWS = 20_000
PATCH = (40, 56, 40)
# One test in so many may fail by chance; the seed is fixed, so that it is always the same one, or none.
SIGNIFICANCE = 1e-4
Draws = list[Any]


@pytest.fixture(scope="module")
def draws() -> dict[str, Draws]:
    made = {}
    for preset in ("default", "strong"):
        augmentation = Augmentation.from_plans(preset, PATCH)
        made[preset] = [augmentation.draw(generator(2, "training", n), 1) for n in range(NUM_DRAWS)]
    return made


def fits(count: int, probability: float) -> bool:
    return bool(stats.binomtest(int(count), NUM_DRAWS, probability).pvalue > SIGNIFICANCE)


def values(draws: Draws, name: str, key: str) -> Iterator[Any]:
    """What was drawn for the one channel, of all samples that a transform changes."""
    for draw in draws:
        for other, drawn in draw.intensities:
            if other == name:
                found = drawn[key]
                yield found[0] if isinstance(found, tuple) else found


def uniform(low: float, high: float) -> Callable[[Any], Any]:
    return stats.uniform(low, high - low).cdf


def around_one(low: float, high: float) -> Callable[[Any], Any]:
    """Half of the numbers in [low, 1], the other half in [1, high]."""
    return lambda x: 0.5 * uniform(low, 1)(x) + 0.5 * uniform(1, high)(x)


FIRST = {"blur": lambda sigmas: sigmas[0], "low_resolution": lambda zooms: zooms[0]}
RECIPES: dict[str, dict[str, tuple[float, str, Callable[[Any], Any]]]] = {
    "default": {
        "noise": (0.1, "standard_deviation", uniform(0, 0.1)),
        "blur": (0.2 * 0.5, "sigmas", uniform(0.5, 1)),
        "brightness": (0.15, "factors", around_one(0.75, 1.25)),
        "contrast": (0.15, "factors", around_one(0.75, 1.25)),
        "low_resolution": (0.25 * 0.5, "zooms", uniform(0.5, 1)),
        "gamma_inverted": (0.1, "exponents", around_one(0.7, 1.5)),
        "gamma": (0.3, "exponents", around_one(0.7, 1.5)),
    },
    # Where a transform acts on some channels, half of them; of two that exclude each other, half as often.
    "strong": {
        "blur": (0.2 / 2 * 0.5, "sigmas", uniform(0.3, 1.5)),
        "noise": (0.1, "standard_deviation", uniform(0, 0.1)),
        "brightness_shift": (0.1 * 0.5, "shifts", stats.norm(0, 0.5).cdf),
        "contrast": (0.2 / 2 * 0.5, "factors", around_one(0.5, 2)),
        "contrast_unclipped": (0.2 / 2 * 0.5, "factors", around_one(0.5, 2)),
        "low_resolution": (0.15 * 0.5, "zooms", uniform(0.25, 1)),
        "gamma_inverted": (0.1, "exponents", around_one(0.7, 1.5)),
        "gamma": (0.1, "exponents", around_one(0.7, 1.5)),
        "sharpening": (0.2 * 0.5, "strengths", uniform(0.1, 1)),
    },
}


@pytest.mark.parametrize(("preset", "name"), [(preset, name) for preset in RECIPES for name in RECIPES[preset]])
def test_transform_is_as_frequent_and_its_number_distributed_as_the_recipe_says(
    draws: dict[str, Draws], preset: str, name: str
) -> None:
    probability, key, distribution = RECIPES[preset][name]
    first = FIRST.get(name, lambda value: value)
    found = [first(value) for value in values(draws[preset], name, key)]
    assert fits(len(found), probability)
    assert stats.kstest(found, distribution).pvalue > SIGNIFICANCE


def test_median_sizes_are_the_integers_from_two_to_seven(draws: dict[str, Draws]) -> None:
    sizes = list(values(draws["strong"], "median", "sizes"))
    assert fits(len(sizes), 0.2 / 2 * 0.5)
    assert set(sizes) == {2, 3, 4, 5, 6, 7}
    assert stats.chisquare(np.bincount(sizes)[2:]).pvalue > SIGNIFICANCE


def test_rectangles_have_the_recipes_number_size_and_place(draws: dict[str, Draws]) -> None:
    samples = list(values(draws["strong"], "blank_rectangles", "boxes"))
    assert fits(len(samples), 0.4 * 0.5)
    numbers = np.bincount([len(boxes) for boxes in samples], minlength=6)
    assert numbers[0] == numbers[5] == 0
    assert stats.chisquare(numbers[1:5]).pvalue > SIGNIFICANCE
    boxes = np.array([box for boxes in samples for box in boxes])
    for axis, length in enumerate(PATCH):
        start, stop = boxes[:, axis, 0], boxes[:, axis, 1]
        # nnU-Net: randint(max(1, n // 10), n // 3), the upper end excluded.
        edges = np.bincount(stop - start, minlength=length)[length // 10 : length // 3]
        assert edges.sum() == len(boxes)
        assert stats.chisquare(edges).pvalue > SIGNIFICANCE
        assert start.min() == 0
        assert stop.max() == length
        middle = (start + stop) / 2 / length - 0.5
        assert abs(middle.mean()) < 4 * middle.std() / len(middle) ** 0.5


@pytest.mark.parametrize("name", ["brightness_gradient", "local_gamma"])
def test_local_transforms_have_the_recipes_places_widths_and_strengths(draws: dict[str, Draws], name: str) -> None:
    entries = list(values(draws["strong"], name, "channels"))
    assert fits(len(entries), 0.3 * 0.5)
    for axis, length in enumerate(PATCH):
        centres = [entry["centre"][axis] / length for entry in entries]
        assert stats.kstest(centres, uniform(-0.5, 1.5)).pvalue > SIGNIFICANCE
        widths = np.log([entry["width"][axis] for entry in entries])
        assert stats.kstest(widths, uniform(np.log(length // 6), np.log(length))).pvalue > SIGNIFICANCE
    if name == "local_gamma":
        exponents = [entry["exponent"] for entry in entries]
        both = lambda x: 0.5 * uniform(0.01, 0.8)(x) + 0.5 * uniform(1.5, 4)(x)  # noqa: E731
        assert stats.kstest(exponents, both).pvalue > SIGNIFICANCE
    else:
        strengths = [entry["strength"] for entry in entries]
        both = lambda x: 0.5 * uniform(-5, -1)(x) + 0.5 * uniform(1, 5)(x)  # noqa: E731
        assert stats.kstest(strengths, both).pvalue > SIGNIFICANCE


def test_strong_rotates_about_each_axis_and_scales_along_each_by_itself(draws: dict[str, Draws]) -> None:
    spatial = [draw.spatial for draw in draws["strong"] if draw.spatial]
    angles = np.array([one.angles_degrees for one in spatial])
    scales = np.array([one.scales for one in spatial])
    for axis in range(3):
        turned, scaled = angles[:, axis][angles[:, axis] != 0], scales[:, axis][scales[:, axis] != 1]
        assert fits(len(turned), 0.4 * 0.5)
        assert stats.kstest(turned, uniform(-30, 30)).pvalue > SIGNIFICANCE
        assert fits(len(scaled), 0.2)
        assert stats.kstest(scaled, uniform(0.7, 1.43)).pvalue > SIGNIFICANCE
    assert fits((angles != 0).any(1).sum(), 0.4 * (1 - 0.5**3))
    changed = scales[(scales != 1).any(1)]
    assert np.abs(np.corrcoef(changed.T) - np.eye(3)).max() < 0.07


def test_default_scales_all_axes_alike(draws: dict[str, Draws]) -> None:
    scales = np.array([draw.spatial.scales for draw in draws["default"] if draw.spatial])
    assert (scales == scales[:, :1]).all()
    changed = scales[:, 0][scales[:, 0] != 1]
    assert stats.kstest(changed, uniform(0.7, 1.4)).pvalue > SIGNIFICANCE
    angles = np.array([draw.spatial.angles_degrees for draw in draws["default"] if draw.spatial])
    for axis in range(3):
        assert stats.kstest(angles[:, axis][angles[:, axis] != 0], uniform(-30, 30)).pvalue > SIGNIFICANCE


def test_turns_and_exchanges_happen_between_axes_of_equal_length_only(draws: dict[str, Draws]) -> None:
    turns = [draw.spatial.quarter_turns for draw in draws["strong"] if draw.spatial and draw.spatial.quarter_turns]
    # No turn at all is one of the four possible ones.
    assert fits(len(turns), 0.5 * 0.75)
    assert {turn[1:] for turn in turns} == {(0, 2)}
    assert stats.chisquare(np.bincount([turn[0] for turn in turns])[1:]).pvalue > SIGNIFICANCE
    orders = [draw.spatial.axis_order for draw in draws["strong"] if draw.spatial and draw.spatial.axis_order]
    assert set(orders) == {(2, 1, 0)}
    assert fits(len(orders), 0.5 * 0.5)


@pytest.mark.parametrize(
    ("patch", "equal"),
    [
        ((32, 32, 32), (0, 1, 2)),
        ((40, 56, 40), (0, 2)),
        ((40, 56, 57), ()),
        ((20, 320, 320), (0, 1)),  # within thick slices; numbered from the second axis
        ((32, 128, 32), ()),  # thick slices do not change places with an axis within them
        ((64, 64), (0, 1)),
        ((64, 48), ()),
    ],
)
def test_equal_axes_follow_from_the_patch(patch: tuple[int, ...], equal: tuple[int, ...]) -> None:
    augmentation = Augmentation.from_plans("strong", patch)
    assert augmentation.geometry.equal_axes == equal
    spatial = [augmentation.draw(generator(0, "training", n), 1).spatial for n in range(200)]
    used = {axis for one in spatial if one and one.quarter_turns for axis in one.quarter_turns[1:]}
    assert used == set(equal)
    orders = {one.axis_order for one in spatial if one and one.axis_order}
    assert len(orders) == {0: 0, 2: 1, 3: 5}[len(equal)]


def test_of_two_that_exclude_each_other_a_sample_gets_one(draws: dict[str, Draws]) -> None:
    for draw in draws["strong"]:
        names = {name for name, _ in draw.intensities}
        assert len(names & {"median", "blur"}) < 2
        assert len(names & {"contrast", "contrast_unclipped"}) < 2


@pytest.mark.parametrize("preset", ["default", "strong"])
def test_choices_are_independent_within_a_sample_and_between_samples(draws: dict[str, Draws], preset: str) -> None:
    names = [name for name in Augmentation.from_plans(preset, PATCH).intensities if name not in ("median", "contrast")]
    columns = [[name in dict(draw.intensities) for draw in draws[preset]] for name in names]
    columns += [[axis in draw.mirror_axes for draw in draws[preset]] for axis in range(3)]
    columns += [[draw.spatial is not None and draw.spatial.is_rotated for draw in draws[preset]]]
    columns += [[draw.spatial is not None and draw.spatial.scales != (1, 1, 1) for draw in draws[preset]]]
    table = np.array(columns, dtype=float)
    table -= table.mean(1, keepdims=True)
    table /= table.std(1, keepdims=True)
    # Correlations of independent columns are normal with this deviation; all of them together are tested.
    deviation = NUM_DRAWS**-0.5
    within = (table @ table.T / NUM_DRAWS)[np.triu_indices(len(table), 1)]
    between = (table[:, :-1] @ table[:, 1:].T / (NUM_DRAWS - 1)).ravel()
    batch_apart = (table[:, :-2] @ table[:, 2:].T / (NUM_DRAWS - 2)).ravel()
    for correlations in (within, between, batch_apart):
        assert np.abs(correlations).max() < 5 * deviation
        assert stats.kstest(correlations / deviation, "norm").pvalue > SIGNIFICANCE


def test_numbers_of_different_samples_and_transforms_are_independent(draws: dict[str, Draws]) -> None:
    """Mirroring and the seed of noise exist for every sample: a fine test of the generator's streams."""
    seeds = np.array([draw.noise_seed for draw in draws["default"]], dtype=np.float64) / 2**63
    assert stats.kstest(seeds, "uniform").pvalue > SIGNIFICANCE
    for lag in range(1, 9):
        assert abs(np.corrcoef(seeds[:-lag], seeds[lag:])[0, 1]) < 5 * NUM_DRAWS**-0.5
    codes = [sum(1 << axis for axis in draw.mirror_axes) for draw in draws["default"]]
    pairs = np.zeros((8, 8))
    np.add.at(pairs, (codes[:-1], codes[1:]), 1)
    assert stats.chi2_contingency(pairs).pvalue > SIGNIFICANCE
    assert stats.chisquare(np.bincount(codes)).pvalue > SIGNIFICANCE
