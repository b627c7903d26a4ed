"""Dice and cross-entropy for labels that exclude each other (softmax).

One softmax serves both terms, no one-hot target is built, and the backward pass writes the gradient of both
terms into one tensor. Everything is computed in float32, whatever the precision of the logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from framework.distributed import mean_over_all
from framework.losses.overlap import dice_loss


def label_losses(
    logits: Tensor, target: Tensor, *, batch_dice: bool, ignore_label: int | None = None, smooth: float = 1e-5
) -> dict[str, Tensor]:
    """Cross-entropy and Dice of one prediction.

    Args:
        logits: (B, K, *spatial), background first.
        target: (B, 1, *spatial) labels, 0 to K-1 or `ignore_label`, any integer type.
        batch_dice: see `dice_loss`.
        ignore_label: voxels with this label count in neither term; None for none.
        smooth: see `dice_loss`.

    Returns:
        "cross_entropy": mean over the voxels that count, 0 if there are none.
        "dice": minus the mean Dice of the foreground labels.
    """
    batch, num_classes = logits.shape[:2]
    # Plain layout: each class is one run of memory, so that sums and softmax go over whole rows.
    flat_target = target.reshape(batch, -1).long()
    counted = None
    if ignore_label is not None:
        counted = flat_target != ignore_label
        flat_target = flat_target.where(counted, 0)
    flat_logits = logits.reshape(batch, num_classes, -1)
    nll, intersection, sum_prediction, sum_target = _LabelSums.apply(flat_logits, flat_target, counted)
    num_voxels = flat_target.numel() if counted is None else counted.sum()
    dice = dice_loss(
        intersection[:, 1:], sum_prediction[:, 1:], sum_target[:, 1:], batch_dice=batch_dice, smooth=smooth
    )
    return {"cross_entropy": mean_over_all(nll, num_voxels), "dice": dice}


class _LabelSums(torch.autograd.Function):
    """All sums over voxels that the two terms need, in one pass over the softmax.

    forward: logits (B, K, N), target (B, N) int64, counted (B, N) bool or None ->
        nll: sum over voxels of minus the log-probability of the target label, scalar;
        intersection, sum_prediction, sum_target: (B, K).
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, counted: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        log_p = torch.log_softmax(logits, 1, dtype=torch.float32)
        log_p_target = log_p.gather(1, target[:, None])[:, 0]
        nll = -(log_p_target.sum() if counted is None else (log_p_target * counted).sum())
        p = log_p.exp_()
        p_target = log_p_target.exp_()
        if counted is None:
            sum_prediction = p.sum(2)
        else:
            sum_prediction = torch.bmm(p, counted.to(p.dtype)[:, :, None])[:, :, 0]
        intersection, sum_target = _sums_by_label(p_target, target, counted, logits.shape[1])
        ctx.save_for_backward(p, p_target, target, counted)
        ctx.logits_dtype = logits.dtype
        ctx.mark_non_differentiable(sum_target)
        return nll, intersection, sum_prediction, sum_target

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, g_nll: Tensor, g_intersection: Tensor, g_prediction: Tensor, _: Tensor
    ) -> tuple[Tensor, None, None]:
        p, p_target, target, counted = ctx.saved_tensors
        # With h_k = dL/dp_k, the gradient of softmax is p_k * (h_k - sum_j p_j h_j). Here h_k is
        # g_prediction_k, and g_intersection_k more for the target label; cross-entropy adds
        # g_nll * (p_k - [k is target]).
        at_target = p_target * g_intersection.gather(1, target)
        mean_h = torch.bmm(g_prediction[:, None, :], p)[:, 0] + at_target
        at_target -= g_nll
        gradient = (g_prediction + g_nll)[:, :, None] - mean_h[:, None, :]
        gradient *= p
        gradient.scatter_add_(1, target[:, None], at_target[:, None])
        if counted is not None:
            gradient *= counted[:, None]
        return gradient.to(ctx.logits_dtype), None, None


def _sums_by_label(p_target: Tensor, target: Tensor, counted: Tensor | None, num_classes: int) -> tuple[Tensor, Tensor]:
    """Sum of `p_target` and number of voxels for each sample and label: two (B, K) tensors."""
    if counted is not None:
        p_target = p_target * counted
    sums, counts = [], []
    if target.device.type == "cpu":
        # Histograms read the voxels once for all labels. They add up one by one, hence the double precision.
        for b in range(target.shape[0]):
            weights = p_target[b].double()
            sums.append(torch.bincount(target[b], weights, minlength=num_classes))
            here = target[b] if counted is None else target[b][counted[b]]
            counts.append(torch.bincount(here, minlength=num_classes))
        return torch.stack(sums).to(p_target.dtype), torch.stack(counts).to(p_target.dtype)
    # On GPUs a histogram would wait for the device and fight over a handful of atomic counters.
    for k in range(num_classes):
        here = target == k if counted is None else (target == k) & counted
        sums.append((p_target * here).sum(1))
        counts.append(here.sum(1))
    return torch.stack(sums, 1), torch.stack(counts, 1).to(p_target.dtype)
