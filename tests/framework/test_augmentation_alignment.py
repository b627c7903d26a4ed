"""Image and labels stay together through everything that moves a patch, at every border, in 2D and 3D.

The scans here say of every voxel where it lies: their channels hold its coordinates. So a finished patch tells
where each of its voxels came from, to be compared with the drawn numbers and with the label that lies there.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from framework.augmentation import Augmentation
from framework.data.labels import Labels
from framework.data.patch_batches import PatchBatches

BLOCK = 4
"""Edge of the cubes of one label; every voxel inside of the scan has a label above 0."""


class Scan:
    """A store with one case: channels are x, y, z and 1; corners and centre of the scan can be asked for."""

    device = None

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.size = shape
        place = np.stack(np.meshgrid(*[np.arange(n, dtype=np.float32) for n in shape], indexing="ij"))
        self.data = np.concatenate([place, np.ones((1, *shape), np.float32)])
        self.labels = block_label(place)[None].astype(np.int16)

    def shape(self, case: str) -> tuple[int, ...]:
        return self.data.shape

    def read(self, case: str, box: tuple[slice, ...] | None = None) -> tuple[np.ndarray, np.ndarray]:
        assert box is not None
        return self.data[(slice(None), *box)], self.labels[(slice(None), *box)]

    def class_locations(self, case: str) -> dict[Any, np.ndarray]:
        corners = list(product(*[(0, n - 1) for n in self.size]))
        return {1: np.array([(0, *voxel) for voxel in [*corners, tuple(n // 2 for n in self.size)]])}


def block_label(place: np.ndarray) -> np.ndarray:
    """(3, ...) coordinates -> labels 1 to 4, different in all neighbouring blocks along an axis."""
    return 1 + (np.floor(place / BLOCK) * np.array([1, 2, 3]).reshape(-1, *[1] * (place.ndim - 1))).sum(0) % 4


SURE = {"probability": 1}
MOVES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "rotation": {"rotation": SURE},
    "rotation_about_some_axes": {"rotation": {"probability": 1, "probability_per_axis": 0.5}},
    "scaling": {"scaling": {"probability": 1, "factor": [0.6, 1.5]}},
    "scaling_per_axis": {"scaling": {"probability": 1, "same_for_all_axes": False}},
    "quarter_turns": {"quarter_turns": SURE},
    "axis_exchange": {"axis_exchange": SURE},
    "mirroring": {"mirroring": {}},
    "all": {
        "rotation": {"probability": 0.8, "probability_per_axis": 0.7},
        "scaling": {"probability": 0.8, "same_for_all_axes": False},
        "quarter_turns": SURE,
        "axis_exchange": SURE,
        "mirroring": {},
    },
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("patch", [(12, 12, 12), (14, 10, 14), (4, 14, 14), (13, 13), (16, 12)])
@pytest.mark.parametrize("shape", [(17, 19, 18), (9, 8, 11)])
def test_every_voxel_of_a_patch_comes_from_where_the_draw_says(
    move: str, patch: tuple[int, ...], shape: tuple[int, int, int]
) -> None:
    batches = PatchBatches(
        store=Scan(shape),
        case_names=["scan"],
        labels=Labels.from_dataset_json({"labels": {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4}}),
        patch_size=patch,
        batch_size=2,
        oversample_foreground_percent=1.0,
        augmentation=Augmentation.from_plans(MOVES[move], patch),
        seed=3,
    )
    size = np.array((1,) * (3 - len(patch)) + patch)
    offset = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in size], indexing="ij"))
    compared = outside = 0
    for iteration in range(6):
        batch = batches(iteration)
        for slot, recipe in enumerate(batches.recipes(iteration)):
            matrix = np.eye(3)
            if recipe.augmentation.spatial is not None:
                moved = recipe.augmentation.spatial.matrix()
                matrix[3 - len(moved) :, 3 - len(moved) :] = moved
            centre = np.array(recipe.patch.corner) + (size - 1) / 2
            place = np.einsum("ij,j...->i...", matrix, offset) + centre.reshape(3, 1, 1, 1)
            mirrored = [1 + 3 - len(patch) + axis for axis in recipe.augmentation.mirror_axes]
            place = np.flip(place, mirrored)
            image = batch.data[slot].numpy().reshape(4, *size)
            target = batch.target[slot].numpy().reshape(size)
            inside = image[3] > 1 - 1e-4
            np.testing.assert_allclose(image[:3][:, inside], place[:, inside], atol=2e-3)
            # Labels can be told where all neighbours are of one block: more than a voxel from its faces.
            within = place % BLOCK
            sure = inside & ((within >= 0) & (within <= BLOCK - 1)).all(0)
            np.testing.assert_array_equal(target[sure], block_label(place)[sure])
            # A label wins where it has more than half of the weight; outside all weight lies on no label.
            assert (target[image[3] > 0.99] > 0).all()
            assert (target[image[3] < 0.01] == 0).all()
            compared += sure.sum()
            outside += (image[3] < 0.01).sum()
    assert compared > 300
    assert outside > 100


def test_what_was_said_of_the_patch_is_what_torch_makes_of_the_plain_one() -> None:
    plain, moved = (
        PatchBatches(
            store=Scan((20, 20, 20)),
            case_names=["scan"],
            labels=Labels.from_dataset_json({"labels": {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4}}),
            patch_size=(12, 12, 12),
            batch_size=2,
            augmentation=Augmentation.from_plans(MOVES[name], (12, 12, 12)),
        )
        for name in ("nothing", "axis_exchange")
    )
    seen = set()
    for iteration in range(10):
        first, second = plain(iteration), moved(iteration)
        for slot, recipe in enumerate(moved.recipes(iteration)):
            spatial = recipe.augmentation.spatial
            order = spatial.axis_order if spatial else (0, 1, 2)
            seen.add(order)
            channels = (0, *[1 + axis for axis in order])
            assert torch.equal(second.data[slot], first.data[slot].permute(channels))
            assert torch.equal(second.target[slot], first.target[slot].permute(channels))
    assert len(seen) >= 5
