"""nnU-Net's name for the recipe of `SegmentationTrainer`."""

from __future__ import annotations

from trainers.segmentation import SegmentationTrainer


class nnUNetTrainer(SegmentationTrainer):
    """The same trainer in nnU-Net's run folder: continues or validates what nnU-Net began."""
