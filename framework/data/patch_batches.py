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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from framework.augmentation.recipe import Augmentation, AugmentationDraw
from framework.augmentation.spatial import (
    OUTSIDE_LABEL,
    Box,
    origin_in_box,
    resample_image,
    resample_labels,
    source_box,
)
from framework.data.batch import SegmentationBatch
from framework.data.labels import LabelKey, Labels
from framework.data.patch_sampling import (
    PatchDraw,
    annotated_key,
    as_patch_3d,
    draw_patch,
    eligible_labels,
    is_forced_foreground,
)
from framework.data.previous_stage import one_hot
from framework.data.previous_stage_errors import StageErrors, apply_stage_errors, draw_stage_errors
from framework.errors import CaseError, DatasetError
from framework.randomness import generator

_Result = TypeVar("_Result")


class Store(Protocol):
    """What batches need of a store of preprocessed cases."""

    @property
    def device(self) -> torch.device | None:
        """Where `read` leaves voxels, as tensors; None means numpy arrays in memory."""

    def shape(self, case: str) -> Sequence[int]:
        """(C, X, Y, Z), without reading voxels."""

    def read(self, case: str, box: tuple[slice, ...] | None = None) -> tuple[Any, Any]:
        """Data (C, *box) float32 and segmentation (1, *box) int16; (2, *box) with that of a previous stage."""

    def class_locations(self, case: str) -> dict[LabelKey, np.ndarray]:
        """(n, 4) rows [0, x, y, z] for every label or region; asked for often, so to be kept in memory."""


@dataclass(frozen=True)
class SampleRecipe:
    """Everything random about one sample, and what follows from it; plain and printable.

    Attributes:
        n: number of the sample in its stream.
        forced_foreground: whether the sample must show foreground if its case has any.
        patch: label, voxel and corner.
        augmentation: all its numbers.
        box: voxels to read, (start, stop) for each of three axes; may reach beyond the image.
        stage_errors: mistakes added to what the previous stage of a cascade predicted.
    """

    n: int
    case_name: str
    forced_foreground: bool
    patch: PatchDraw
    augmentation: AugmentationDraw
    box: Box
    stage_errors: StageErrors = field(default_factory=StageErrors)


