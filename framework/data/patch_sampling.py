"""Where a training patch is cut: which samples must show foreground, around which voxel, from which corner.

The rules are nnU-Net's. A patch may reach outside of its image where the image is smaller than the patch,
and on the far side where a chosen voxel lies close to the border.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from framework.data.labels import LabelKey
from framework.errors import PlansError


@dataclass(frozen=True)
class PatchDraw:
    """A drawn position.

    Attributes:
        label: the label or region that the patch is centred on, or None for a random position.
        voxel: the chosen voxel of that label, three axes, or None.
        corner: first voxel of the patch, three axes; negative where the patch begins before the image.
    """

    label: LabelKey | None
    voxel: tuple[int, ...] | None
    corner: tuple[int, ...]


def is_forced_foreground(slot: int, batch_size: int, oversample_percent: float) -> bool:
    """Whether the sample at `slot` of the global batch must show foreground: the last ones of a batch do."""
    return slot >= round(batch_size * (1 - oversample_percent))


def rank_slots(batch_size: int, rank: int, world_size: int) -> range:
    """The slots of the global batch that one of several processes makes; the first ranks get one more.

    Raises:
        PlansError: there are more processes than samples.
        ValueError: the rank is not one of the processes.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not one of {world_size} processes.")
    if batch_size < world_size:
        raise PlansError(
            f"a batch of {batch_size} cannot be split over {world_size} processes. Start {batch_size} processes at "
            "most, or raise batch_size in the plans."
        )
    share, rest = divmod(batch_size, world_size)
    start = rank * share + min(rank, rest)
    return range(start, start + share + (rank < rest))


def annotated_key(all_labels: Sequence[int]) -> tuple[int, ...]:
    """The entry of the class locations that lists annotated voxels, in datasets with an ignore label."""
    return (-1, *all_labels)


def as_patch_3d(patch_size: Sequence[int]) -> tuple[int, int, int]:
    """A 2D patch is one slice thick."""
    size = [int(length) for length in patch_size]
    first, second, third = [1] * (3 - len(size)) + size
    return first, second, third


def corner_bounds(shape: Sequence[int], patch_size: Sequence[int]) -> list[tuple[int, int]]:
    """Lowest and highest corner of a random patch, per axis; both inclusive.

    Patches stay inside the image. An image that is smaller than the patch lies in the patch's middle.
    """
    bounds = []
    for length, size in zip(shape, patch_size):
        missing = max(0, size - length)
        bounds.append((-missing // 2, length - size + (missing + 1) // 2))
    return bounds


def draw_patch(
    rng: np.random.Generator,
    shape: Sequence[int],
    patch_size: Sequence[int],
    labels: Sequence[LabelKey],
    locations: Mapping[LabelKey, np.ndarray],
) -> PatchDraw:
    """Draw a position: around a random voxel of a random one of `labels`, or anywhere if there are none.

    Args:
        shape: of the image, three axes.
        patch_size: three axes.
        labels: those to choose from, each with at least one voxel in `locations`.
        locations: (n, 4) rows [0, x, y, z] of each label.
    """
    bounds = corner_bounds(shape, patch_size)
    if not labels:
        return PatchDraw(None, None, tuple([int(rng.integers(low, high + 1)) for low, high in bounds]))
    label = labels[int(rng.integers(len(labels)))]
    voxels = locations[label]
    voxel = tuple(voxels[int(rng.integers(len(voxels)))].tolist()[1:])
    corner = tuple([max(low, position - size // 2) for position, size, (low, _) in zip(voxel, patch_size, bounds)])
    return PatchDraw(label, voxel, corner)


def eligible_labels(
    present: Sequence[LabelKey], forced_foreground: bool, annotated: tuple[int, ...] | None
) -> list[LabelKey]:
    """The labels that a sample may be centred on; none means anywhere.

    Args:
        present: labels with at least one voxel in the case, the annotated key included.
        annotated: the key of annotated voxels in datasets with an ignore label, else None.
    """
    if not forced_foreground:
        return [annotated] if annotated is not None and annotated in present else []
    foreground = [label for label in present if label != annotated]
    return foreground or list(present)
