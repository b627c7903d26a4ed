"""Small raw datasets for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK


def write_raw_dataset(
    folder: Path,
    cases: Mapping[str, tuple[np.ndarray, np.ndarray]],
    labels: Mapping[str, Any] | None = None,
    spacings: Mapping[str, tuple[float, float, float]] | None = None,
    channel_names: tuple[str, ...] = (),
    **more: Any,
) -> Path:
    """Write nnU-Net's raw layout.

    Args:
        cases: name -> image (C, X, Y, Z) and labels (X, Y, Z).
        spacings: mm in array order; 1 mm for cases that are not named.
        more: further keys of dataset.json.
    """
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    num_channels = 0
    for case, (image, segmentation) in cases.items():
        spacing = (spacings or {}).get(case, (1.0, 1.0, 1.0))
        num_channels = len(image)
        for channel, volume in enumerate(image):
            _write(volume.astype(np.float32), spacing, folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz")
        _write(segmentation.astype(np.uint8), spacing, folder / "labelsTr" / f"{case}.nii.gz")
    names = channel_names or tuple(f"MRI{channel}" for channel in range(num_channels))
    dataset_json = {
        "channel_names": {str(index): name for index, name in enumerate(names)},
        "labels": dict(labels or {"background": 0, "thing": 1}),
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        **more,
    }
    (folder / "dataset.json").write_text(json.dumps(dataset_json))
    return folder


def _write(array: np.ndarray, spacing: tuple[float, float, float], path: Path) -> None:
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(tuple(reversed(spacing)))
    SimpleITK.WriteImage(image, str(path))
