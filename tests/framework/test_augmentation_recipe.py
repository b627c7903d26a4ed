"""What is drawn, how often and from which range; and how a plan says so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from framework.augmentation import (
    Augmentation,
    AugmentationDraw,
    IntensityTransform,
    PatchGeometry,
    SpatialDraw,
    Uniforms,
    mirror_axes,
)
from framework.augmentation.geometry import PatchGeometry as Geometry
from framework.augmentation.words import in_words
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
    scaled = [draw for draw in spatial if draw.scales != (1, 1, 1)]
    assert is_close(len(rotated), 0.2)
    assert is_close(len(scaled), 0.2)
    assert is_close(len([draw for draw in rotated if draw.scales != (1, 1, 1)]), 0.04)
    angles = np.array([draw.angles_degrees for draw in rotated])
    assert angles.shape[1] == 3
    assert -30 <= angles.min() < -29.9
    assert 29.9 < angles.max() <= 30
    assert abs(angles.mean()) < 1
    scales = np.array([draw.scales[0] for draw in scaled])
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
        ({"no_such_file.py:Thing": {}}, ["no_such_file.py", "does not exist"]),
        ({"median": {"size": [2, 99]}}, ["median.size: found [2, 99]", "from 1 to 15"]),
        ({"median": {"size": [2.5, 3]}}, ["median.size: found [2.5, 3]", "an integer"]),
        ({"noise": {}, "one_of": ["noise", "blur"]}, ["one_of: found ['noise', 'blur']", "lists of transforms"]),
        ({"noise": {}, "one_of": [["noise", "blurr"]]}, ["one_of: 'blurr'", "Known here: noise"]),
        ({"noise": {}, "rotation": {}, "one_of": [["noise", "rotation"]]}, ["one_of: 'rotation'"]),
        ({"preset": "strong", "one_of": [["blur", "noise"], ["noise", "gamma"]]}, ["'noise' is in it twice"]),
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


def test_of_a_group_one_transform_is_picked_and_then_takes_place_with_its_own_probability() -> None:
    block = {"noise": {"probability": 1}, "blur": {}, "gamma": {"probability": 0}, "one_of": [["noise", "gamma"]]}
    augmentation = Augmentation.from_plans(block, (16, 16, 16))
    drawn = [dict(augmentation.draw(generator(0, "training", n), 1).intensities) for n in range(4000)]
    assert abs(sum("noise" in one for one in drawn) - 2000) < 4 * 1000**0.5
    assert abs(sum("blur" in one for one in drawn) - 400) < 4 * 360**0.5
    assert not any("gamma" in one for one in drawn)


def test_of_a_group_of_three_each_is_picked_equally_often() -> None:
    group = ["noise", "contrast", "gamma"]
    block = {name: {"probability": 1} for name in group} | {"one_of": [group]}
    augmentation = Augmentation.from_plans(block, (16, 16, 16))
    drawn = [augmentation.draw(generator(0, "training", n), 1).intensities for n in range(3000)]
    assert all(len(one) == 1 for one in drawn)
    for name in group:
        assert abs(sum(one[0][0] == name for one in drawn) - 1000) < 4 * (3000 * 2 / 9) ** 0.5


def test_two_transforms_of_one_sample_have_noise_of_their_own() -> None:
    sure = {"probability": 1, "standard_deviation": [1, 1]}
    other = "framework.augmentation.intensity:GaussianNoise"
    augmentation = Augmentation.from_plans({"noise": sure, other: sure}, (8, 8))
    draw = augmentation.draw(generator(0, "training", 0), 1)
    both, first = torch.zeros(1, 8, 8), torch.zeros(1, 8, 8)
    augmentation.apply_intensities(both, draw)
    augmentation.apply_intensities(first, replace(draw, intensities=draw.intensities[:1]))
    assert not torch.allclose(both, 2 * first)


def test_a_group_loses_a_transform_that_is_dropped_and_null_dissolves_all() -> None:
    augmentation = Augmentation.from_plans({"preset": "strong", "median": None}, (16, 16, 16))
    assert augmentation.one_of == (("contrast", "contrast_unclipped"),)
    assert Augmentation.from_plans({"preset": "strong", "one_of": []}, (16, 16, 16)).one_of == ()


def test_strong_is_da5_with_its_second_gamma_not_inverted() -> None:
    augmentation = Augmentation.from_plans("strong", (16, 16, 16))
    inverted, plain = augmentation.intensities["gamma_inverted"], augmentation.intensities["gamma"]
    assert (inverted.inverted, plain.inverted) == (True, False)  # type: ignore[attr-defined]
    assert inverted.probability == plain.probability == 0.1  # type: ignore[attr-defined]
    assert list(augmentation.intensities) == [
        "median", "blur", "noise", "brightness_shift", "contrast", "contrast_unclipped", "low_resolution",
        "gamma_inverted", "gamma", "blank_rectangles", "brightness_gradient", "local_gamma", "sharpening",
    ]  # fmt: skip
    assert augmentation.mirror_axes == (0, 1, 2)


@pytest.mark.parametrize("preset", ["default", "strong", "laptop", "no_mirroring", "none"])
@pytest.mark.parametrize("patch", [(16, 16, 16), (4, 40, 40), (32, 24), (1, 8, 8)])
def test_every_preset_changes_patches_of_every_shape(preset: str, patch: tuple[int, ...]) -> None:
    augmentation = Augmentation.from_plans(preset, patch)
    for n in range(40):
        image = torch.from_numpy(np.random.default_rng(n).normal(size=(2, *patch)).astype(np.float32))
        augmentation.apply_intensities(image, augmentation.draw(generator(0, "training", n), 2))
        assert torch.isfinite(image).all()


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


OWN_FILE = """
from dataclasses import dataclass

