"""The loss that a segmentation network is trained with: Dice plus cross-entropy, over all resolutions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from framework.losses.deep_supervision import deep_supervision_weights, downsample_target
from framework.losses.label_loss import label_losses
from framework.losses.region_loss import region_losses


class SegmentationLoss(nn.Module):
    """Named loss parts of one batch, each already combined over the resolutions of the network.

    Args:
        has_regions: targets are overlapping regions (sigmoid, binary cross-entropy), not labels (softmax).
        batch_dice: form Dice over the whole batch, not for every sample.
        ignore_label: label of voxels that do not count, None for none. With regions the voxels are marked by
            the last channel of the target, and it is enough that this is not None.
        output_weights: share of each output of a list, full resolution first; None means the weights of
            `deep_supervision_weights` for as many outputs as arrive. Outputs of weight 0 cost nothing, and
            a single tensor always has weight 1.
        smooth: see `framework.losses.overlap.dice_loss`.
    """

    def __init__(
        self,
        *,
        has_regions: bool = False,
        batch_dice: bool = False,
        ignore_label: int | None = None,
        output_weights: Sequence[float] | None = None,
        smooth: float = 1e-5,
    ) -> None:
        super().__init__()
        self.has_regions = has_regions
        self.batch_dice = batch_dice
        self.ignore_label = ignore_label
        self.output_weights = None if output_weights is None else tuple(output_weights)
        self.smooth = smooth

    def forward(self, outputs: Tensor | Sequence[Tensor], target: Tensor) -> dict[str, Tensor]:
        """Loss parts, as scalars that carry gradients.

        Args:
            outputs: logits (B, K, *spatial), or one such tensor a resolution, full resolution first. Fewer
                outputs than `output_weights` are fine where the rest has weight 0.
            target: at full resolution; (B, 1, *spatial) labels, or (B, R, *spatial) bool for regions.

        Returns:
            {"cross_entropy": ..., "dice": ...}; their sum is nnU-Net's loss. "dice" lies in [-1, 0].
        """
        weights: Sequence[float] = (1.0,)
        if isinstance(outputs, Tensor):
            outputs = [outputs]
        else:
            weights = self.output_weights or deep_supervision_weights(len(outputs))
        total: dict[str, Tensor] = {}
        for logits, weight in zip(outputs, weights, strict=False):
            if weight == 0:
                continue
            for name, part in self.single_output(logits, downsample_target(target, logits.shape[2:])).items():
                total[name] = total[name] + weight * part if name in total else weight * part
        return total

    def single_output(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Loss parts of one resolution; `target` has the spatial size of `logits`."""
        if self.has_regions:
            return region_losses(
                logits,
                target,
                batch_dice=self.batch_dice,
                has_ignore=self.ignore_label is not None,
                smooth=self.smooth,
            )
        return label_losses(
            logits, target, batch_dice=self.batch_dice, ignore_label=self.ignore_label, smooth=self.smooth
        )