@dataclass
class ReadPatches:
    """Voxels as they were read, still to be augmented.

    Attributes:
        recipes: one for each of B samples.
        data: (B, C, *patch) float32; rows of samples with a spatial transform are filled by `finish`.
        segmentation: (B, S, *patch) int16 labels, -1 outside of the image or its non-zero part; likewise.
            S is 2 in a cascade, where that of the previous stage comes second.
        boxes: slot -> (image, segmentation) to be resampled, with the axes of the patch.
    """

    recipes: list[SampleRecipe]
    data: Tensor
    segmentation: Tensor
    boxes: dict[int, tuple[Tensor, Tensor]]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ReadPatches:
        """The same voxels on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        boxes = {slot: (move(image), move(labels)) for slot, (image, labels) in self.boxes.items()}
        return ReadPatches(self.recipes, move(self.data), move(self.segmentation), boxes)

    def pin_memory(self) -> ReadPatches:
        """The same voxels in page-locked memory."""
        boxes = {slot: (image.pin_memory(), seg.pin_memory()) for slot, (image, seg) in self.boxes.items()}
        return ReadPatches(self.recipes, self.data.pin_memory(), self.segmentation.pin_memory(), boxes)


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
        return self.finish(self.read(iteration))

    def recipes(self, iteration: int) -> list[SampleRecipe]:
        """What the samples of one iteration will be."""
        slots = range(self.batch_size) if self.slots is None else self.slots
        return [self.recipe(iteration * self.batch_size + slot) for slot in slots]

    def recipe(self, n: int) -> SampleRecipe:
        """Draw sample `n` of the stream."""
        rng = generator(self.seed, self.stream, n)
        case = self.case_names[int(rng.integers(len(self.case_names)))]
        shape = _named(case, lambda: self.store.shape(case))
        forced = is_forced_foreground(n % self.batch_size, self.batch_size, self.oversample_foreground_percent)
        locations: dict[LabelKey, np.ndarray] = {}
        labels: list[LabelKey] = []
        if forced or self._annotated is not None:
            locations = _named(case, lambda: self.store.class_locations(case))
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
        recipes = self.recipes(iteration)
        num_channels = self.store.shape(recipes[0].case_name)[0]
        device = self.store.device
        data = torch.empty((len(recipes), num_channels, *self.patch_size), device=device)
        shape = (len(recipes), 2 if self.previous_stage_labels else 1, *self.patch_size)
        segmentation = torch.empty(shape, dtype=torch.int16, device=device)
        boxes: dict[int, tuple[Tensor, Tensor]] = {}
        for slot, recipe in enumerate(recipes):
            lengths = tuple([stop - start for start, stop in recipe.box])
            image, labels = data[slot], segmentation[slot]
            if recipe.augmentation.spatial is not None:
                image, labels = data.new_empty((len(image), *lengths)), labels.new_empty((len(labels), *lengths))
                boxes[slot] = (image, labels)
            image, labels = image.view(len(image), *lengths), labels.view(len(labels), *lengths)
            if device is None:
                self._read_box(recipe.case_name, recipe.box, image.numpy(), labels.numpy())
            else:
                self._read_box(recipe.case_name, recipe.box, image, labels)
        return ReadPatches(recipes, data, segmentation, boxes)

    def finish(self, patches: ReadPatches) -> SegmentationBatch:
        """Augment patches that were read, in place, and make their targets; on the device where they are."""
        with torch.no_grad():
            for slot, (image, labels) in patches.boxes.items():
                recipe = patches.recipes[slot]
                self._resample(recipe, image, labels, patches.data[slot], patches.segmentation[slot])
            if self.augmentation is not None:
                for slot, recipe in enumerate(patches.recipes):
                    self._augment(recipe.augmentation, patches.data[slot], patches.segmentation[slot])
                self._mask(patches.data, patches.segmentation)
            data = self._with_previous_stage(patches) if self.previous_stage_labels else patches.data
            target = self._target(patches.segmentation[:, :1])
        return SegmentationBatch(data, target, [recipe.case_name for recipe in patches.recipes])

    def _read_box(self, case: str, box: Box, image: Any, labels: Any) -> None:
        """Fill both arrays with the voxels of `box`; 0 and -1 where it lies outside of the image.

        They are of the kind that the store reads: numpy arrays, or tensors.
        """
        shape = self.store.shape(case)
        if shape[0] != len(image):
            raise CaseError(
                case,
                f"it has {shape[0]} channels, other cases have {len(image)}. Preprocess the dataset again.",
            )
        inside = tuple(slice(max(start, 0), min(stop, length)) for (start, stop), length in zip(box, shape[1:]))
        target = tuple(slice(part.start - start, part.stop - start) for part, (start, _) in zip(inside, box))
        data, segmentation = _named(case, lambda: self.store.read(case, inside))
        if image[0][target].shape != image.shape[1:]:
            image[...] = 0
            labels[...] = OUTSIDE_LABEL
        expected = tuple(part.stop - part.start for part in inside)
        for name, array in (("data", data), ("segmentation", segmentation)):
            if array.shape[1:] != expected:
                found = f"its {name} ends before {_in_words(inside)}, its arrays differ in size"
                raise CaseError(case, f"{found}. Preprocess the dataset again.")
        image[(slice(None), *target)] = data
        labels[(slice(None), *target)] = segmentation

    def _resample(
        self, recipe: SampleRecipe, image: Tensor, labels: Tensor, image_out: Tensor, labels_out: Tensor
    ) -> None:
        assert recipe.augmentation.spatial is not None
        matrix = recipe.augmentation.spatial.matrix()
        origin = origin_in_box(recipe.patch.corner, self._patch, recipe.box, matrix)
        # Axes that are not turned (thick slices, or the one slice of a 2D patch) join the channels.
        turned = len(matrix)
        resample_image(_folded(image, turned), matrix, origin, _folded(image_out, turned))
        resample_labels(_folded(labels, turned), matrix, origin, _folded(labels_out, turned))

    def _augment(self, drawn: AugmentationDraw, image: Tensor, labels: Tensor) -> None:
        assert self.augmentation is not None
        self.augmentation.apply_intensities(image, drawn, labels)
        if drawn.mirror_axes:
            axes = [1 + axis for axis in drawn.mirror_axes]
            image.copy_(image.flip(axes))
            labels.copy_(labels.flip(axes))

    def _mask(self, data: Tensor, segmentation: Tensor) -> None:
        channels = [channel for channel, masked in enumerate(self.use_mask_for_norm) if masked]
        if channels:
            outside = segmentation[:, 0] < 0
            for channel in channels:
                data[:, channel].masked_fill_(outside, 0)

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


def with_slots(batches: PatchBatches, slots: range) -> PatchBatches:
    """The same batches, of which one process makes only some slots."""
    return dataclasses.replace(batches, slots=slots)


def _folded(array: Tensor, num_axes: int) -> Tensor:
    """(C, *axes) with the last `num_axes` kept and all others joined; shares memory."""
    return array.view(-1, *array.shape[-num_axes:])


def _in_words(box: tuple[slice, ...]) -> str:
    return "[" + ", ".join(f"{part.start}:{part.stop}" for part in box) + "]"


def _named(case: str, action: Callable[[], _Result]) -> _Result:
    """Do it; whatever goes wrong names the case."""
    try:
        return action()
    except (CaseError, MemoryError):
        raise
    except Exception as error:
        raise CaseError(case, f"it cannot be read ({type(error).__name__}: {error}).") from error
