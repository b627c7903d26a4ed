"""Overlap counts and Dice during training: on the device of the tensors, without waiting for it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ConfusionCounts:
    """Voxels per foreground class: three int64 tensors of shape (K,)."""

    true_positive: Tensor
    false_positive: Tensor
    false_negative: Tensor

    def __add__(self, other: ConfusionCounts) -> ConfusionCounts:
        return ConfusionCounts(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
        )

    def stacked(self) -> Tensor:
        """(3, K), for one transfer or one all-reduce."""
        return torch.stack((self.true_positive, self.false_positive, self.false_negative))


def confusion_counts(
    prediction: Tensor,
    target: Tensor,
    *,
    num_classes: int | None = None,
    has_regions: bool = False,
    ignore_label: int | None = None,
) -> ConfusionCounts:
    """Count voxels over a whole batch.

    Args:
        prediction: logits (B, K, *spatial), floating point; or the labels (B, 1, *spatial) or region masks
            (B, R, *spatial) that were made from them.
        target: (B, 1, *spatial) labels, or for regions (B, R, *spatial) bool, with one more channel at the
            end for voxels that do not count if `ignore_label` is not None.
        num_classes: number of labels with background; needed only where `prediction` holds labels.
        has_regions: whether classes are regions, each predicted where its logit is positive.
        ignore_label: voxels with this target are left out.

    Returns:
        Counts per foreground label, or per region.
    """
    if has_regions:
        predicted = prediction > 0 if prediction.is_floating_point() else prediction.bool()
        num_regions = predicted.shape[1]
        reference = target[:, :num_regions].bool()
        if ignore_label is not None:
            counted = ~target[:, num_regions : num_regions + 1].bool()
            predicted, reference = predicted & counted, reference & counted
        axes = (0, *range(2, predicted.ndim))
        true_positive = (predicted & reference).sum(axes)
        num_predicted, num_reference = predicted.sum(axes), reference.sum(axes)
    else:
        if prediction.is_floating_point():
            num_classes = prediction.shape[1]
            prediction = prediction.argmax(1, keepdim=True)
        if num_classes is None:
            raise ValueError("num_classes is needed where the prediction holds labels")
        # One byte a voxel: these maps are read once for every class.
        smallest = torch.uint8 if num_classes < 255 else torch.int16
        labels = prediction.to(smallest).flatten()
        reference = target.to(smallest).flatten()
        if ignore_label is not None:
            # A value that no class has, in both maps, so that these voxels match nothing.
            nothing = torch.iinfo(smallest).max
            ignored = target.flatten() == ignore_label
            labels, reference = labels.masked_fill(ignored, nothing), reference.masked_fill(ignored, nothing)
        agreed = torch.where(labels == reference, labels, torch.zeros_like(labels))
        classes = range(1, num_classes)
        true_positive = torch.stack([(agreed == k).sum() for k in classes])
        num_predicted = torch.stack([(labels == k).sum() for k in classes])
        num_reference = torch.stack([(reference == k).sum() for k in classes])
    return ConfusionCounts(true_positive, num_predicted - true_positive, num_reference - true_positive)


def dice_from_counts(counts: ConfusionCounts) -> Tensor:
    """Dice per class, (K,) float64; NaN for a class that is neither in the target nor predicted."""
    twice = 2.0 * counts.true_positive.double()
    return twice / (twice + counts.false_positive + counts.false_negative)


def mean_without_nan(values: Sequence[float]) -> float:
    """Mean of the values that are numbers; NaN if there are none."""
    numbers = [value for value in values if not math.isnan(value)]
    return sum(numbers) / len(numbers) if numbers else math.nan


def running_mean(previous: float | None, new: float, momentum: float = 0.9) -> float:
    """Exponential moving average: `momentum` of the old value, the rest of the new one.

    The first number is taken as it is. A new value that is not a number leaves the average as it was, so one
    epoch without any foreground does not end the search for the best epoch.
    """
    if previous is None or math.isnan(previous):
        return new
    return previous if math.isnan(new) else momentum * previous + (1 - momentum) * new
