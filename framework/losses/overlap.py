"""Soft Dice from sums over voxels, and how those sums are joined over samples and processes."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.distributed import mean_over_all, sum_over_ranks


def dice_loss(
    intersection: Tensor,
    sum_prediction: Tensor,
    sum_target: Tensor,
    *,
    batch_dice: bool,
    smooth: float = 1e-5,
) -> Tensor:
    """Minus the mean soft Dice; -1 is perfect overlap.

    Args:
        intersection, sum_prediction, sum_target: (B, K) sums over voxels of p*t, p and t.
        batch_dice: add up the samples of the batch (of all processes) before the fraction is formed.
        smooth: added above and below the fraction, so that a class which is absent and predicted absent
            scores 1 and not 0/0.

    Reference:
        Milletari et al. (2016), V-Net, 3DV. arXiv:1606.04797. Drozdzal et al. (2016), arXiv:1608.04117.
    """
    if batch_dice:
        sums = torch.stack((intersection, sum_prediction, sum_target)).sum(1)
        intersection, sum_prediction, sum_target = sum_over_ranks(sums)
    dice = (2 * intersection + smooth) / (sum_target + sum_prediction + smooth).clamp_min(1e-8)
    return -dice.mean() if batch_dice else -mean_over_all(dice.sum(), dice.numel())
