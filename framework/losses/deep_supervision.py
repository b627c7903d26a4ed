"""Weights and targets for networks that predict at several resolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def deep_supervision_weights(num_outputs: int) -> tuple[float, ...]:
    """Share of each output in the loss, full resolution first; they sum to 1.

    Each output weighs half of the one above it, and the lowest resolution nothing at all: nnU-Net found that
    training on it does not help. A single output has weight 1.
    """
    weights = [0.5**i for i in range(num_outputs)]
    if num_outputs > 1:
        weights[-1] = 0.0
    total = sum(weights)
    return tuple(weight / total for weight in weights)


def downsample_target(target: Tensor, size: Sequence[int]) -> Tensor:
    """Nearest voxel of a target (B, R, *spatial) at another size, for any data type; a view where it can be.

    Same voxels as `interpolate(mode="nearest-exact")`: the one under the centre of each new voxel.
    """
    for axis, (old, new) in enumerate(zip(target.shape[2:], size, strict=True), start=2):
        if old == new:
            continue
        if old % new == 0:
            factor = old // new
            target = target[(slice(None),) * axis + (slice(factor // 2, None, factor),)]
        else:
            nearest = (2 * torch.arange(new, device=target.device) + 1) * old // (2 * new)
            target = target.index_select(axis, nearest)
    return target
