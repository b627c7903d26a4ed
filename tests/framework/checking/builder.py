"""A small clean dataset of two balls in noise, and tools to damage it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK

NUM_CASES = 12
LABELS = {"background": 0, "large": 1, "small": 2}
_SHAPE = (18, 20, 22)


def case_name(index: int) -> str:
    return f"case_{index:02d}"


def build(folder: Path, num_cases: int = NUM_CASES, num_channels: int = 1) -> Path:
    """Write a dataset in which nothing is wrong: `folder` must be called DatasetXXX_Name."""
    for part in "imagesTr", "labelsTr":
        (folder / part).mkdir(parents=True)
    for index in range(num_cases):
        image, labels = draw_case(index, num_channels)
        for channel, volume in enumerate(image):
            write(folder / "imagesTr" / f"{case_name(index)}_{channel:04d}.nii.gz", volume)
        write(folder / "labelsTr" / f"{case_name(index)}.nii.gz", labels)
    names = {str(channel): f"MRI{channel}" for channel in range(num_channels)}
    content = {"channel_names": names, "labels": LABELS, "numTraining": num_cases, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def draw_case(index: int, num_channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Image (C, X, Y, Z) float32 and labels (X, Y, Z) uint8; the small ball lies at higher Z than the large one."""
    random = np.random.default_rng(index)
    grid = np.indices(_SHAPE)
    labels = np.zeros(_SHAPE, np.uint8)
    for value, centre, radius in (1, (9.0, 10.0, 7.0), 5.0), (2, (9.0, 10.0, 16.0), 3.5):
        moved = np.array(centre) + random.uniform(-0.8, 0.8, 3)
        distance = np.sqrt(sum((axis - middle) ** 2 for axis, middle in zip(grid, moved)))
        labels[distance < radius + random.uniform(-0.3, 0.3)] = value
    brightness = np.array([100, 400, 700])[labels]
    image = brightness + random.normal(0, 20, (num_channels, *_SHAPE))
    return image.astype(np.float32), labels


def write(
    path: Path,
    array: np.ndarray,
    spacing: Sequence[float] = (1.0, 1.0, 1.0),
    origin: Sequence[float] | None = None,
    direction: Sequence[float] | None = None,
) -> None:
    """Write an image; spacing in array order, origin and direction in ITK's."""
    image = SimpleITK.GetImageFromArray(array, isVector=False)
    image.SetSpacing([*(float(length) for length in reversed(spacing)), 1.0][: array.ndim])
    if origin is not None:
        image.SetOrigin(origin)
    if direction is not None:
        image.SetDirection(direction)
    SimpleITK.WriteImage(image, str(path))


def image_path(folder: Path, index: int, channel: int = 0) -> Path:
    return folder / "imagesTr" / f"{case_name(index)}_{channel:04d}.nii.gz"


def label_path(folder: Path, index: int) -> Path:
    return folder / "labelsTr" / f"{case_name(index)}.nii.gz"


def change_image(folder: Path, index: int, change: Callable[[np.ndarray], np.ndarray], **geometry: Any) -> None:
    """Write the scan of a case again, its voxels changed."""
    _change(image_path(folder, index), change, **geometry)


def change_label(folder: Path, index: int, change: Callable[[np.ndarray], np.ndarray], **geometry: Any) -> None:
    _change(label_path(folder, index), change, **geometry)


def change_both(folder: Path, index: int, change: Callable[[np.ndarray], np.ndarray], **geometry: Any) -> None:
    change_image(folder, index, change, **geometry)
    change_label(folder, index, change, **geometry)


def change_json(folder: Path, **keys: Any) -> None:
    """Set keys of dataset.json; None removes one."""
    path = folder / "dataset.json"
    content = {**json.loads(path.read_text()), **keys}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def _change(path: Path, change: Callable[[np.ndarray], np.ndarray], **geometry: Any) -> None:
    write(path, change(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))), **geometry)
