"""What is minimised: Dice, cross-entropy, and their combination over several resolutions."""

from framework.losses.deep_supervision import deep_supervision_weights
from framework.losses.segmentation_loss import SegmentationLoss

__all__ = ["SegmentationLoss", "deep_supervision_weights"]
