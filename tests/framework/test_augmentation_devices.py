"""Transforms for other devices: nothing there may read a result back, which would make the host wait.

A tensor on torch's `meta` device has a shape and no values; whatever asks for one raises an error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from framework.augmentation import Augmentation, SpatialDraw
from framework.augmentation.spatial import resample_image, resample_labels
from framework.data.labels import Labels
from framework.data.patch_batches import PatchBatches
from framework.randomness import generator
from tests.framework.test_augmentation_alignment import Scan

SHAPES = [(12, 14, 10), (6, 26, 25), (20, 18)]


def test_reading_a_result_is_noticed() -> None:
    tensor = torch.zeros(3, device="meta")
    for reads in (lambda: tensor.sum().item(), lambda: tensor.nonzero(), lambda: bool(tensor.any())):
        with pytest.raises((RuntimeError, NotImplementedError)):
            reads()


@pytest.fixture
def _generators_of_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """`meta` has no generators; noise is drawn with the CPU's there."""
    original = torch.Generator
    monkeypatch.setattr(torch, "Generator", lambda device=None: original())


@pytest.mark.usefixtures("_generators_of_meta")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("preset", ["default", "strong", "laptop"])
def test_no_transform_of_grey_values_waits_for_the_device(preset: str, shape: tuple[int, ...]) -> None:
    augmentation = Augmentation.from_plans(preset, shape)
    assert not augmentation.needs_cpu
    met = set()
    for n in range(60):
        draw = augmentation.draw(generator(0, "training", n), 2)
        image = torch.empty((2, *shape), device="meta")
        augmentation.apply_intensities(image, draw)
        met |= {name for name, _ in draw.intensities}
    assert met == set(augmentation.intensities)


DRAWS = [
    SpatialDraw((20.0, -13.0, 29.0), (0.8, 1.3, 1.1)),
    SpatialDraw((0.0, 0.0, 0.0), (0.8, 1.3, 1.1)),
    SpatialDraw((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (1, 0, 1), (2, 0, 1)),
    SpatialDraw((33.0,), (1.0, 0.7)),
]


@pytest.mark.parametrize("draw", DRAWS)
def test_no_resampling_waits_for_the_device(draw: SpatialDraw) -> None:
    matrix = draw.matrix()
    box = (9, 12, 11)[3 - len(matrix) :]
    patch = (8,) * len(matrix)
    arguments: tuple[Any, ...] = (matrix, np.zeros(len(matrix)))
    resample_image(torch.empty((2, *box), device="meta"), *arguments, torch.empty((2, *patch), device="meta"))
    labels = torch.empty((1, *box), device="meta", dtype=torch.int16)
    resample_labels(labels, *arguments, torch.empty((1, *patch), device="meta", dtype=torch.int16))


@pytest.mark.usefixtures("_generators_of_meta")
def test_finishing_a_whole_batch_does_not_wait_for_the_device() -> None:
    described = {"labels": {"background": 0, "all": [1, 2, 3, 4], "d": 4}, "regions_class_order": [1, 4]}
    batches = PatchBatches(
        store=Scan((17, 19, 18)),
        case_names=["scan"],
        labels=Labels.from_dataset_json(described),
        patch_size=(12, 10, 12),
        batch_size=4,
        use_mask_for_norm=(True, False, False, False),
        augmentation=Augmentation.from_plans("strong", (12, 10, 12)),
    )
    for iteration in range(4):
        batch = batches.finish(batches.read(iteration).to("meta"))
        assert batch.data.device.type == "meta"
        assert batch.target.shape == batches(iteration).target.shape
