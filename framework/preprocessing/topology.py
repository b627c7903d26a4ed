"""Where a U-Net for a patch pools, and which kernels it uses: nnU-Net's rule.

An axis is pooled while it is long enough and its voxels are about as fine as those of the finest axis, so
that features become isotropic towards the bottleneck; an axis whose voxels are much coarser is not convolved
over until the others have caught up with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_CONVOLVED_LENGTH = 3
_ISOTROPIC = 2  # spacings that differ by less than this factor count as alike


@dataclass(frozen=True)
class Topology:
    """Strides and kernels of the stages of a U-Net, from the highest resolution to the bottleneck."""

    patch_size: tuple[int, ...]
    """In voxels, enlarged so that every pooling divides it evenly."""
    strides: tuple[tuple[int, ...], ...]
    """Of the first convolution of each stage; all ones for the first stage."""
    kernel_sizes: tuple[tuple[int, ...], ...]

    @property
    def num_stages(self) -> int:
        return len(self.strides)

    @property
    def divisors(self) -> tuple[int, ...]:
        """What each axis of a patch must be a multiple of."""
        products = [1] * len(self.patch_size)
        for stride in self.strides:
            products = [product * factor for product, factor in zip(products, stride)]
        return tuple(products)


def topology_for(spacing: Sequence[float], patch_size: Sequence[float], min_edge: int = 4) -> Topology:
    """The topology for a patch.

    Args:
        spacing: mm.
        patch_size: wished-for lengths in voxels; they need not be integers.
        min_edge: shortest edge of a feature map that pooling may leave.
    """
    num_axes = len(spacing)
    spacing, size = [float(value) for value in spacing], list(patch_size)
    kernel = [1] * num_axes
    strides, kernels = [(1,) * num_axes], []
    while True:
        long_enough = [axis for axis in range(num_axes) if size[axis] >= 2 * min_edge]
        if not long_enough:
            break
        finest = min(spacing[axis] for axis in long_enough)
        pooled = [axis for axis in long_enough if spacing[axis] / finest < _ISOTROPIC]
        if len(pooled) == 1 and size[pooled[0]] < 3 * min_edge:
            break
        for axis in range(num_axes):
            if spacing[axis] / min(spacing) < _ISOTROPIC:
                kernel[axis] = _CONVOLVED_LENGTH
        for axis in pooled:
            spacing[axis] *= 2
            size[axis] = -(-size[axis] // 2)
        strides.append(tuple(2 if axis in pooled else 1 for axis in range(num_axes)))
        kernels.append(tuple(kernel))
    kernels.append((_CONVOLVED_LENGTH,) * num_axes)
    plain = Topology((0,) * num_axes, tuple(strides), tuple(kernels))
    padded = tuple(int(-(-length // divisor) * divisor) for length, divisor in zip(patch_size, plain.divisors))
    return Topology(padded, plain.strides, plain.kernel_sizes)