from framework.augmentation import IntensityTransform


@dataclass(frozen=True)
class Negative(IntensityTransform):
    probability: float = 0.5

    def draw(self, uniforms, num_channels, geometry):
        return {} if uniforms.chance(self.probability) else None

    def apply_to_patch(self, image, labels, drawn, seed):
        image.neg_()
        if labels is not None:
            labels.clamp_(max=1)
"""


def test_a_users_own_transform_in_a_file_may_change_labels_too(tmp_path: Path) -> None:
    (tmp_path / "my_transforms.py").write_text(OWN_FILE)
    name = f"{tmp_path / 'my_transforms.py'}:Negative"
    augmentation = Augmentation.from_plans({name: {"probability": 1.0}}, (4, 4))
    image, labels = torch.ones(1, 4, 4), torch.full((1, 4, 4), 2, dtype=torch.int16)
    augmentation.apply_intensities(image, augmentation.draw(generator(0, "training", 0), 1), labels)
    assert (image == -1).all()
    assert (labels == 1).all()


def test_a_draw_is_told_in_words() -> None:
    draw = AugmentationDraw(
        SpatialDraw((12.3, 0.0, -4.6), (0.8, 0.8, 0.8), (3, 0, 2), (2, 1, 0)),
        (("gamma", {"exponents": (1.3,)}), ("median", {"sizes": (3,)}), ("blur", {"sigmas": ((0.5, 0.7, 0.9),)}),
         ("batchgenerators.transforms.noise_transforms:RicianNoiseTransform", {})),
        (0, 2),
    )  # fmt: skip
    assert in_words(draw, Geometry.from_patch_size((16, 16, 16))) == [
        "rot 12/0/-5°", "scale 0.80", "turn 270° in XZ", "axes ZYX", "gamma 1.30", "median 3", "blur", "RicianNoise",
        "mirror XZ",
    ]  # fmt: skip
    thick = AugmentationDraw(SpatialDraw((90.0,), (1.2, 0.9), (1, 0, 1)), (), (0, 1))
    assert in_words(thick, Geometry.from_patch_size((4, 40, 40))) == [
        "rot 90°", "scale 1.20/0.90", "turn 90° in YZ", "mirror XY",
    ]  # fmt: skip
    flat = AugmentationDraw(None, (), (1,))
    assert in_words(flat, Geometry.from_patch_size((40, 40))) == ["mirror Z"]
    assert in_words(AugmentationDraw(), Geometry.from_patch_size((40, 40))) == []


def test_an_error_in_a_users_file_is_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "my_broken.py").write_text(OWN_FILE.replace("@dataclass(frozen=True)", "@dataclass"))
    with pytest.raises(PlansError, match=r"TypeError: cannot inherit non-frozen dataclass.*line \d+"):
        Augmentation.from_plans({f"{tmp_path / 'my_broken.py'}:Negative": {}}, (4, 4))
