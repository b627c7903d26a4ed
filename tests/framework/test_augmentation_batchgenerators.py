"""Transforms of the package batchgenerators, named in a plan: repeatable, checked, aligned."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from batchgenerators.transforms.abstract_transforms import AbstractTransform
from batchgenerators.transforms.noise_transforms import RicianNoiseTransform

from framework.augmentation import Augmentation
from framework.augmentation.recipe import AugmentationDraw
from framework.data.labels import Labels
from framework.data.patch_batches import PatchBatches
from framework.errors import PlansError
from framework.randomness import generator
from tests.framework.test_augmentation_alignment import Scan, block_label

PATCH = (8, 8, 8)
RICIAN = "batchgenerators.transforms.noise_transforms:RicianNoiseTransform"
TURN = "batchgenerators.transforms.spatial_transforms:Rot90Transform"
ELASTIC = "batchgenerators.transforms.spatial_transforms:SpatialTransform"
RELABEL = "batchgenerators.transforms.utility_transforms:RemoveLabelTransform"
GRADIENT = "batchgenerators.transforms.local_transforms:BrightnessGradientAdditiveTransform"
BLOCKS: dict[str, dict[str, Any]] = {
    RICIAN: {"noise_variance": [0, 0.5]},
    TURN: {"num_rot": [1, 2, 3], "p_per_sample": 1},
    ELASTIC: {
        "patch_size": list(PATCH),
        "do_elastic_deform": True,
        "alpha": [50, 100],
        "sigma": [2, 4],
        "do_rotation": True,
        "do_scale": False,
        "random_crop": False,
        "order_data": 1,
        "border_cval_seg": -1,
    },
    RELABEL: {"remove_label": 2, "replace_with": 1},
    GRADIENT: {"scale": [2, 5], "max_strength": [1, 2]},
}


def patch() -> tuple[torch.Tensor, torch.Tensor]:
    """An image whose grey values are its labels and some noise, and the labels."""
    rng = np.random.default_rng(5)
    labels = np.zeros((1, *PATCH), np.int16)
    labels[0, 2:7, 1:6, 3:8] = 1
    labels[0, 4:6, 2:4, 4:7] = 2
    labels[0, :, 0] = -1
    image = np.concatenate([labels, rng.normal(0, 1, (1, *PATCH))]).astype(np.float32)
    return torch.from_numpy(image), torch.from_numpy(labels)


def made(augmentation: Augmentation, n: int) -> tuple[torch.Tensor, torch.Tensor, AugmentationDraw]:
    image, labels = patch()
    draw = augmentation.draw(generator(0, "training", n), 2)
    augmentation.apply_intensities(image, draw, labels)
    return image, labels, draw


@pytest.mark.parametrize("name", BLOCKS)
def test_a_sample_repeats_exactly_whatever_was_drawn_elsewhere(name: str) -> None:
    augmentation = Augmentation.from_plans({name: BLOCKS[name]}, PATCH)
    assert augmentation.needs_cpu
    first_image, first_labels, draw = made(augmentation, 17)
    assert [name for name, _ in draw.intensities] == [name]
    assert not (torch.equal(first_image, patch()[0]) and torch.equal(first_labels, patch()[1]))
    np.random.seed(99)
    random.seed(99)
    made(augmentation, 3)
    again_image, again_labels, _ = made(augmentation, 17)
    assert torch.equal(again_image, first_image)
    assert torch.equal(again_labels, first_labels)
    assert (again_image.dtype, again_labels.dtype) == (torch.float32, torch.int16)
    if name != RELABEL:
        assert not torch.equal(made(augmentation, 18)[0], first_image)


def test_the_result_is_that_of_the_package_with_the_samples_seed() -> None:
    augmentation = Augmentation.from_plans({RICIAN: {**BLOCKS[RICIAN], "p_per_sample": 0.5}}, PATCH)
    image, labels = patch()
    draws = [augmentation.draw(generator(0, "training", n), 2) for n in range(20)]
    draw = next(draw for draw in draws if draw.intensities)
    seed = draw.noise_seed
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32])
    random.seed(seed)
    expected = RicianNoiseTransform((0, 0.5), p_per_sample=1)(data=image.numpy()[None].copy(), seg=None)["data"][0]
    augmentation.apply_intensities(image, draw, labels)
    np.testing.assert_array_equal(image, expected.astype(np.float32))
    untouched = next(draw for draw in draws if not draw.intensities)
    augmentation.apply_intensities(image, untouched, labels)
    np.testing.assert_array_equal(image, expected.astype(np.float32))


def test_the_global_generators_are_left_as_they_were() -> None:
    augmentation = Augmentation.from_plans({name: BLOCKS[name] for name in (RICIAN, TURN)}, PATCH)
    np.random.seed(4)
    random.seed(4)
    expected = np.random.random(), random.random()
    np.random.seed(4)
    random.seed(4)
    made(augmentation, 0)
    assert (np.random.random(), random.random()) == expected


def test_image_and_labels_are_turned_and_deformed_together() -> None:
    image, labels, _ = made(Augmentation.from_plans({TURN: BLOCKS[TURN]}, PATCH), 1)
    assert torch.equal(image[0], labels[0].float())
    assert not torch.equal(labels, patch()[1])
    image, labels, _ = made(Augmentation.from_plans({ELASTIC: BLOCKS[ELASTIC]}, PATCH), 1)
    # Grey values are interpolated labels: they differ by less than a half wherever one of them wins clearly.
    inside = labels[0] >= 0
    assert ((image[0] - labels[0]).abs()[inside] < 0.75).float().mean() > 0.9
    assert not torch.equal(labels, patch()[1])


def test_labels_alone_can_be_changed() -> None:
    image, labels, _ = made(Augmentation.from_plans({RELABEL: BLOCKS[RELABEL]}, PATCH), 0)
    assert torch.equal(image, patch()[0])
    assert set(labels.unique().tolist()) == {-1, 0, 1}


def test_transforms_of_both_kinds_run_in_the_order_of_the_plan() -> None:
    block = {"brightness": {"probability": 1}, RICIAN: {}, "noise": {"probability": 1}}
    augmentation = Augmentation.from_plans(block, PATCH)
    draw = made(augmentation, 0)[2]
    assert [name for name, _ in draw.intensities] == ["brightness", RICIAN, "noise"]
    assert not Augmentation.from_plans({"noise": {}}, PATCH).needs_cpu


def test_samples_are_chosen_with_the_packages_probability() -> None:
    augmentation = Augmentation.from_plans({RICIAN: {"p_per_sample": 0.3}}, PATCH)
    count = sum(bool(augmentation.draw(generator(0, "training", n), 1).intensities) for n in range(4000))
    assert abs(count - 1200) < 4 * (4000 * 0.3 * 0.7) ** 0.5


def test_batches_hand_over_their_labels_and_repeat_in_any_order() -> None:
    batches = PatchBatches(
        store=Scan((17, 19, 18)),
        case_names=["scan"],
        labels=Labels.from_dataset_json({"labels": {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4}}),
        patch_size=PATCH,
        batch_size=3,
        augmentation=Augmentation.from_plans({TURN: BLOCKS[TURN], "mirroring": {}}, PATCH),
    )
    made = {iteration: batches(iteration) for iteration in (2, 0, 1)}
    for iteration in range(3):
        again = batches(iteration)
        assert torch.equal(again.data, made[iteration].data)
        assert torch.equal(again.target, made[iteration].target)
        # The scan's channels say where each voxel lies, and so which label it has.
        image, target = again.data.numpy(), again.target.numpy()
        inside = image[:, 3] == 1
        expected = np.stack([block_label(place) for place in image[:, :3]])
        np.testing.assert_array_equal(target[:, 0][inside], expected[inside])
        assert (target[:, 0][~inside] == 0).all()


class HalfSize(AbstractTransform):
    """Returns something of another shape."""

    def __call__(self, **batch: Any) -> dict[str, Any]:
        return {"data": batch["data"][:, :, ::2], "seg": batch["seg"]}


class Breaks(AbstractTransform):
    """Fails half-way through."""

    def __call__(self, **batch: Any) -> dict[str, Any]:
        batch["data"][:] = 7
        raise IndexError("nothing there")


@pytest.mark.parametrize(
    ("transform", "parts"),
    [(HalfSize, ["(1, 2, 4, 8, 8) as 'data'", "(1, 2, 8, 8, 8)"]), (Breaks, ["failed", "IndexError: nothing there"])],
)
def test_a_transform_that_goes_wrong_is_named_and_changes_nothing(transform: type, parts: list[str]) -> None:
    name = f"{__name__}:{transform.__name__}"
    augmentation = Augmentation.from_plans({name: {}}, PATCH)
    image, labels = patch()
    with pytest.raises(PlansError) as caught:
        augmentation.apply_intensities(image, augmentation.draw(generator(0, "training", 0), 2), labels)
    for part in [name, *parts]:
        assert part in str(caught.value)
    assert torch.equal(image, patch()[0])


def test_without_labels_it_refuses_to_move_the_image_alone() -> None:
    augmentation = Augmentation.from_plans({TURN: BLOCKS[TURN]}, PATCH)
    with pytest.raises(ValueError, match="hand them to"):
        augmentation.apply_intensities(patch()[0], augmentation.draw(generator(0, "training", 0), 2))


@pytest.mark.parametrize(
    ("block", "parts"),
    [
        (
            {RICIAN: {"noise_varience": [0, 1]}},
            ["'noise_varience' is not an argument", "Did you mean 'noise_variance'"],
        ),
        ({RICIAN: {"p_per_sample": 1.5}}, ["p_per_sample: found 1.5", "at most 1"]),
        ({"batchgenerators.transforms.noise_transforms:BlankRectangleTransform": {}}, ["'rectangle_size' is missing"]),
        (
            {
                "batchgenerators.transforms.spatial_transforms:TransposeAxesTransform": {
                    "transpose_any_of_these": [3, 4]
                }
            },
            ["refuses its arguments", "ValueError"],
        ),
        (
            {"batchgenerators.transforms.noise_transforms:RicanNoiseTransform": {}},
            ["'RicanNoiseTransform' is not known"],
        ),
        ({"batchgenerators.transforms.abstract_transforms:AbstractTransform": {}}, ["is not a transform"]),
        ({"batchgenerators.dataloading.data_loader:DataLoader": {}}, ["is not a transform"]),
    ],
)
def test_a_mistake_in_a_plan_is_named(block: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(PlansError) as caught:
        Augmentation.from_plans(block, PATCH, "plans.json: augmentation")
    for part in ["plans.json: augmentation", *parts]:
        assert part in str(caught.value)
