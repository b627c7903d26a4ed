"""Preprocessed cases on the device that trains: a patch is cut there, and nothing is copied per step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from framework.data.class_locations import ClassLocations
from framework.data.memory import readable_size
from framework.data.store import CaseStore

_DEVICE_SHARE = 0.5  # of a device's free memory that cases may take; the rest is for the network


class DeviceStore:
    """The cases of a `CaseStore` as tensors on a device, with the same interface.

    Args:
        store: read once, in `prepare`; afterwards only for properties and class locations.
        device: where the voxels go.
    """

    def __init__(self, store: CaseStore, device: torch.device) -> None:
        self.store = store
        self.device = device
        self._cases: dict[str, tuple[Tensor, Tensor]] = {}

    def explain(self) -> str:
        """One line: where the cases are."""
        size = readable_size(self.store.num_bytes())
        return f"{len(self.store.case_names)} cases are held on {self.device}: {size}, as asked for."

    def prepare(self) -> None:
        """Copy every case to the device."""
        self.store.prepare_locations()
        for case in self.store.case_names:
            self._case(case)

    def shape(self, case: str) -> tuple[int, ...]:
        """(C, X, Y, Z)"""
        return self.store.shape(case)

    def read(self, case: str, box: Sequence[slice] | None = None) -> tuple[Tensor, Tensor]:
        """Image (C, *box) float32 and segmentation (1, *box) int16: views, not to be changed."""
        data, segmentation = self._case(case)
        if box is None:
            return data, segmentation
        index = (slice(None), *box)
        return data[index], segmentation[index]

    def properties(self, case: str) -> dict[str, Any]:
        """Geometry, crop and class locations of a case, read from its file."""
        return self.store.properties(case)

    def class_locations(self, case: str) -> ClassLocations:
        """Foreground key -> (n, 4) voxels [0, x, y, z] of the case, in memory: positions are drawn on the CPU."""
        return self.store.class_locations(case)

    def _case(self, case: str) -> tuple[Tensor, Tensor]:
        tensors = self._cases.get(case)
        if tensors is None:
            # A copy even on a CPU: what is mapped from a file cannot be made a tensor without one.
            data, segmentation = (torch.tensor(array, device=self.device) for array in self.store.read(case))
            tensors = self._cases[case] = data, segmentation
        return tensors


def why_not_on_device(
    store: CaseStore, device: torch.device, free_bytes: int | None, needs_cpu: bool = False
) -> str | None:
    """The reason why the cases cannot be held on the device, for the user; None if they can.

    Args:
        free_bytes: memory of the device that is free; None where it does not tell, which counts as enough.
        needs_cpu: whether patches have to be finished on the CPU.
    """
    if needs_cpu:
        return (
            "training.store is 'device', but patches cannot be finished there: the augmentation has transforms that "
            "need the CPU, or this is a cascade"
        )
    needed = store.num_bytes()
    if free_bytes is None or needed <= _DEVICE_SHARE * free_bytes:
        return None
    return (
        f"training.store is 'device', but the {len(store.case_names)} cases need {readable_size(needed)}, and "
        f"{device} has {readable_size(free_bytes)} free, of which cases may take {_DEVICE_SHARE:.0%}"
    )
