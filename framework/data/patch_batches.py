"""Batches of patches as a pure function of the iteration: draw everything, read the voxels needed, apply.

    recipes(iteration)      what each sample will be: case, position, every number of its augmentation
    read(iteration)         the voxels that those recipes need, from the store; work for a worker process, or
                            for the device itself where the store is on it
    finish(patches)         resampling, grey values, mirroring, targets; on the device where the patches are
    batches(iteration)      all three

Sample n = iteration * batch size + slot is the same in every process, on any number of ranks, in any order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from framework.augmentation.mirroring import mirror
from framework.augmentation.recipe import Augmentation, AugmentationDraw
from framework.augmentation.spatial import origin_in_box, resample_image, resample_labels, source_box
from framework.data.batch import SegmentationBatch
from framework.data.labels import LabelKey, Labels
from framework.data.patch_reading import ReadPatches, SampleRecipe, Store, named
from framework.data.patch_sampling import (
    annotated_key,
    as_patch_3d,
    draw_patch,
    eligible_labels,
    is_forced_foreground,
    rank_slots,
)
from framework.data.previous_stage import one_hot
from framework.data.previous_stage_errors import StageErrors, apply_stage_errors, draw_stage_errors
from framework.errors import DatasetError
from framework.randomness import generator

__all__ = ["PatchBatches", "ReadPatches", "SampleRecipe", "Store"]


@dataclass
class PatchBatches:
    """Makes the batch of any iteration; picklable, and a pure function of its fields and the iteration.

    Attributes:
        store: preprocessed cases.
        case_names: to choose from, with replacement; every case is equally likely.
        labels: of the dataset.
        patch_size: two or three axes.
        batch_size: of all processes together.
        oversample_foreground_percent: share of a batch that must show foreground, rounded as nnU-Net does.
        use_mask_for_norm: per channel; those channels are set to 0 outside of the non-zero mask.
        augmentation: None for validation: same positions' rules, nothing changed.
        previous_stage_labels: in a cascade, the labels that become input channels; the store reads them.
        seed, stream: key of the random numbers.
        slots: of the global batch, those that this process makes; None for all.
    """

    store: Store
    case_names: Sequence[str]
    labels: Labels
    patch_size: Sequence[int]
    batch_size: int
    oversample_foreground_percent: float = 0.33
    use_mask_for_norm: Sequence[bool] = ()
    augmentation: Augmentation | None = None
    previous_stage_labels: Sequence[int] = ()
    seed: int = 0
    stream: str = "training"
    slots: range | None = None

    def __post_init__(self) -> None:
        if not self.case_names:
            raise DatasetError(
                f"There is no case to draw {self.stream} batches from: this fold's list is empty. "
                "Check splits_final.json, or train another fold."
            )
        self.case_names = list(self.case_names)
        self.patch_size = tuple(int(length) for length in self.patch_size)
        if self.augmentation is not None and self.augmentation.geometry.patch_size != self.patch_size:
            raise ValueError(
                f"the augmentation was made for patches of {self.augmentation.geometry.patch_size}, "
                f"the batches have {self.patch_size}."
            )
        self._patch = as_patch_3d(self.patch_size)
        self._annotated = None if self.labels.ignore_label is None else annotated_key(self.labels.all_labels)

    @property
    def finishes_on_device(self) -> bool:
        """Whether `finish` can run where the training runs; no if a transform is made for CPUs only."""
        return not ((self.augmentation is not None and self.augmentation.needs_cpu) or self.previous_stage_labels)

    @property
    def in_this_process(self) -> bool:
        """Whether workers cannot help, because the cases are on a device."""
        return self.store.device is not None

    def __call__(self, iteration: int) -> SegmentationBatch:
        """The batch of one iteration, where the store leaves its voxels: in memory, if it is on no device.

        Raises:
            CaseError: a case cannot be read; the message names it.
        """
        patches = self._empty(iteration)
        with torch.no_grad():
            # Sample by sample, so that what was read for one is gone before the next one is read.
            for slot in range(len(patches.recipes)):
                patches.read_sample(self.store, slot, to_be_sent=False)
                self._finish_sample(patches, slot)
            return self._batch(patches)

    def share(self, rank: int, num_ranks: int) -> PatchBatches:
        """The same batches, of which one of several processes makes its share.

        Raises:
            PlansError: there are more processes than samples in a batch.
        """
        return dataclasses.replace(self, slots=rank_slots(self.batch_size, rank, num_ranks))

    def recipes(self, iteration: int) -> list[SampleRecipe]:
        """What the samples of one iteration will be."""
        slots = range(self.batch_size) if self.slots is None else self.slots
        return [self.recipe(iteration * self.batch_size + slot) for slot in slots]

    def recipe(self, n: int) -> SampleRecipe:
        """Draw sample `n` of the stream."""
        rng = generator(self.seed, self.stream, n)
        case = self.case_names[int(rng.integers(len(self.case_names)))]
        shape = named(case, lambda: self.store.shape(case))
        forced = is_forced_foreground(n % self.batch_size, self.batch_size, self.oversample_foreground_percent)
        locations: dict[LabelKey, np.ndarray] = {}
        labels: list[LabelKey] = []
        if forced or self._annotated is not None:
            locations = named(case, lambda: self.store.class_locations(case))
            present = [label for label, voxels in locations.items() if len(voxels)]
            labels = eligible_labels(present, forced, self._annotated)
        patch = draw_patch(rng, shape[1:], self._patch, labels, locations)
        drawn = AugmentationDraw()
        if self.augmentation is not None:
            # A stream of its own: other augmentation, same patches.
            drawn = self.augmentation.draw(generator(self.seed, f"{self.stream}/augmentation", n), shape[0])
        matrix = None if drawn.spatial is None else drawn.spatial.matrix()
        box = source_box(patch.corner, self._patch, shape[1:], matrix)
        errors = StageErrors()
        if self.previous_stage_labels and self.augmentation is not None:
            rng = generator(self.seed, f"{self.stream}/previous stage", n)
            errors = draw_stage_errors(rng, len(self.previous_stage_labels))
        return SampleRecipe(n, case, forced, patch, drawn, box, errors)

    def read(self, iteration: int) -> ReadPatches:
        """Read what the recipes of one iteration need, and nothing else."""
        patches = self._empty(iteration)
        for slot in range(len(patches.recipes)):
            patches.read_sample(self.store, slot, to_be_sent=True)
        return patches

    def finish(self, patches: ReadPatches) -> SegmentationBatch:
        """Augment patches that were read, in place, and make their targets; on the device where they are."""
        with torch.no_grad():
            for slot in range(len(patches.recipes)):
                self._finish_sample(patches, slot)
            return self._batch(patches)

    def _empty(self, iteration: int) -> ReadPatches:
        num_segmentations = 2 if self.previous_stage_labels else 1
        return ReadPatches.empty(self.recipes(iteration), self.store, self.patch_size, num_segmentations)

    def _finish_sample(self, patches: ReadPatches, slot: int) -> None:
        recipe, image, labels = patches.recipes[slot], patches.data[slot], patches.segmentation[slot]
        if slot in patches.boxes:
            self._resample(patches, slot)
        if self.augmentation is not None:
            self._augment(recipe.augmentation, image, labels)
            self._mask(image, labels)

    def _resample(self, patches: ReadPatches, slot: int) -> None:
        recipe = patches.recipes[slot]
        assert recipe.augmentation.spatial is not None
        matrix = recipe.augmentation.spatial.matrix()
        origin = origin_in_box(recipe.patch.corner, self._patch, recipe.box, matrix)
        # Axes that are not turned (thick slices, or the one slice of a 2D patch) join the channels.
        turned = len(matrix)
        image, labels = patches.boxes.pop(slot)
        resample_image(_folded(image, turned), matrix, origin, _folded(patches.data[slot], turned))
        del image  # the larger part of what was read
        resample_labels(_folded(labels, turned), matrix, origin, _folded(patches.segmentation[slot], turned))

    def _augment(self, drawn: AugmentationDraw, image: Tensor, labels: Tensor) -> None:
        assert self.augmentation is not None
        self.augmentation.apply_intensities(image, drawn, labels)
        if drawn.mirror_axes:
            mirror(image, drawn.mirror_axes)
            mirror(labels, drawn.mirror_axes)

    def _mask(self, image: Tensor, labels: Tensor) -> None:
        channels = [channel for channel, masked in enumerate(self.use_mask_for_norm) if masked]
        if channels:
            outside = labels[0] < 0
            for channel in channels:
                image[channel].masked_fill_(outside, 0)

    def _batch(self, patches: ReadPatches) -> SegmentationBatch:
        data = self._with_previous_stage(patches) if self.previous_stage_labels else patches.data
        target = self._target(patches.segmentation[:, :1])
        return SegmentationBatch(data, target, [recipe.case_name for recipe in patches.recipes])

    def _with_previous_stage(self, patches: ReadPatches) -> Tensor:
        channels = one_hot(patches.segmentation[:, 1], self.previous_stage_labels, axis=1)
        for recipe, of_sample in zip(patches.recipes, channels):
            apply_stage_errors(of_sample, recipe.stage_errors)
        return torch.cat([patches.data, channels], dim=1)

    def _target(self, segmentation: Tensor) -> Tensor:
        segmentation.clamp_(min=0)
        if not self.labels.has_regions:
            return segmentation
        keys: list[LabelKey] = list(self.labels.foreground_keys)
        if self.labels.ignore_label is not None:
            keys.append(self.labels.ignore_label)
        shape = (len(segmentation), len(keys), *segmentation.shape[2:])
        target = torch.zeros(shape, dtype=torch.bool, device=segmentation.device)
        for channel, key in enumerate(keys):
            for label in key if isinstance(key, tuple) else (key,):
                target[:, channel] |= segmentation[:, 0] == label
        return target


def _folded(array: Tensor, num_axes: int) -> Tensor:
    """(C, *axes) with the last `num_axes` kept and all others joined; shares memory."""
    return array.view(-1, *array.shape[-num_axes:])
