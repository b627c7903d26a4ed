"""Dice of the validation patches of an epoch, and its moving average."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from framework.hook import Hook
from framework.metrics import ConfusionCounts, dice_from_counts, mean_without_nan, running_mean

if TYPE_CHECKING:
    from framework.base_trainer import BaseTrainer


class SegmentationMetrics(Hook):
    """Add ``dice_per_class_or_region``, ``mean_fg_dice`` and ``ema_fg_dice`` to the history.

    Counts are summed over all patches before Dice is formed, as nnU-Net does. Classes that occurred nowhere
    are NaN and left out of the mean; an epoch without any class leaves the moving average as it was.
    """

    priority = 10

    def on_validation_epoch_end(self, trainer: BaseTrainer, outputs: list[dict[str, Any]]) -> None:
        counts = torch.stack([output["counts"] for output in outputs]).sum(0)
        dice = dice_from_counts(ConfusionCounts(*counts)).tolist()
        mean = mean_without_nan(dice)
        # A run that nnU-Net began may hold NaN, which its average does not leave any more.
        earlier = [row["ema_fg_dice"] for row in trainer.history if row.get("ema_fg_dice") is not None]
        earlier = [value for value in earlier if not math.isnan(value)]
        trainer.history.add(
            mean_fg_dice=mean,
            ema_fg_dice=running_mean(earlier[-1] if earlier else None, mean),
            dice_per_class_or_region=dice,
        )
