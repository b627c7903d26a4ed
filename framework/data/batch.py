"""One batch of patches with their targets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class SegmentationBatch:
    """Patches of several cases, as they enter a network.

    Attributes:
        data: (B, C, *spatial) float32.
        target: (B, 1, *spatial) int16 labels, or (B, R, *spatial) bool for datasets with regions, with one
            more channel, true where the ignore label lies, if the dataset has one.
        case_names: the case that each of the B patches was cut from.
        logits: (B, K, *spatial) full-resolution output; set during a step.
        outputs: outputs at all resolutions, finest first, if there are several; set during a step.
    """

    data: Tensor
    target: Tensor
    case_names: list[str]
    logits: Tensor | None = None
    outputs: list[Tensor] | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SegmentationBatch:
        """The same batch on another device; network outputs stay behind."""
        return dataclasses.replace(
            self,
            data=self.data.to(device, non_blocking=non_blocking),
            target=self.target.to(device, non_blocking=non_blocking),
            logits=None,
            outputs=None,
        )

    def pin_memory(self) -> SegmentationBatch:
        """The same batch in page-locked memory, from which a GPU can fetch it in the background."""
        return dataclasses.replace(self, data=self.data.pin_memory(), target=self.target.pin_memory())

    def __len__(self) -> int:
        return len(self.data)
