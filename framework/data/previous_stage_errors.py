"""Simulated mistakes of a cascade's previous stage, so that the next stage does not trust it blindly.

Before training, the previous stage was validated on scans that it had not seen, but it may err differently on new
ones. nnU-Net's recipe grows, shrinks, opens or closes labels, and takes whole parts away.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

# scipy.ndimage is imported where it is used: only cascades need it, and it takes a fifth of a second.

OPERATOR_PROBABILITY = 0.4
REMOVAL_PROBABILITY = 0.2
PROBABILITY_PER_LABEL = 0.5
RADIUS = (1.0, 8.0)  # voxels, of the ball that labels are grown or shrunk by
LARGEST_REMOVED = 0.15  # of the patch; larger parts are kept


@dataclass(frozen=True)
class StageErrors:
    """What is done to the one-hot channels of one sample. Plain and printable.

    Attributes:
        operations: (channel, name of the operation, radius in voxels), in order.
        removals: (channel, which of its parts, as a number in [0, 1)), in order.
    """

    operations: tuple[tuple[int, str, float], ...] = ()
    removals: tuple[tuple[int, float], ...] = ()


def draw_stage_errors(rng: np.random.Generator, num_labels: int) -> StageErrors:
    """Draw the mistakes of one sample; labels take their turns in a random order."""
    operate, remove = rng.random() < OPERATOR_PROBABILITY, rng.random() < REMOVAL_PROBABILITY
    operations, removals = [], []
    names = list(OPERATIONS)
    for channel in rng.permutation(num_labels).tolist():
        chosen, name, radius = rng.random() < PROBABILITY_PER_LABEL, int(rng.integers(len(names))), rng.uniform(*RADIUS)
        if operate and chosen:
            operations.append((channel, names[name], float(radius)))
    for channel in rng.permutation(num_labels).tolist():
        chosen, part = rng.random() < PROBABILITY_PER_LABEL, float(rng.random())
        if remove and chosen:
            removals.append((channel, part))
    return StageErrors(tuple(operations), tuple(removals))


def apply_stage_errors(channels: Tensor, errors: StageErrors) -> None:
    """Change one-hot channels (K, *spatial) float32 in place; on the CPU.

    A label that grows takes voxels away from the others.
    """
    from scipy import ndimage

    for channel, name, radius in errors.operations:
        before = channels[channel].numpy() > 0
        after = OPERATIONS[name](before, radius)
        gained = after & ~before
        for array in channels.numpy():
            array[gained] = 0
        channels[channel].numpy()[...] = after
    for channel, part in errors.removals:
        mask = channels[channel].numpy()
        numbered, count = ndimage.label(mask > 0, np.ones((3,) * mask.ndim))
        sizes = np.bincount(numbered.reshape(-1), minlength=count + 1)[1:]
        small = np.flatnonzero(sizes < LARGEST_REMOVED * mask.size)
        if len(small):
            mask[numbered == small[int(part * len(small))] + 1] = 0


def _dilate(mask: np.ndarray, radius: float) -> np.ndarray:
    """Every voxel that is at most `radius` voxels away from the mask."""
    from scipy import ndimage

    box = _bounding_box(mask, math.ceil(radius))
    result = np.zeros_like(mask)
    if box is not None:
        # The distance to the mask costs the same for every radius, a ball of radius 8 has 2109 voxels.
        result[box] = ndimage.distance_transform_edt(~mask[box]) <= radius
    return result


def _erode(mask: np.ndarray, radius: float) -> np.ndarray:
    """The voxels farther than `radius` from everything outside the mask; beyond the patch it is taken to go on."""
    from scipy import ndimage

    box = _bounding_box(mask, 1)
    result = mask.copy()
    if box is not None and not mask[box].all():
        result[box] = ndimage.distance_transform_edt(mask[box]) > radius
    return result


OPERATIONS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "dilate": _dilate,
    "erode": _erode,
    "close": lambda mask, radius: _erode(_dilate(mask, radius), radius),
    "open": lambda mask, radius: _dilate(_erode(mask, radius), radius),
}


def _bounding_box(mask: np.ndarray, margin: int) -> tuple[slice, ...] | None:
    from scipy import ndimage

    found = ndimage.find_objects(mask.astype(np.int8))
    if not found or found[0] is None:
        return None
    return tuple(slice(max(0, part.start - margin), part.stop + margin) for part in found[0])
