"""DICOM series for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def write_series(
    folder: Path,
    values: np.ndarray,
    *,
    positions: Sequence[Sequence[float]] | None = None,
    spacing: tuple[float, float] = (0.5, 0.75),
    orientation: Sequence[float] = AXIAL,
    slope: float = 1,
    intercept: float = 0,
    series: int = 1,
    description: str = "",
    ending: str = ".dcm",
) -> Path:
    """Write slices as files whose names and instance numbers say nothing about their order.

    Args:
        values: (Z, Y, X) int16; the writer stores (value - intercept) / slope as int16.
        positions: of the first pixel of each slice in mm; by default 2.5 mm apart.
        spacing: of columns and rows: X, Y.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if positions is None:
        positions = [(-10.0, 20.0, 5.0 + 2.5 * index) for index in range(len(values))]
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index in np.random.default_rng(series).permutation(len(values)):
        image = SimpleITK.GetImageFromArray(values[index][None])
        image.SetSpacing((*spacing, 1.0))
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",  # CT image
            "0008|0018": f"1.2.3.{series}.{index + 1}",
            "0008|0060": "CT",
            "0008|103e": description,
            "0020|000d": "1.2.3.100",
            "0020|000e": f"1.2.3.{series}",
            "0020|0032": "\\".join(f"{value:.6f}" for value in positions[index]),
            "0020|0037": "\\".join(f"{value:.9f}" for value in orientation),
            "0028|1052": str(intercept),
            "0028|1053": str(slope),
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        path = folder / f"{series}_{(index * 7) % 101:03d}.dcm"
        writer.SetFileName(str(path))
        writer.Execute(image)
        path.rename(path.with_suffix(ending))
    return folder
