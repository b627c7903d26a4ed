"""Dice and binary cross-entropy for regions, which may overlap (sigmoid)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from framework.distributed import mean_over_all
from framework.losses.overlap import dice_loss


def region_losses(
    logits: Tensor, target: Tensor, *, batch_dice: bool, has_ignore: bool = False, smooth: float = 1e-5
) -> dict[str, Tensor]:
    """Binary cross-entropy and Dice of one prediction.

    Args:
        logits: (B, R, *spatial), one map a region.
        target: (B, R, *spatial) bool; with `has_ignore` one more channel at the end that is True where
            voxels count in neither term.
        batch_dice, smooth: see `dice_loss`.
        has_ignore: see `target`.

    Returns:
        "cross_entropy": mean over voxels and regions. With `has_ignore` it is the sum over the regions of
            the mean over voxels, so R times larger, because nnU-Net defines both in this way.
        "dice": minus the mean Dice of all regions.
    """
    batch, num_regions = logits.shape[:2]
    counted = None
    if has_ignore:
        target, ignored = target[:, :num_regions], target[:, num_regions]
        counted = ~ignored.reshape(batch, 1, -1).bool()
    flat_target = target.reshape(batch, num_regions, -1).bool()
    bce, intersection, sum_prediction, sum_target = _RegionSums.apply(
        logits.reshape(batch, num_regions, -1), flat_target, counted
    )
    count = flat_target.numel() if counted is None else counted.sum()
    dice = dice_loss(intersection, sum_prediction, sum_target, batch_dice=batch_dice, smooth=smooth)
    return {"cross_entropy": mean_over_all(bce, count), "dice": dice}


class _RegionSums(torch.autograd.Function):
    """All sums over voxels that the two terms need.

    forward: logits (B, R, N), target (B, R, N) bool, counted (B, 1, N) bool or None ->
        bce: sum over voxels and regions, scalar; intersection, sum_prediction, sum_target: (B, R).
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, counted: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = logits.float()
        # -log sigmoid(x) = softplus(-x) for targets, softplus(x) for the rest.
        elementwise = torch.nn.functional.softplus(torch.where(target, -x, x))
        p = torch.sigmoid(x)
        if counted is None:
            bce, sum_prediction, sum_target = elementwise.sum(), p.sum(2), target.sum(2)
            intersection = (p * target).sum(2)
        else:
            inside = target & counted
            bce = elementwise.mul_(counted).sum()
            sum_prediction, sum_target = (p * counted).sum(2), inside.sum(2)
            intersection = (p * inside).sum(2)
        ctx.save_for_backward(p, target, counted)
        ctx.logits_dtype = logits.dtype
        sum_target = sum_target.to(p.dtype)
        ctx.mark_non_differentiable(sum_target)
        return bce, intersection, sum_prediction, sum_target

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, g_bce: Tensor, g_intersection: Tensor, g_prediction: Tensor, _: Tensor
    ) -> tuple[Tensor, None, None]:
        p, target, counted = ctx.saved_tensors
        gradient = torch.addcmul(g_prediction[:, :, None], g_intersection[:, :, None], target.to(p.dtype))
        gradient *= p * (1 - p)
        gradient += (p - target.to(p.dtype)) * g_bce
        if counted is not None:
            gradient *= counted
        return gradient.to(ctx.logits_dtype), None, None
