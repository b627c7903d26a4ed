"""What every reader of images offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

Properties = dict[str, Any]
"""What is needed to write a segmentation onto the grid of a scan; ``spacing`` is in array order, in mm."""

SLICE_SPACING_FACTOR = 999
"""2D images get a first axis this many times as coarse as their pixels, as in nnU-Net."""


class ImageReader(ABC):
    """Reads and writes one family of file formats."""

    file_endings: tuple[str, ...] = ()
    """Endings that nnU-Net lets this reader handle without being asked for it by name."""

    @abstractmethod
    def read(self, path: Path) -> tuple[np.ndarray, Properties]:
        """One file as (C, X, Y, Z) in the type of the file, with its properties.

        Raises:
            FoldwiseError: the file is missing, damaged, or of a kind this reader does not know.
        """

    def read_label(self, path: Path) -> tuple[np.ndarray, Properties]:
        """A label image; as `read`, where the format makes no difference between the two."""
        return self.read(path)

    @abstractmethod
    def write_segmentation(self, segmentation: np.ndarray, path: Path, properties: Properties) -> None:
        """Write (X, Y, Z) integers to `path`, with the geometry in `properties`."""

    def companion(self, label: Path) -> Path | None:
        """The file that belongs to a label image and has to be copied along with it, or None."""
        return None

    def write_companion(self, label: Path, properties: Properties) -> None:  # noqa: B027 - most formats have none
        """Write `companion`, where there is one."""
