"""What is drawn, how often and from which range; and how a plan says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from framework.augmentation import Augmentation, IntensityTransform, PatchGeometry, Uniforms, mirror_axes
from framework.augmentation.geometry import PatchGeometry as Geometry
from framework.errors import PlansError
from framework.randomness import generator

NUM_DRAWS = 20_000


@pytest.fixture(scope="module")
def draws() -> list[Any]:
    augmentation = Augmentation.from_plans("default", (40, 56, 40))
    return [augmentation.draw(generator(1, "training", n), 2) for n in range(NUM_DRAWS)]


def numbers(draws: list[Any], name: str) -> list[dict[str, Any]]:
    return [dict(draw.intensities)[name] for draw in draws if name in dict(draw.intensities)]


def is_close(count: int, probability: float) -> bool:
    """Within four standard deviations of a binomial distribution."""
    deviation = np.sqrt(NUM_DRAWS * probability * (1 - probability))
    return bool(abs(count - NUM_DRAWS * probability) < 4 * deviation)


def test_a_third_of_the_samples_is_rotated_or_scaled(draws: list[Any]) -> None:
    spatial = [draw.spatial for draw in draws if draw.spatial is not None]
    assert is_close(len(spatial), 1 - 0.8**2)
    rotated = [draw for draw in spatial if draw.is_rotated]
    scaled = [draw for draw in spatial if draw.scale != 1]
    assert is_close(len(rotated), 0.2)
    assert is_close(len(scaled), 0.2)
    assert is_close(len([draw for draw in rotated if draw.scale != 1]), 0.04)
    angles = np.array([draw.angles_degrees for draw in rotated])
    assert angles.shape[1] == 3
    assert -30 <= angles.min() < -29.9
    assert 29.9 < angles.max() <= 30
    assert abs(angles.mean()) < 1
    scales = np.array([draw.scale for draw in scaled])
    assert 0.7 <= scales.min() < 0.701
    assert 1.399 < scales.max() <= 1.4
    assert abs(scales.mean() - 1.05) < 0.015


@pytest.mark.parametrize(
    ("name", "probability", "key", "lowest", "highest"),
    [
        ("noise", 0.1, "standard_deviation", 0.0, 0.1),
        ("brightness", 0.15, "factors", 0.75, 1.25),
        ("contrast", 0.15, "factors", 0.75, 1.25),
        ("gamma", 0.3, "exponents", 0.7, 1.5),
        ("gamma_inverted", 0.1, "exponents", 0.7, 1.5),
        # Two channels, each with a chance of one half: a quarter of the chosen samples is left alone.
        ("blur", 0.2 * 0.75, "sigmas", 0.5, 1.0),
        ("low_resolution", 0.25 * 0.75, "zooms", 0.5, 1.0),
    ],
)
def test_frequencies_and_ranges_are_the_recipes(
    draws: list[Any], name: str, probability: float, key: str, lowest: float, highest: float
) -> None:
    drawn = numbers(draws, name)
    assert is_close(len(drawn), probability)
    values: list[float] = []
    for entry in drawn:
        channels = entry[key] if isinstance(entry[key], tuple) else (entry[key],)
        for value in channels:
            values += value if isinstance(value, tuple) else ([] if value is None else [value])
    span = highest - lowest
    assert lowest <= min(values) < lowest + span / 100
    assert highest - span / 100 < max(values) <= highest


def test_channels_are_drawn_one_by_one(draws: list[Any]) -> None:
    pairs = np.array([entry["factors"] for entry in numbers(draws, "brightness")])
    assert abs(np.corrcoef(pairs.T)[0, 1]) < 0.06
    used = [[value is not None for value in entry["sigmas"]] for entry in numbers(draws, "blur")]
    assert abs(np.mean(used) - 2 / 3) < 0.03


def test_every_axis_is_mirrored_half_of_the_time(draws: list[Any]) -> None:
    for axis in range(3):
        assert is_close(sum(axis in draw.mirror_axes for draw in draws), 0.5)
    assert is_close(sum(draw.mirror_axes == (0, 1, 2) for draw in draws), 0.125)


def test_choices_of_different_transforms_and_samples_are_not_correlated(draws: list[Any]) -> None:
    names = ("noise", "blur", "brightness", "contrast", "low_resolution", "gamma_inverted", "gamma")
    columns = [[name in dict(draw.intensities) for draw in draws] for name in names]
    columns += [[draw.spatial is not None for draw in draws], [0 in draw.mirror_axes for draw in draws]]
    table = np.array(columns, dtype=float)
    off_diagonal = np.corrcoef(table) - np.eye(len(table))
    assert np.abs(off_diagonal).max() < 0.035
    for column in table:
        assert abs(np.corrcoef(column[:-1], column[1:])[0, 1]) < 0.035
    assert len({draw.noise_seed for draw in draws}) == NUM_DRAWS


def test_transforms_are_applied_in_nnunets_order() -> None:
    names = list(Augmentation.from_plans("default", (16, 16, 16)).intensities)
    assert names == ["noise", "blur", "brightness", "contrast", "low_resolution", "gamma_inverted", "gamma"]


@pytest.mark.parametrize(
    ("patch", "in_plane", "degrees", "axes"),
    [
        ((40, 56, 40), False, 30, (0, 1, 2)),
        ((64, 192, 192), False, 30, (0, 1, 2)),  # ratio 3 exactly is not above 3
        ((20, 320, 256), True, 180, (0, 1, 2)),
        ((512, 512), True, 180, (0, 1)),
        ((512, 256), True, 15, (0, 1)),
        ((300, 200), True, 180, (0, 1)),
    ],
)
def test_geometry_follows_from_the_patch(
    patch: tuple[int, ...], in_plane: bool, degrees: float, axes: tuple[int, ...]
) -> None:
    assert Geometry.from_patch_size(patch) == PatchGeometry(patch, in_plane, (-degrees, degrees), axes)
    assert mirror_axes(patch) == axes


def test_thick_slices_are_rotated_in_plane_and_not_coarsened_across() -> None:
    augmentation = Augmentation.from_plans("default", (20, 320, 256))
    drawn = [augmentation.draw(generator(0, "training", n), 1) for n in range(500)]
    assert {len(draw.spatial.angles_degrees) for draw in drawn if draw.spatial} == {1}
    zooms = [entry["zooms"][0] for entry in numbers(drawn, "low_resolution")]
    assert zooms
    assert all(zoom[0] == 1 and 0.5 <= zoom[1] == zoom[2] <= 1 for zoom in zooms)
    sigmas = [entry["sigmas"][0] for entry in numbers(drawn, "blur")]
    assert all(len(sigma) == 3 for sigma in sigmas)


def test_equal_keys_give_equal_draws() -> None:
    augmentation = Augmentation.from_plans("default", (40, 56, 40))
    first, second = (augmentation.draw(generator(3, "training", 17), 2) for _ in range(2))
    assert first == second
    assert first != augmentation.draw(generator(3, "training", 18), 2)
    assert "SpatialDraw" in repr(first) or "spatial=None" in repr(first)


def test_presets_build_on_each_other() -> None:
    patch = (16, 16, 16)
    default, none = Augmentation.from_plans("default", patch), Augmentation.from_plans("none", patch)
    assert default.mirror_axes == (0, 1, 2)
    assert (none.rotation, none.scaling, none.intensities, none.mirror_axes) == (None, None, {}, ())
    without = Augmentation.from_plans("no_mirroring", patch)
    assert without.mirror_axes == ()
    assert without.intensities == default.intensities
    assert without.rotation == default.rotation
    Augmentation.from_plans("laptop", patch)


def test_a_plan_changes_numbers_and_drops_transforms() -> None:
    block = {
        "preset": "default",
        "noise": {"standard_deviation": [0, 0.5]},
        "blur": None,
        "gamma": False,
        "rotation": {"degrees": [-10, 10]},
        "mirroring": {"axes": [1]},
    }
    augmentation = Augmentation.from_plans(block, (16, 16, 16))
    assert augmentation.intensities["noise"].standard_deviation == (0.0, 0.5)  # type: ignore[attr-defined]
    assert augmentation.intensities["noise"].probability == 0.1  # type: ignore[attr-defined]
    assert "blur" not in augmentation.intensities
    assert "gamma" not in augmentation.intensities
    assert augmentation.rotation is not None
    assert augmentation.rotation.degrees == (-10.0, 10.0)
    assert augmentation.mirror_axes == (1,)


@pytest.mark.parametrize(
    ("block", "parts"),
    [
        ("defualt", ["augmentation preset 'defualt'", "Did you mean 'default'?"]),
        ({"preset": "default", "nosie": {}}, ["transform 'nosie'", "Did you mean 'noise'?"]),
        ({"preset": "default", "blr": None}, ["transform 'blr'", "Did you mean 'blur'?"]),
        ({"noise": {"probabilty": 0.1}}, ["noise: 'probabilty'", "Did you mean 'probability'?"]),
        ({"noise": {"probability": 1.5}}, ["noise.probability: found 1.5", "at most 1"]),
        ({"noise": {"probability": "often"}}, ["noise.probability: found 'often'", "a number"]),
        ({"scaling": {"factor": [1.4, 0.7]}}, ["scaling.factor: found [1.4, 0.7]", "lowest, highest"]),
        ({"scaling": {"factor": [0.0, 1.0]}}, ["scaling.factor", "from 0.05 to 20"]),
        ({"blur": {"sigma": [1.0]}}, ["blur.sigma: found [1.0]", "two numbers"]),
        ({"mirroring": {"axes": [0, 3]}}, ["mirroring.axes: found [0, 3]", "from 0 to 2"]),
        ({"noise": 3}, ["noise: found 3", "object"]),
        ({"no.such.module:Thing": {}}, ["no.such.module:Thing", "cannot be imported"]),
        ({"collections:OrderedDict": {}}, ["collections:OrderedDict", "not a transform"]),
    ],
)
def test_a_mistake_in_a_plan_is_named(block: Any, parts: list[str]) -> None:
    with pytest.raises(PlansError) as caught:
        Augmentation.from_plans(block, (16, 16, 16), "plans.json: 3d_fullres.augmentation")
    for part in parts:
        assert part in str(caught.value)
    assert "plans.json: 3d_fullres.augmentation" in str(caught.value)


def test_all_mistakes_of_a_block_are_reported_together() -> None:
    with pytest.raises(PlansError) as caught:
        Augmentation.from_plans({"noise": {"probability": 2}, "blurr": {}, "gamma": {"gain": 1}}, (8, 8, 8))
    assert len(str(caught.value).splitlines()) == 3


@dataclass(frozen=True)
class Shift(IntensityTransform):
    """A user's own transform: adds a constant."""

    amount: float = 1.0

    def draw(self, uniforms: Uniforms, num_channels: int, geometry: PatchGeometry) -> dict[str, Any]:
        return {"amount": self.amount * (1 + uniforms.next())}

    def apply(self, image: torch.Tensor, drawn: dict[str, Any], seed: int) -> None:
        image += drawn["amount"]


def test_a_users_own_transform_is_named_by_its_path() -> None:
    name = f"{__name__}:Shift"
    augmentation = Augmentation.from_plans({"preset": "none", name: {"amount": 2.0}}, (4, 4, 4))
    draw = augmentation.draw(generator(0, "training", 0), 1)
    image = torch.zeros(1, 4, 4, 4)
    augmentation.apply_intensities(image, draw)
    assert torch.equal(image, torch.full_like(image, dict(draw.intensities)[name]["amount"]))
    assert 2 <= image.max() <= 4
