"""Where the preprocessed grid of a case lies in its scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from framework.errors import FoldwiseError
from framework.plans import Configuration, Plans

_KEYS = ("spacing", "shape_before_cropping", "bbox_used_for_cropping", "shape_after_cropping_and_before_resampling")


@dataclass(frozen=True)
class ScanGrid:
    """What preprocessing did to the grid of a scan, checked; axes are in the order of the plans but where noted.

    Attributes:
        whole_shape: the scan before it was cropped.
        box: ((start, stop), ...) that it was cropped to.
        shape: of that box, before it was resampled.
        spacing: mm, of the scan.
        network_spacing: mm, of the preprocessed grid.
        forward, backward: the order of axes in the plans, counted in the scan, and the other way round.

    Raises:
        FoldwiseError: the box is not in the scan, or has another shape than it should have.
    """

    whole_shape: tuple[int, ...]
    box: tuple[tuple[int, int], ...]
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    network_spacing: tuple[float, ...]
    forward: tuple[int, ...]
    backward: tuple[int, ...]

    @classmethod
    def of(cls, properties: Mapping[str, Any], plans: Plans, configuration: Configuration) -> ScanGrid:
        """From the properties that preprocessing noted for a case."""
        missing = [key for key in _KEYS if key not in properties]
        if missing:
            raise FoldwiseError(
                f"the properties of this case lack {', '.join(missing)}, so its place in the scan is not known. "
                "Preprocess the case again."
            )
        spacing = tuple(float(properties["spacing"][axis]) for axis in plans.transpose_forward)
        # A 2D configuration has no spacing along the slices: they are never resampled.
        in_plane = tuple(float(length) for length in configuration.spacing)
        return cls(
            whole_shape=_integers(properties["shape_before_cropping"]),
            box=tuple((int(start), int(stop)) for start, stop in properties["bbox_used_for_cropping"]),
            shape=_integers(properties["shape_after_cropping_and_before_resampling"]),
            spacing=spacing,
            network_spacing=spacing[: len(spacing) - len(in_plane)] + in_plane,
            forward=_integers(plans.transpose_forward),
            backward=_integers(plans.transpose_backward),
        )

    def __post_init__(self) -> None:
        inside = all(0 <= start < stop <= n for (start, stop), n in zip(self.box, self.whole_shape))
        sizes = tuple(stop - start for start, stop in self.box)
        if len(self.whole_shape) != len(self.box) or not inside or sizes != self.shape:
            raise FoldwiseError(
                "the properties of this case contradict each other: a scan of "
                f"{_by(self.whole_shape)} voxels (shape_before_cropping) was cropped to {list(self.box)} "
                f"(bbox_used_for_cropping), and this box is said to have {_by(self.shape)} voxels "
                "(shape_after_cropping_and_before_resampling). Preprocess the case again."
            )

    @property
    def scan_shape(self) -> tuple[int, ...]:
        """As the reader gives the scan."""
        return tuple(self.whole_shape[axis] for axis in self.backward)

    @property
    def slices(self) -> tuple[slice, ...]:
        """`box` as an index."""
        return tuple(slice(*ends) for ends in self.box)

    def box_of(self, scan: np.ndarray) -> np.ndarray:
        """The box as a view, in the order of the plans, of an array (..., *scan_shape)."""
        first = scan.ndim - len(self.forward)
        transposed = scan.transpose(*range(first), *(first + axis for axis in self.forward))
        index: tuple[slice, ...] = (slice(None),) * first + self.slices
        return transposed[index]


def _integers(values: Sequence[Any]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
