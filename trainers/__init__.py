"""What is trained: the segmentation trainer and its variants. The first plugin of the framework.

`TRAINERS` is announced in the entry-point group ``foldwise.trainers``; other packages announce theirs the same way.
"""

from __future__ import annotations

from trainers.segmentation import SegmentationTrainer

TRAINERS = {
    "SegmentationTrainer": "trainers.segmentation:SegmentationTrainer",
    "nnUNetTrainer": "trainers.nnunet:nnUNetTrainer",
}

__all__ = ["TRAINERS", "SegmentationTrainer"]
