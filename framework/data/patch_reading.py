"""Voxels of the patches of a batch, as they come from a store: read, and not yet augmented."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from framework.augmentation.recipe import AugmentationDraw
from framework.augmentation.spatial import OUTSIDE_LABEL, Box
from framework.data.labels import LabelKey
from framework.data.patch_sampling import PatchDraw
from framework.data.previous_stage_errors import StageErrors
from framework.errors import CaseError

_Result = TypeVar("_Result")
# Of the first axis that are read at once: packed files give a copy, which is to be small beside the box that it goes
# to. Files are packed in blocks whose lengths are powers of two, so that none is unpacked twice.
_ROWS_AT_ONCE = 64


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
        data: (B, C, *patch) float32; rows of samples with a spatial transform are filled when it takes place.
        segmentation: (B, S, *patch) int16 labels, -1 outside of the image or its non-zero part; likewise.
            S is 2 in a cascade, where that of the previous stage comes second.
        boxes: slot -> (image, segmentation) to be resampled, three axes; not to be changed.
    """

    recipes: list[SampleRecipe]
    data: Tensor
    segmentation: Tensor
    boxes: dict[int, tuple[Tensor, Tensor]]

    @classmethod
    def empty(
        cls, recipes: list[SampleRecipe], store: Store, patch_size: Sequence[int], num_segmentations: int
    ) -> ReadPatches:
        """Room for the voxels of some samples, to be filled by `read_sample`."""
        num_channels = store.shape(recipes[0].case_name)[0]
        data = _empty((len(recipes), num_channels, *patch_size), torch.float32, store.device, to_be_sent=True)
        shape = (len(recipes), num_segmentations, *patch_size)
        return cls(recipes, data, _empty(shape, torch.int16, store.device, to_be_sent=True), {})

    def read_sample(self, store: Store, slot: int, *, to_be_sent: bool) -> None:
        """Read the voxels of one sample, into its rows or, if it is to be resampled, into `boxes`.

        Args:
            to_be_sent: whether another process will resample them.

        Raises:
            CaseError: the case cannot be read, or does not fit to the others; the message names it.
        """
        recipe, image, labels = self.recipes[slot], self.data[slot], self.segmentation[slot]
        lengths = tuple([stop - start for start, stop in recipe.box])
        if recipe.augmentation.spatial is not None:
            image = _empty((len(image), *lengths), image.dtype, store.device, to_be_sent)
            labels = _empty((len(labels), *lengths), labels.dtype, store.device, to_be_sent)
            self.boxes[slot] = (image, labels)
        _read_box(store, recipe, image.view(len(image), *lengths), labels.view(len(labels), *lengths))

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


def named(case: str, action: Callable[[], _Result]) -> _Result:
    """Do it; whatever goes wrong names the case."""
    try:
        return action()
    except (CaseError, MemoryError):
        raise
    except Exception as error:
        raise CaseError(case, f"it cannot be read ({type(error).__name__}: {error}).") from error


def _empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device | None, to_be_sent: bool) -> Tensor:
    """A tensor to be filled; in a data worker it lies where the main process finds it, and is not copied again."""
    if device is None and to_be_sent and get_worker_info() is not None:
        storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
        return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape))  # type: ignore[call-overload]
    return torch.empty(shape, dtype=dtype, device=device)


def _read_box(store: Store, recipe: SampleRecipe, image: Tensor, labels: Tensor) -> None:
    """Fill both with the voxels of the recipe's box; 0 and -1 where it lies outside of the image."""
    case = recipe.case_name
    num_channels, *shape = store.shape(case)
    if num_channels != len(image):
        raise CaseError(
            case, f"it has {num_channels} channels, other cases have {len(image)}. Preprocess the dataset again."
        )
    inside = [(max(start, 0), min(stop, length)) for (start, stop), length in zip(recipe.box, shape)]
    if tuple(inside) != recipe.box:
        image.fill_(0)
        labels.fill_(OUTSIDE_LABEL)
    first, *others = inside
    rows = _ROWS_AT_ONCE if store.device is None else max(1, first[1])
    for begin in range(first[0] // rows * rows, first[1], rows):
        slab = [(max(begin, first[0]), min(begin + rows, first[1])), *others]
        part = tuple([slice(start, stop) for start, stop in slab])
        target = tuple([slice(start - low, stop - low) for (start, stop), (low, _) in zip(slab, recipe.box)])
        arrays = named(case, partial(store.read, case, part))
        for name, array, output in zip(("data", "segmentation"), arrays, (image, labels)):
            place = output[(slice(None), *target)]
            if tuple(array.shape) != tuple(place.shape):
                in_words = ", ".join(f"{start}:{stop}" for start, stop in slab)
                differs = f"its {name} ends before [{in_words}], its arrays differ in size"
                raise CaseError(case, f"{differs}. Preprocess the dataset again.")
            if isinstance(array, Tensor):
                place.copy_(array)
            else:
                # numpy copies what is not contiguous faster, and torch warns of arrays that are read-only.
                place.numpy()[...] = array
