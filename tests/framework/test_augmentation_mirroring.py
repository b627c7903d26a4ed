from __future__ import annotations

from itertools import combinations

import pytest
import torch

from framework.augmentation import grid
from framework.augmentation.mirroring import mirror

AXES_3D = [axes for count in (1, 2, 3) for axes in combinations(range(3), count)]


@pytest.mark.parametrize("axes", AXES_3D)
@pytest.mark.parametrize("length", [1, 2, 7, 8])
@pytest.mark.parametrize("slab_voxels", [1, 60, 10_000])
def test_mirroring_in_place_is_torchs_flip(
    axes: tuple[int, ...], length: int, slab_voxels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "SLAB_VOXELS", slab_voxels)
    array = torch.randn(2, length, 5, 4)
    flipped = array.flip([1 + axis for axis in axes])
    mirror(array, axes)
    assert torch.equal(array, flipped)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
def test_slices_are_mirrored_likewise(axes: tuple[int, ...]) -> None:
    array = torch.arange(2 * 5 * 6, dtype=torch.int16).view(2, 5, 6)
    flipped = array.flip([1 + axis for axis in axes])
    mirror(array, axes)
    assert torch.equal(array, flipped)
