"""What the shape of a patch decides about its augmentation: rotation range, mirror axes, in plane or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# A patch this many times longer than its first axis comes from thick slices: turning it out of the slice
# plane would interpolate over several slices. The threshold is nnU-Net's.
THICK_SLICE_RATIO = 3.0
# 2D patches longer than this ratio lose too much of the image when they are turned all the way round.
ELONGATED_2D_RATIO = 1.5


@dataclass(frozen=True)
class PatchGeometry:
    """nnU-Net's rules from the patch size alone.

    Attributes:
        patch_size: (X, Y, Z), or (Y, Z) for a 2D configuration.
        in_plane: rotate and scale within slices only (nnU-Net's dummy 2D augmentation); always true in 2D.
        rotation_degrees: range of every rotation angle.
        mirror_axes: axes of the patch that may be mirrored.
    """

    patch_size: tuple[int, ...]
    in_plane: bool
    rotation_degrees: tuple[float, float]
    mirror_axes: tuple[int, ...]

    @classmethod
    def from_patch_size(cls, patch_size: Sequence[int]) -> PatchGeometry:
        """Apply the rules.

        Raises:
            ValueError: the patch has neither two nor three axes.
        """
        size = tuple(int(length) for length in patch_size)
        if len(size) == 2:
            elongated = max(size) / min(size) > ELONGATED_2D_RATIO
            degrees = 15.0 if elongated else 180.0
            return cls(size, True, (-degrees, degrees), (0, 1))
        if len(size) == 3:
            in_plane = max(size) / size[0] > THICK_SLICE_RATIO
            degrees = 180.0 if in_plane else 30.0
            return cls(size, in_plane, (-degrees, degrees), (0, 1, 2))
        raise ValueError(f"patch size {size} has {len(size)} axes; a patch has 2 or 3.")

    @property
    def num_axes(self) -> int:
        """2 or 3."""
        return len(self.patch_size)

    @property
    def num_angles(self) -> int:
        """One angle in the slice plane, or one about each of the three axes."""
        return 1 if self.in_plane else 3

    @property
    def moving_axes(self) -> tuple[int, ...]:
        """Axes of the patch that rotation and scaling act on: the last two, or all three."""
        return (0, 1, 2) if self.num_angles == 3 else (self.num_axes - 2, self.num_axes - 1)

    @property
    def equal_axes(self) -> tuple[int, ...]:
        """Moving axes of one length, the largest such group; these can change places. Empty if all differ.

        Numbered among the moving axes.
        """
        lengths = [self.patch_size[axis] for axis in self.moving_axes]
        most = max(lengths, key=lengths.count)
        equal = tuple(axis for axis, length in enumerate(lengths) if length == most)
        return equal if len(equal) > 1 else ()


def mirror_axes(patch_size: Sequence[int]) -> tuple[int, ...]:
    """Axes that nnU-Net mirrors in training and in prediction: (0, 1, 2) in 3D, (0, 1) in 2D."""
    return PatchGeometry.from_patch_size(patch_size).mirror_axes
