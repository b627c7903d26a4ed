"""nnU-Net's name for the recipe of `SegmentationTrainer`."""

from __future__ import annotations

from trainers.segmentation import SegmentationTrainer


class nnUNetTrainer(SegmentationTrainer):  # noqa: N801  the name is nnU-Net's
    """The same trainer under nnU-Net's name, and so in nnU-Net's run folder: continues or validates a run begun there."""
