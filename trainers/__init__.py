"""What is trained: the segmentation trainer and its variants. The first plugin of the framework.

`TRAINERS` is announced in the entry-point group ``foldwise.trainers``; other packages announce theirs the same way.
"""

from __future__ import annotations

from trainers.segmentation import SegmentationTrainer

TRAINERS = {
    "SegmentationTrainer": "trainers.segmentation:SegmentationTrainer",
    # Fingers and scripts that know nnU-Net's name get the trainer of nnU-Net's recipe.
    "nnUNetTrainer": "trainers.segmentation:SegmentationTrainer",
}

__all__ = ["TRAINERS", "SegmentationTrainer"]
